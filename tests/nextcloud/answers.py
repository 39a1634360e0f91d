"""What goes back to a client: an answer, or a refusal in the words of sabre/dav."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

HTML = "text/html; charset=UTF-8"
XML = "application/xml; charset=utf-8"


def decoded(path: str) -> str:
    """Return the path of an address as sabre reads it: what is no UTF-8 as Latin-1."""
    data = unquote_to_bytes(path)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


@dataclass(frozen=True)
class Slice:
    """A part of an open file, which is closed once it is sent."""

    descriptor: int
    start: int
    size_bytes: int


@dataclass
class Answer:
    """One answer. A body that is an iterator goes out in chunks, as its length is not known."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Slice | Iterator[bytes] = b""


class TornError(Exception):
    """The rest of this answer does not come, and neither does its end."""


class RefusalError(Exception):
    """An exception of sabre/dav: a status, the name of a class in PHP, and what it says."""

    def __init__(
        self, status: int, kind: str, message: str = "", *, more: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body = error_body(kind, message, more)

    def answer(self) -> Answer:
        """Return it as it is sent."""
        return Answer(self.status, {**self.headers, "Content-Type": XML}, self.body)


def created(**headers: str) -> Answer:
    """Return the answer for what is new; PHP adds its own Content-Type to it."""
    return Answer(201, {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": HTML})


def bad_request(message: str) -> RefusalError:
    """Return a 400."""
    return RefusalError(400, r"Sabre\DAV\Exception\BadRequest", message)


def forbidden(message: str = "") -> RefusalError:
    """Return a 403."""
    return RefusalError(403, r"Sabre\DAV\Exception\Forbidden", message)


def not_found(path: str) -> RefusalError:
    """Return a 404 for a path that starts with a slash."""
    return RefusalError(404, r"Sabre\DAV\Exception\NotFound", f"File with name {path} could not be located")


def conflict(message: str) -> RefusalError:
    """Return a 409."""
    return RefusalError(409, r"Sabre\DAV\Exception\Conflict", message)


def not_implemented(method: str) -> RefusalError:
    """Return a 501."""
    message = f"There was no plugin in the system that was willing to handle this {method} method."
    return RefusalError(501, r"Sabre\DAV\Exception\NotImplemented", message)


def precondition_failed(message: str, header: str, **headers: str) -> RefusalError:
    """Return a 412, which names the header that asked for it."""
    more = f"\n  <s:header>{header}</s:header>"
    return RefusalError(412, r"Sabre\DAV\Exception\PreconditionFailed", message, more=more, headers=headers)


def insufficient_storage(message: str) -> RefusalError:
    """Return a 507."""
    return RefusalError(507, r"Sabre\DAV\Exception\InsufficientStorage", message)


def error_body(kind: str, message: str, more: str = "") -> bytes:
    """Return the XML of an exception; ``more`` are lines after its message."""
    said = f"<s:message>{escape(message)}</s:message>" if message else "<s:message/>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<d:error xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns">\n'
        f"  <s:exception>{kind}</s:exception>\n  {said}{more}\n</d:error>\n"
    ).encode()
