"""A request for bytes, and the head of its answer, which is given out only once the body is complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ai4os_data.http.answers import compression, plain_etag
from ai4os_data.http.bodies import Body, MemoryBody, Source

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True, eq=False)
class Request:
    """One request.

    Args:
        url: percent-encoded, as it goes on the wire.
        body: takes the answer's bytes.
        method: ``"GET"``, ``"HEAD"`` or ``"PUT"``.
        start: the first byte that is wanted.
        stop: the byte after the last one that is wanted.
        expected_bytes: the size that was listed; it sets the deadline.
        headers: further header lines.
        source: what a PUT sends.
        is_archive: whether the answer holds many files: it is counted so, and ends with what has come of it if it
            breaks off, which the body keeps.
        streams: whether `PART` is given out for it whenever something of its body may have come, so that the caller
            may take that out.
        repeats: whether it is sent again after a try that may have succeeded all the same, such as one whose answer
            was lost; if not, the caller looks first.
        asks_first: whether a PUT sends its body only when the server has seen the head, and not refused it.
        tag: for the caller's own use.

    Attributes:
        fails_alone: whether it failed as it does if the server is away, while the server answered others.
        was_let: whether the server has asked for the body of a PUT that asks first (``100 Continue``).
    """

    url: str
    body: Body = field(default_factory=MemoryBody)
    method: str = "GET"
    start: int | None = None
    stop: int | None = None
    expected_bytes: int | None = None
    headers: tuple[str, ...] = ()
    source: Source | None = None
    is_archive: bool = False
    streams: bool = False
    repeats: bool = True
    asks_first: bool = False
    tag: object = None
    fails_alone: bool = field(default=False, init=False)
    was_let: bool = field(default=False, init=False)


@dataclass(slots=True)
class Response:
    """The head of an answer whose body is complete.

    Attributes:
        status: 200, 201, 204 or 206.
        headers: their names in lower case.
        total_bytes: the size of the whole file, if the server gave it.
        received_bytes: how many bytes the body took.
        is_foreign: whether another host answered, to which the server had redirected: its ETags are its own.
    """

    status: int
    headers: Mapping[str, str]
    total_bytes: int | None = None
    received_bytes: int = 0
    is_foreign: bool = False

    @property
    def etag(self) -> str | None:
        """The ETag, without quotes and ``W/``."""
        return plain_etag(self.headers.get("etag"))

    @property
    def compression(self) -> str | None:
        """The compression that the head names; only the number of bytes shows whether the server compressed them."""
        return compression(self.headers)


PART = Response(0, {})
"""What stands for the head of an answer whose body is not complete yet."""
