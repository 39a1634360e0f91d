"""A multistatus (RFC 4918, 13) read straight from expat: no tree, since listings of 20,000 files are 6 MB long."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESPONSE, _HREF, _PROPSTAT, _STATUS = "DAV: response", "DAV: href", "DAV: propstat", "DAV: status"
_COLLECTION, _MULTISTATUS, _ERROR = "DAV: collection", "DAV: multistatus", "DAV: error"
_EXCEPTION, _MESSAGE = "http://sabredav.org/ns exception", "http://sabredav.org/ns message"
_AFTER_HREF = frozenset({_STATUS, _ERROR, "DAV: location", "DAV: responsedescription"})
_PROPERTIES = {"DAV: getcontentlength": 0, "DAV: getetag": 1, "DAV: getlastmodified": 2}
_ENCODINGS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "utf-16"})
_ERROR_BEGIN = re.compile(rb"<(?:[\w.-]+:)?error[\s>]")
_SOME_RESPONSE = re.compile(rb"<(?:[\w.-]+:)?response[\s>]")
_LONGEST_ERROR_BYTES = 64 * 1024
_SAID = 200  # characters of what the server says
_GONE = frozenset({404, 410})
_CODE = re.compile(r"\b([1-5][0-9][0-9])\b")

# The classes of sabre/dav and of Nextcloud, without their namespaces, and the status that each would have had.
_STATUS_OF_EXCEPTION = {
    "BadRequest": 400,
    "InvalidPath": 400,
    "NotAuthenticated": 401,
    "PasswordLoginForbidden": 401,
    "PaymentRequired": 402,
    "Forbidden": 403,
    "ForbiddenException": 403,
    "NotPermittedException": 403,
    "InvalidResourceType": 403,
    "InvalidSyncToken": 403,
    "NotFound": 404,
    "NotFoundException": 404,
    "MethodNotAllowed": 405,
    "Conflict": 409,
    "LockTokenMatchesRequestUri": 409,
    "LengthRequired": 411,
    "PreconditionFailed": 412,
    "EntityTooLarge": 413,
    "UnsupportedMediaType": 415,
    "ReportNotSupported": 415,
    "RequestedRangeNotSatisfiable": 416,
    "Locked": 423,
    "ConflictingLock": 423,
    "FileLocked": 423,
    "LockedException": 423,
    "TooManyRequests": 429,
    "NotImplemented": 501,
    "BadGateway": 502,
    "ServiceUnavailable": 503,
    "ServerMaintenanceMode": 503,
    "StorageNotAvailableException": 503,
    "StorageTimeoutException": 503,
    "InsufficientStorage": 507,
    "TooManyMatches": 507,
    "NotEnoughSpaceException": 507,
}


class NotMultistatusError(ValueError):
    """An answer is no multistatus, or not a whole one."""


class RefusedError(Exception):
    """What came is no listing, but an error of the server under the status of a success.

    Nextcloud 33.0.7 to 34 begins the answer to a PROPFIND at ``/remote.php/webdav`` before it knows whether there is
    anything to tell: a missing path is a 207 with a ``d:error``, and with the torn begin of a multistatus.

    Attributes:
        status: the status that the answer should have had.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class Resource(NamedTuple):
    """What a server tells of one file or folder.

    Attributes:
        href: its address, percent-encoded, as the server spells it.
        is_known: whether the server gave any of the properties; otherwise only ``status`` means something.
        is_folder: whether it is a collection.
        size: ``getcontentlength``, as it came.
        etag: ``getetag``, as it came.
        modified: ``getlastmodified``, as it came.
        status: of the resource itself, or of the properties that did not come; None where nothing says one.
        is_gone: whether it is the resource itself that is not there any more.
    """

    href: str
    is_known: bool
    is_folder: bool
    size: str | None
    etag: str | None
    modified: str | None
    status: int | None = None
    is_gone: bool = False


Resources = list[Resource]


def resources(xml: bytes) -> Resources:
    """The resources of a multistatus, with the properties that came with status 200.

    Raises:
        NotMultistatusError: it is something else, ends before its end, or has not even the resource that was asked for.
        RefusedError: it is an error of the server.
    """
    reader = _Reader()
    xml = xml.lstrip()  # a blank line before PHP's first mark goes before every answer
    try:
        _parse(reader.parser, xml)
        if not reader.found:
            raise NotMultistatusError("a multistatus of nothing")
    except NotMultistatusError:
        refused = _refusal(xml)
        if refused is None:
            raise
        raise refused from None
    return reader.found


def properties(xml: bytes, names: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The address of each resource of a multistatus, and the text of those properties that came with status 200.

    Args:
        xml: the multistatus.
        names: of properties, each with its namespace and a space before it.

    Raises:
        NotMultistatusError: it is something else, or ends before its end.
    """
    reader = _PropertyReader(frozenset(names))
    _parse(reader.parser, xml.lstrip())
    return reader.found


class _PropertyReader:
    """Reads some properties of each resource."""

    def __init__(self, names: frozenset[str]) -> None:
        self.parser = _new_parser()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._take
        self.found: list[tuple[str, dict[str, str]]] = []
        self._names = names
        self._text = self._href = ""
        self._status = ""
        self._some: dict[str, str] = {}
        self._good: dict[str, str] = {}
        self._is_inside = False

    def _start(self, name: str, _attributes: object) -> None:
        self._text = ""
        if not self._is_inside and name != _MULTISTATUS:
            raise NotMultistatusError(f"a {name.rpartition(' ')[2]} element instead of a multistatus")
        self._is_inside = True
        if name == _RESPONSE:
            self._href, self._good = "", {}
        elif name == _PROPSTAT:
            self._some, self._status = {}, ""

    def _take(self, text: str) -> None:
        self._text += text

    def _end(self, name: str) -> None:
        if name == _HREF:
            self._href = self._href or self._text.strip()
        elif name in self._names:
            self._some[name] = self._text
        elif name == _STATUS:
            self._status = self._text
        elif name == _PROPSTAT:
            self._good |= self._some if " 200" in self._status else {}
        elif name == _RESPONSE:
            self.found.append((self._href, self._good))


def _parse(parser: expat.XMLParserType, xml: bytes) -> None:
    try:
        parser.Parse(xml, True)  # noqa: FBT003  pyexpat takes no keywords
    except expat.ExpatError as error:
        raise NotMultistatusError(str(error)) from error


def _new_parser() -> expat.XMLParserType:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.XmlDeclHandler = _refuse_encoding
    return parser


def _refuse_doctype(*_: object) -> None:
    raise NotMultistatusError("a document type, which no multistatus has")


def _refuse_encoding(_version: str, encoding: str | None, _standalone: int) -> None:
    """Refuse what expat would ask Python's codecs for, which raise errors of their own."""
    if encoding is not None and encoding.lower() not in _ENCODINGS:
        raise NotMultistatusError(f"the encoding {encoding!r}")


def _refusal(xml: bytes) -> RefusedError | None:
    """The error of the server in what is no whole multistatus, wherever it begins."""
    for match in _ERROR_BEGIN.finditer(xml):
        reader = _ErrorReader()
        with suppress(NotMultistatusError):  # something of the torn multistatus may follow
            _parse(reader.parser, xml[match.start() : match.start() + _LONGEST_ERROR_BYTES])
        if not reader.is_whole:
            continue
        kind = reader.exception.rpartition("\\")[2]
        status = _STATUS_OF_EXCEPTION.get(kind, 500)
        if status == 404 and _SOME_RESPONSE.search(xml) is not None:
            continue  # something below is missing, not what was asked for: this is a listing that broke off
        return RefusedError(status, f"{kind}: {reader.message[:_SAID]}" if reader.message else kind)
    return None


class _ErrorReader:
    """Reads ``d:error`` (sabre/dav), from its begin to its end."""

    def __init__(self) -> None:
        self.parser = _new_parser()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._take
        self.exception = ""
        self.message = ""
        self._has_ended = False
        self._text = ""

    @property
    def is_whole(self) -> bool:
        """Whether it was an error that names its exception."""
        return self._has_ended and self.exception != ""

    def _start(self, _name: str, _attributes: object) -> None:
        self._text = ""

    def _take(self, text: str) -> None:
        self._text += text

    def _end(self, name: str) -> None:
        if name == _EXCEPTION:
            self.exception = self._text.strip()
        elif name == _MESSAGE:
            self.message = self._text.strip()
        elif name == _ERROR:
            self._has_ended = True


class _Reader:
    """The handlers of one parse."""

    def __init__(self) -> None:
        self.found: list[Resource] = []
        self.parser = _new_parser()
        self.parser.StartElementHandler = self._root

    def _root(self, name: str, _attributes: object) -> None:
        if name != _MULTISTATUS:
            raise NotMultistatusError(f"a {name.rpartition(' ')[2]} element instead of a multistatus")
        self._handle_the_rest()

    def _handle_the_rest(self) -> None:  # noqa: C901  one automaton, in three small handlers
        """Set the handlers; they share local variables, which is what makes them fast."""
        parser, found = self.parser, self.found
        text: list[str] = []
        take = text.append
        values: list[str | None] = [None, None, None]
        hrefs: list[str] = []
        status = ""
        own_status: int | None = None
        is_folder = in_propstat = takes_href = is_gone = False
        good = _NOTHING

        def start(name: str, _attributes: object) -> None:
            nonlocal hrefs, status, own_status, is_folder, in_propstat, takes_href, is_gone, good, values
            text.clear()
            if in_propstat:  # most elements are properties
                if name == _COLLECTION:
                    is_folder = True
            elif name == _PROPSTAT:
                in_propstat, is_folder, status, values = True, False, "", [None, None, None]
                takes_href = False
            elif name == _RESPONSE:
                hrefs, good, own_status, is_gone, takes_href = [], _NOTHING, None, False, True
            elif name in _AFTER_HREF:  # what has hrefs in it that are other resources'
                takes_href = False

        def end(name: str) -> None:
            nonlocal status, own_status, in_propstat, is_gone, good
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
                    else:
                        own_status = own_status or _code(status)
            elif name == _HREF:
                if takes_href:
                    hrefs.append("".join(text).strip())
            elif name == _STATUS:
                own_status = _code("".join(text))
                is_gone = own_status in _GONE
            elif name == _RESPONSE:
                found.extend(_told(hrefs, good, own_status, is_gone=is_gone))

        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = take


_Properties = tuple[bool, bool, str | None, str | None, str | None]
_NOTHING: _Properties = (False, False, None, None, None)


def _told(hrefs: list[str], good: _Properties, status: int | None, *, is_gone: bool) -> Resources:
    """What one response tells."""
    if not hrefs:
        raise NotMultistatusError("a response that does not say of what")
    return [Resource(href, *good, status, is_gone) for href in hrefs]


def _code(line: str) -> int | None:
    """The number in a status line."""
    match = _CODE.search(line)
    return int(match[1]) if match is not None else None
