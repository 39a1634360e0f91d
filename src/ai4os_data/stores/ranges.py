"""A large file is downloaded in several ranges at a time, all of one version; what has come need not come again."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import NoBody, Request, Response, write_all_at

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from io import FileIO

    from ai4os_data.http import Transport
    from ai4os_data.stores.base import Entry

RANGE_BYTES = 8 * 1024 * 1024
IN_FLIGHT = 4
_PIECE_BYTES = 1024 * 1024


def read_ranges(
    transport: Transport,
    url: str,
    entry: Entry,
    file: FileIO,
    *,
    came: Callable[[int, int], object],
    there: Container[int] = (),
) -> bool:
    """Fill a file with the version that an entry names, by ranges of `RANGE_BYTES`.

    Args:
        transport: sends the requests.
        url: of the file.
        entry: the version; without a strong ETag none can be distinguished.
        file: open for reading and writing; empty, or with ranges of the same version.
        came: called with the first byte of a range that has come whole, and the one after its last.
        there: the first bytes of the ranges that the file has already.

    Returns:
        Whether it has all of it. If not, the file is empty: it is small, or has no strong ETag, or the server has
        another version by now or ignores ranges.

    Raises:
        StorageError: it cannot be read; the ranges that have come stay.
        OSError: the local disk cannot take it.
    """
    if entry.etag is None or entry.size_bytes < 2 * RANGE_BYTES:
        file.truncate(0)
        return False
    etag = f'"{entry.etag}"'
    with closing(transport.fetch(_requests(url, entry, etag, file, there), IN_FLIGHT)) as answers:
        for request, outcome in answers:
            body = request.body
            assert isinstance(body, _RangeBody)
            if isinstance(outcome, errors.ChangedError) or not _is_part_of(outcome, entry, etag):
                file.truncate(0)
                return False
            came(body.start, body.start + body.length)
    return True


def _requests(url: str, entry: Entry, etag: str, file: FileIO, there: Container[int]) -> Iterator[Request]:
    for start in range(0, entry.size_bytes, RANGE_BYTES):
        if start in there:
            continue
        stop = min(start + RANGE_BYTES, entry.size_bytes)
        yield Request(
            url,
            _RangeBody(file, start),
            start=start,
            stop=stop,
            expected_bytes=stop - start,
            headers=(f"If-Match: {etag}",),  # it saves the bytes of another version; the answer's ETag decides
        )


def _is_part_of(outcome: Response | errors.StorageError, entry: Entry, etag: str) -> bool:
    """Whether an answer is a range of that version; a weak ETag never equals a strong one."""
    if isinstance(outcome, errors.StorageError):
        raise outcome
    is_plain = outcome.compression is None or outcome.total_bytes == entry.size_bytes
    return outcome.status == 206 and outcome.headers.get("etag") == etag and is_plain


class _RangeBody(NoBody):
    """The bytes of a range, at their position in the file."""

    def __init__(self, file: FileIO, start: int) -> None:
        super().__init__()
        self.start = start
        self._file = file

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        write_all_at(self._file, chunk, self.start + self.length)
        super().write(chunk)


class Front:
    """How far a file is complete from its beginning, and the hash of that part.

    Args:
        file: fills with ranges, in whatever order.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._position = 0
        self._complete: dict[int, int] = {}

    def advance(self, start: int, stop: int) -> None:
        """Record that a range is complete, and hash what follows on from what was hashed."""
        self._complete[start] = stop
        while (stop := self._complete.pop(self._position, self._position)) > self._position:
            while self._position < stop:
                piece = os.pread(self._file.fileno(), min(_PIECE_BYTES, stop - self._position), self._position)
                self._digest.update(piece)
                self._position += len(piece)

    @property
    def sha256(self) -> str:
        """The sha256 of all of it."""
        return self._digest.hexdigest()
