"""A large file is downloaded in several ranges at a time, all of one version, and hashed in order as they come."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import NoBody, Request, Response, write_all_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from ai4os_data.http import Transport
    from ai4os_data.stores.base import Entry

RANGE_BYTES = 8 * 1024 * 1024
IN_FLIGHT = 4
_PIECE_BYTES = 1024 * 1024


def read_ranges(transport: Transport, url: str, entry: Entry, file: FileIO) -> str | None:
    """Fill an empty file with the version that an entry names, and give its sha256.

    Returns None, and leaves the file empty, if ranges cannot be used: the file is small or has no strong ETag, or the
    server has another version by now or ignores ranges.

    Raises:
        StorageError: it cannot be read.
        OSError: the local disk cannot take it.
    """
    if entry.etag is None or entry.size_bytes < 2 * RANGE_BYTES:
        return None
    etag = f'"{entry.etag}"'
    front = _Front(file)
    with closing(transport.fetch(_requests(url, entry, etag, file), IN_FLIGHT)) as answers:
        for request, outcome in answers:
            body = request.body
            assert isinstance(body, _RangeBody)
            if isinstance(outcome, errors.ChangedError) or not _is_part_of(outcome, entry, etag):
                file.truncate(0)
                return None
            front.advance(body)
    return front.sha256


def _requests(url: str, entry: Entry, etag: str, file: FileIO) -> Iterator[Request]:
    for start in range(0, entry.size_bytes, RANGE_BYTES):
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


class _Front:
    """How far the file is complete from its beginning, and the hash of that part."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._position = 0
        self._complete: dict[int, int] = {}

    def advance(self, body: _RangeBody) -> None:
        """Record that a range is complete, and hash the bytes that follow those already hashed."""
        self._complete[body.start] = body.start + body.length
        while (stop := self._complete.pop(self._position, None)) is not None:
            while self._position < stop:
                piece = os.pread(self._file.fileno(), min(_PIECE_BYTES, stop - self._position), self._position)
                self._digest.update(piece)
                self._position += len(piece)

    @property
    def sha256(self) -> str:
        """The sha256 of all of it."""
        return self._digest.hexdigest()
