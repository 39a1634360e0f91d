"""A multistatus (RFC 4918, 13) read straight from expat: no tree, since listings of 20,000 files are 6 MB long."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_RESPONSE, _HREF, _PROPSTAT, _STATUS = "DAV: response", "DAV: href", "DAV: propstat", "DAV: status"
_COLLECTION, _MULTISTATUS, _ERROR = "DAV: collection", "DAV: multistatus", "DAV: error"
_EXCEPTION, _MESSAGE = "http://sabredav.org/ns exception", "http://sabredav.org/ns message"
_AFTER_HREF = frozenset({_STATUS, _ERROR, "DAV: location", "DAV: responsedescription"})
_PROPERTIES = ("DAV: getcontentlength", "DAV: getetag", "DAV: getlastmodified")
_ENCODINGS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "utf-16"})
_ERROR_BEGIN = re.compile(rb"<(?:[\w.-]+:)?error[\s>]")
_SOME_RESPONSE = re.compile(rb"<(?:[\w.-]+:)?response[\s>]")
_LONGEST_ERROR_BYTES = 64 * 1024
_SAID = 200  # characters of what the server says
_GONE = frozenset({404, 410})
_CODE = re.compile(r"\b([1-5][0-9][0-9])\b")

# The classes of sabre/dav and of Nextcloud, without their namespaces, and the status that each would have had.
_EXCEPTIONS = {
    400: ("BadRequest", "InvalidPath"),
    401: ("NotAuthenticated", "PasswordLoginForbidden"),
    402: ("PaymentRequired",),
    403: ("Forbidden", "ForbiddenException", "NotPermittedException", "InvalidResourceType", "InvalidSyncToken"),
    404: ("NotFound", "NotFoundException"),
    405: ("MethodNotAllowed",),
    409: ("Conflict", "LockTokenMatchesRequestUri"),
    411: ("LengthRequired",),
    412: ("PreconditionFailed",),
    413: ("EntityTooLarge",),
    415: ("UnsupportedMediaType", "ReportNotSupported"),
    416: ("RequestedRangeNotSatisfiable",),
    423: ("Locked", "ConflictingLock", "FileLocked", "LockedException"),
    429: ("TooManyRequests",),
    501: ("NotImplemented",),
    502: ("BadGateway",),
    503: ("ServiceUnavailable", "ServerMaintenanceMode", "StorageNotAvailableException", "StorageTimeoutException"),
    507: ("InsufficientStorage", "TooManyMatches", "NotEnoughSpaceException"),
}
_STATUS_OF_EXCEPTION = {name: status for status, names in _EXCEPTIONS.items() for name in names}


class NotMultistatusError(ValueError):
    """An answer is no multistatus, or not a whole one."""


class RefusedError(Exception):
    """What came is no listing, but an error of the server under the status of a success.

    Nextcloud 33.0.7 to 34 begins to answer a PROPFIND at ``/remote.php/webdav`` before it knows whether the path
    exists: the answer for a missing path is a 207 with the torn beginning of a multistatus, and a ``d:error``.

    Attributes:
        status: the status that the answer should have had.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class Resource(NamedTuple):
    """What a server says about one file or folder.

    Attributes:
        href: its address, percent-encoded, as the server spells it.
        is_known: whether the server gave any of the properties; otherwise only ``status`` means something.
        is_folder: whether it is a collection.
        size: ``getcontentlength``, as it came.
        etag: ``getetag``, as it came.
        modified: ``getlastmodified``, as it came.
        status: of the resource itself, or of the properties that did not come; None if there is none.
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
        NotMultistatusError: it is something else, is cut off, or lacks even the resource that was asked for.
        RefusedError: it is an error of the server.
    """
    xml = xml.lstrip()  # a blank line before `<?php` in the server's configuration precedes every answer
    try:
        found = _read(xml, _PROPERTIES, Resource)
        if not found:
            raise NotMultistatusError("a multistatus of nothing")
    except NotMultistatusError:
        refused = _refusal(xml)
        if refused is None:
            raise
        raise refused from None
    return found


def properties(xml: bytes, names: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The address of each resource of a multistatus, and the text of those properties that came with status 200.

    Args:
        xml: the multistatus.
        names: of properties, each with its namespace and a space before it.

    Raises:
        NotMultistatusError: it is something else, or is cut off.
    """

    def named(href: str, _is_known: bool, _is_folder: bool, *rest: Any) -> tuple[str, dict[str, str]]:  # noqa: FBT001
        return href, {name: text for name, text in zip(names, rest, strict=False) if text is not None}

    return _read(xml.lstrip(), names, named)


def _parse(parser: expat.XMLParserType, xml: bytes) -> None:
    try:
        parser.Parse(xml, True)  # noqa: FBT003  pyexpat takes no keywords
    except expat.ExpatError as error:
        raise NotMultistatusError(str(error)) from error


def _new_parser(
    start: Callable[[str, object], None], end: Callable[[str], None], take: Callable[[str], object]
) -> expat.XMLParserType:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, take
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.XmlDeclHandler = _refuse_encoding
    return parser


def _refuse_doctype(*_: object) -> None:
    raise NotMultistatusError("a document type, which no multistatus has")


def _refuse_encoding(_version: str, encoding: str | None, _standalone: int) -> None:
    """Refuse an encoding that expat would look up in Python's codecs, which raise errors of their own."""
    if encoding is not None and encoding.lower() not in _ENCODINGS:
        raise NotMultistatusError(f"the encoding {encoding!r}")


def _refusal(xml: bytes) -> RefusedError | None:
    """The server's error in an answer that is no whole multistatus, wherever it begins."""
    for match in _ERROR_BEGIN.finditer(xml):
        texts = _texts(xml[match.start() : match.start() + _LONGEST_ERROR_BYTES])
        if _ERROR not in texts or not texts.get(_EXCEPTION):
            continue
        kind = texts[_EXCEPTION].rpartition("\\")[2]
        status = _STATUS_OF_EXCEPTION.get(kind, 500)
        if status == 404 and _SOME_RESPONSE.search(xml) is not None:
            continue  # a file below is missing, not what was asked for: the listing broke off
        message = texts.get(_MESSAGE, "")[:_SAID]
        return RefusedError(status, f"{kind}: {message}" if message else kind)
    return None


def _texts(xml: bytes) -> dict[str, str]:
    """The text of each complete element of an XML that may be cut off."""
    text: list[str] = []
    texts: dict[str, str] = {}

    def end(name: str) -> None:
        texts[name] = "".join(text).strip()

    with suppress(NotMultistatusError):  # something of the torn multistatus may follow
        _parse(_new_parser(lambda *_: text.clear(), end, text.append), xml)
    return texts


def _read(xml: bytes, names: Sequence[str], make: Callable[..., T]) -> list[T]:  # noqa: C901, PLR0915
    """What `make` returns for each resource of a multistatus, from the fields of `Resource` with these properties.

    It is one automaton, in three small handlers; they share local variables, which is what makes them fast.
    """
    columns = {name: column for column, name in enumerate(names)}
    nothing: tuple[Any, ...] = (False, False, *[None] * len(names))
    found: list[T] = []
    text: list[str] = []
    values: list[str | None] = []
    hrefs: list[str] = []
    status = ""
    own_status: int | None = None
    is_folder = in_propstat = takes_href = is_gone = False
    good = nothing

    def root(name: str, _attributes: object) -> None:
        if name != _MULTISTATUS:
            raise NotMultistatusError(f"a {name.rpartition(' ')[2]} element instead of a multistatus")
        parser.StartElementHandler = start

    def start(name: str, _attributes: object) -> None:
        nonlocal hrefs, status, own_status, is_folder, in_propstat, takes_href, is_gone, good, values
        text.clear()
        if in_propstat:  # most elements are properties
            if name == _COLLECTION:
                is_folder = True
        elif name == _PROPSTAT:
            in_propstat, is_folder, status, values = True, False, "", [None] * len(columns)
            takes_href = False
        elif name == _RESPONSE:
            hrefs, good, own_status, is_gone, takes_href = [], nothing, None, False, True
        elif name in _AFTER_HREF:  # these elements hold hrefs of other resources
            takes_href = False

    def end(name: str) -> None:
        nonlocal status, own_status, in_propstat, is_gone, good
        if in_propstat:
            column = columns.get(name)
            if column is not None:
                values[column] = "".join(text)
            elif name == _STATUS:
                status = "".join(text)
            elif name == _PROPSTAT:
                in_propstat = False
                if " 200" in status:
                    good = (True, is_folder, *values)
                else:
                    own_status = own_status or _code(status)
        elif name == _HREF:
            if takes_href:
                hrefs.append("".join(text).strip())
        elif name == _STATUS:
            own_status = _code("".join(text))
            is_gone = own_status in _GONE
        elif name == _RESPONSE:
            found.extend([make(href, *good, own_status, is_gone) for href in _named(hrefs)])

    parser = _new_parser(root, end, text.append)
    _parse(parser, xml)
    return found


def _named(hrefs: list[str]) -> list[str]:
    """The addresses of a response, at least one."""
    if not hrefs:
        raise NotMultistatusError("a response that does not say of what")
    return hrefs


def _code(line: str) -> int | None:
    """The number in a status line."""
    match = _CODE.search(line)
    return int(match[1]) if match is not None else None
