"""A multistatus (RFC 4918, 13) read straight from expat: no tree, since listings of 20,000 files are 6 MB long."""

from __future__ import annotations

from typing import NamedTuple
from xml.parsers import expat

_RESPONSE, _HREF, _PROPSTAT, _STATUS = "DAV: response", "DAV: href", "DAV: propstat", "DAV: status"
_COLLECTION, _MULTISTATUS = "DAV: collection", "DAV: multistatus"
_PROPERTIES = {"DAV: getcontentlength": 0, "DAV: getetag": 1, "DAV: getlastmodified": 2}


class NotMultistatusError(ValueError):
    """An answer is no multistatus, or not a whole one."""


class Resource(NamedTuple):
    """What a server tells of one file or folder.

    Attributes:
        href: its address, percent-encoded, as the server spells it.
        is_known: whether the server gave any of the properties; the rest means nothing otherwise.
        is_folder: whether it is a collection.
        size: ``getcontentlength``, as it came.
        etag: ``getetag``, as it came.
        modified: ``getlastmodified``, as it came.
    """

    href: str
    is_known: bool
    is_folder: bool
    size: str | None
    etag: str | None
    modified: str | None


def resources(xml: bytes) -> list[Resource]:
    """The resources of a multistatus, with the properties that came with status 200.

    Raises:
        NotMultistatusError: it is something else, ends before its end, or has not even the resource that was asked for.
    """
    reader = _Reader()
    try:
        reader.parser.Parse(xml, True)  # noqa: FBT003  pyexpat takes no keywords
    except expat.ExpatError as error:
        raise NotMultistatusError(str(error)) from error
    if not reader.found:
        raise NotMultistatusError("a multistatus of nothing")
    return reader.found


class _Reader:
    """The handlers of one parse."""

    def __init__(self) -> None:
        self.found: list[Resource] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._root
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype

    def _root(self, name: str, _attributes: object) -> None:
        if name != _MULTISTATUS:
            raise NotMultistatusError(f"a {name.rpartition(' ')[2]} element instead of a multistatus")
        self._handle_the_rest()

    def _refuse_doctype(self, *_: object) -> None:
        raise NotMultistatusError("a document type, which no multistatus has")

    def _handle_the_rest(self) -> None:  # noqa: C901  one automaton, in three small handlers
        """Set the handlers; they share local variables, which is what makes them fast."""
        parser, found = self.parser, self.found
        text: list[str] = []
        take = text.append
        values: list[str | None] = [None, None, None]
        href: str | None = None
        status = ""
        is_folder = in_propstat = False
        good = _NOTHING

        def start(name: str, _attributes: object) -> None:
            nonlocal href, status, is_folder, in_propstat, good, values
            text.clear()
            if name == _PROPSTAT:
                in_propstat, is_folder, status, values = True, False, "", [None, None, None]
            elif name == _COLLECTION:
                is_folder = in_propstat
            elif name == _RESPONSE:
                href, good = None, _NOTHING

        def end(name: str) -> None:
            nonlocal href, status, in_propstat, good
            if in_propstat:
                place = _PROPERTIES.get(name)
                if place is not None:
                    values[place] = "".join(text)
                elif name == _STATUS:
                    status = "".join(text)
                elif name == _PROPSTAT:
                    in_propstat = False
                    if " 200" in status:
                        good = (True, is_folder, values[0], values[1], values[2])
            elif name == _HREF:
                href = "".join(text).strip()
            elif name == _RESPONSE and href is not None:
                found.append(Resource(href, *good))

        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = take


_NOTHING: tuple[bool, bool, str | None, str | None, str | None] = (False, False, None, None, None)
