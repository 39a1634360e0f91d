"""One request on its way: the bytes that have come are of one version, and are resumed or started over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from ai4os_data.http import redirects
from ai4os_data.http.answers import content_range, parse_head
from ai4os_data.http.bodies import MemoryBody
from ai4os_data.http.policy import RequestTries
from ai4os_data.http.retries import LOCKED_TRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ai4os_data.http.bodies import SourceReader
    from ai4os_data.http.policy import CallPolicy
    from ai4os_data.http.requests import Request
    from ai4os_data.locations import Remote

T = TypeVar("T")
R = TypeVar("R")


class Transfer:
    """A request, its tries, and its bytes.

    Args:
        request: what is asked for.
        policy: that of the call.
        probes_s: the deadline if only an answer at all is of interest.

    Attributes:
        url: what is asked now; another one than the request's after a redirect.
        offset: the byte of the file that the next try resumes from.
        resumed: whether this try resumes from there.
    """

    def __init__(self, request: Request, policy: CallPolicy, *, probes_s: float | None = None) -> None:
        is_read = request.method == "GET"
        self.request = request
        self.policy = policy
        self.body = request.body
        self.is_probe = probes_s is not None
        self.tries = RequestTries(
            policy,
            most_locked=1 if request.is_archive else LOCKED_TRIES,
            size_bytes=request.expected_bytes,
            waits=is_read,
            repeats=request.repeats,
        )
        if probes_s is not None:
            self.tries.deadline = time.monotonic() + probes_s
        self.offset = 0
        self.resumed = False
        self.etag: str | None = None
        self._reader: SourceReader | None = None
        self._raised: BaseException | None = None  # by what takes or gives the bytes
        self.head_lines: list[bytes] = []
        self._judged = self._is_redirect = False
        self._first = b""
        self._length_before = 0
        self.start_over()

    @property
    def what(self) -> str:
        """What messages call it."""
        moved = f" (redirected to {redirects.shown(self.url)})" if self.hops else ""
        return f"{self.request.method} {self.request.url}{moved}"

    def start_over(self) -> None:
        """Ask the server itself again: its redirect may be out of date."""
        self.url = self.request.url
        self.hops = 0
        self.tries.is_foreign = False

    def restart(self) -> None:
        """Forget what came so far."""
        self.offset = 0
        self.body.restart()

    # --- a try

    def begin(self, remote: Remote) -> None:
        """Forget the last try, keep what can be continued; the next one is sent with the credentials of a remote."""
        self.head_lines = []
        self._judged = self._is_redirect = False
        self._first = b""
        self.resumed = self.offset > 0
        if not self.resumed:
            self.body.restart()
        self.tries.begin(remote)
        self._length_before = self.body.length

    def end(self) -> None:
        """Close the file that this try sent."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def raise_again(self) -> None:
        """Raise what a callback raised."""
        raised, self._raised = self._raised, None
        try:
            if raised is not None:
                raise raised
        finally:
            del raised  # an error that its own traceback refers to would keep the connections open

    @property
    def has_heard(self) -> bool:
        """Whether this try has brought bytes of the file."""
        return self._judged or self.body.length > self._length_before

    @property
    def said(self) -> bytes:
        """The beginning of the page that came with an error."""
        return b"".join(self.body.chunks[:1]) if type(self.body) is MemoryBody else self._first

    @property
    def is_answered(self) -> bool:
        """Whether it has brought bytes of its file from our own server."""
        return not self.tries.is_foreign and self.has_heard and parse_head(self.head_lines)[0] in {200, 206}

    def range_headers(self) -> list[bytes]:
        """The lines that ask for a range, if this try does."""
        start, stop = self.request.start, self.request.stop
        if start is None and not self.offset:
            return []
        line = f"Range: bytes={(start or 0) + self.offset}-{'' if stop is None else stop - 1}".encode()
        return [line, f"If-Range: {self.etag}".encode("latin-1")] if self.resumed else [line]

    def writer(self) -> Callable[[bytes], int | None]:
        """Takes the pieces of this try's body."""
        if self.request.start is None and not self.resumed and type(self.body) is MemoryBody:
            return self.body.chunks.append  # the usual case, without a Python frame for each piece
        return self._guarded(self._write, failed=0)

    def reader(self, aborts: int) -> Callable[[int], bytes | int]:
        """Gives the pieces that this try sends; ``aborts`` if they cannot be read."""
        assert self.request.source is not None
        self._reader = self.request.source.open()
        return self._guarded(self._reader.read, failed=aborts)

    def _guarded(self, callback: Callable[[T], R], failed: int) -> Callable[[T], R | int]:
        """The same callback for curl, which prints what one raises and calls it a broken connection."""

        def call(argument: T) -> R | int:
            try:
                return callback(argument)
            except BaseException as error:  # noqa: BLE001  it is raised when curl is left
                self._raised = error
                return failed

        return call

    def _write(self, chunk: bytes) -> int | None:
        if not self._judged:
            self._judged = True
            status, headers = parse_head(self.head_lines)
            self._first = chunk if status >= 400 else b""
            self._is_redirect = status in redirects.STATUSES
            if status == 206:
                if not self.continues(headers):
                    return 0
            elif not self._is_redirect:
                self.restart()
                self.resumed = False
        if self._is_redirect:  # the page that comes with it is not the file
            return None
        if self.request.start is None:
            self.body.write(chunk)
            return None
        return None if self._from_wanted_start(chunk) else 0

    def continues(self, headers: Mapping[str, str]) -> bool:
        """Whether a partial answer begins where it was asked to, in the version that the first part is of."""
        served = content_range(headers)
        if served is None or served[0] != (self.request.start or 0) + self.offset:
            return False
        # A server may send 206 whatever If-Range says; RFC 9110, 15.3.7, has it give the ETag.
        if self.resumed:
            return headers.get("etag") == self.etag
        return self.request.start is not None or served[1] is not None  # all of it, as a part

    def _from_wanted_start(self, chunk: bytes) -> bool:
        """Cut the wanted range out of what comes; False when it is complete."""
        status, _ = parse_head(self.head_lines)
        if status != 200:
            self.body.write(chunk)
            return True
        begin, self.offset = self.offset, self.offset + len(chunk)  # a server that ignores Range sends all
        start, stop = self.request.start or 0, self.request.stop
        piece = chunk[max(0, start - begin) : None if stop is None else max(0, stop - begin)]
        if piece:
            self.body.write(piece)
        return stop is None or self.offset < stop
