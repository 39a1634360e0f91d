"""Nextcloud's chunked upload (version 2): a folder of pieces, put together by one MOVE, and resumed after a break.

``MKCOL uploads/USER/ID``, ``PUT …/ID/00001`` and so on, some at a time, ``MOVE …/ID/.file`` to the destination
(https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/chunking.html). The ID is made of the key
and the content's hash, so a process that starts anew finds what the last one has sent. The MOVE can outlast the
patience of a proxy and still succeed, so the destination is looked at before anything is sent again.

What has arrived stays while the server is full. An upload that resumes, or that follows an answer that there is no
room, sends one chunk first, and the others only if the server took that one. Each of these chunks is sent with
``Expect: 100-continue``: its bytes follow only if the server has not refused its head. A gateway may swallow that
question; then it is no longer asked.
"""

from __future__ import annotations

import re
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ai4os_data import errors
from ai4os_data.http import NO_ANSWER, Request, Standing, standing_of
from ai4os_data.stores.capabilities import Capabilities, ChunkLimits
from ai4os_data.stores.forms import unquoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.http import Source
    from ai4os_data.stores.dav_folders import FolderMaker
    from ai4os_data.stores.listings import Listings
    from ai4os_data.stores.nextcloud_urls import NextcloudUrls

CHUNK_BYTES = 32 * 1024 * 1024

LEAST_CHUNK_BYTES = 5 * 1024 * 1024
_MOST_CHUNKS = 10_000
_SIZE = re.compile(r"[0-9]{1,19}")
_UNSUPPORTED = (errors.NotFoundError, errors.PermissionDeniedError, errors.ProtocolError)
# These do not pass by themselves, so what was sent will not be resumed.
_HOPELESS = (errors.PermissionDeniedError, errors.ProtocolError)
_ROUNDS = 3
_LOOKS = 3
_WHOLE = ".file"


class UnsupportedError(Exception):
    """The server takes no chunked uploads here."""


class ChunkedUpload:
    """The upload of one file.

    Args:
        listings: ask what is at the destination.
        folders: makes the folder above it.
        urls: where uploads and files are.
        key: the file's key.
        source: its bytes.
        sha256: of these bytes.
        server: what is known of it.
        chunk_bytes: the size of a chunk, within the server's limits.
    """

    def __init__(
        self,
        listings: Listings,
        folders: FolderMaker,
        urls: NextcloudUrls,
        key: str,
        source: Source,
        *,
        sha256: str,
        server: Capabilities,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._listings = listings
        self._folders = folders
        self._dav = listings.folder.dav
        self._key = key
        self._source = source
        self._server = server
        limits = server.chunk_limits or ChunkLimits()
        least = max(LEAST_CHUNK_BYTES, -(-source.size_bytes // _MOST_CHUNKS))
        self._chunk_bytes = max(least, min(chunk_bytes, limits.most_bytes))
        self._in_flight = limits.parallel
        self._one_first = server.was_full
        destination = urls.destination(listings.folder.address.below_remote(key))
        self._url = urls.upload_url(destination, sha256)
        self._headers = {"Destination": destination, "OC-Total-Length": str(source.size_bytes)}

    def send(self) -> None:
        """Bring the whole file to its destination. What the server made of it is still to be verified.

        Raises:
            UnsupportedError: the server takes no such uploads; nothing was sent.
            StorageError: it did not get there; what was sent so far waits for the next try, unless there is no hope.
        """
        arrived = self._begin()
        try:
            for _ in range(_ROUNDS):
                if self._send_missing(arrived) and self._is_put_together():
                    return
                arrived = self._begin()  # the server removes old chunks
            raise errors.ServerError(f"{self._what}: the server loses the chunks of this upload again and again")
        except _HOPELESS:
            self.discard()
            raise
        except errors.OutOfSpaceError:
            if not self._arrived():
                self.discard()
            raise

    @property
    def _what(self) -> str:
        return f"{self._listings.folder.location}: {self._key!r}"

    def _begin(self) -> dict[str, int]:
        """Make the upload folder, or find the one of an earlier try: what has arrived in it."""
        try:
            self._dav.send("MKCOL", self._url, {"Destination": self._headers["Destination"]})
        except NO_ANSWER:
            raise
        except _UNSUPPORTED as error:
            raise UnsupportedError from error
        except errors.ServerError as error:
            arrived = self._arrived()
            if arrived is None and standing_of(error) is Standing.LASTING:
                raise UnsupportedError from error
            if arrived is None:
                raise
            self._one_first = True
            return arrived
        return {}

    def _arrived(self) -> dict[str, int] | None:
        """Name and size of each chunk that the server has; None if it knows no such upload."""
        try:
            found = self._listings.folder.propfind(f"{self._url}/", "1")
        except errors.NotFoundError:
            return None
        names = ((unquoted(urlsplit(one.href).path).rpartition("/")[2], one) for one in found if not one.is_folder)
        return {name: _size(one.size or "") for name, one in names if name != _WHOLE}

    def _send_missing(self, arrived: dict[str, int]) -> bool:
        """PUT what has not arrived yet, some at a time; False if the upload has disappeared."""
        chunks = list(self._chunks())
        if not arrived.keys() <= {chunk.name for chunk in chunks}:
            self.discard()  # it was begun with smaller chunks, and all that is there would be joined
            return False
        missing = [chunk for chunk in chunks if arrived.get(chunk.name) != chunk.source.size_bytes]
        first = missing[: 1 if self._one_first else 0]
        return self._are_sent(first) and self._are_sent(missing[len(first) :])

    def _are_sent(self, chunks: list[_Chunk]) -> bool:
        """PUT chunks; False if the upload has disappeared."""
        lines = tuple(f"{name}: {value}" for name, value in self._headers.items())
        requests = (
            Request(
                f"{self._url}/{chunk.name}",
                method="PUT",
                source=chunk.source,
                headers=lines,
                expected_bytes=chunk.source.size_bytes,
                asks_first=self._one_first and self._server.answers_heads,  # it costs a round trip a chunk
            )
            for chunk in chunks
        )
        with closing(self._dav.transport.fetch(requests, self._in_flight)) as answers:
            for request, outcome in answers:
                if isinstance(outcome, errors.NotFoundError):
                    return False
                if isinstance(outcome, errors.StorageError):
                    raise outcome
                if request.asks_first and not request.was_let:
                    self._server.answers_heads = False  # each chunk would wait a second in vain
        return True

    def _chunks(self) -> Iterator[_Chunk]:
        for number, start in enumerate(range(0, self._source.size_bytes, self._chunk_bytes), 1):
            yield _Chunk(f"{number:05d}", self._source.part(start, start + self._chunk_bytes))

    def _is_put_together(self) -> bool:
        """MOVE it to its destination. Without an answer, the destination is looked at; False if the upload is gone."""
        until = time.monotonic() + self._dav.patience.silence_s(self._source.size_bytes)
        failures = 0
        while True:
            try:
                self._move()
            except errors.NotFoundError:  # the upload is missing (404), or the folder that it belongs to (409)
                if failures or self._is_there() or self._arrived() is None:
                    return self._is_there()
                failures += 1
                self._folders.make(self._key.rpartition("/")[0])
            except NO_ANSWER as error:
                failures += 1
                if self._appears(failures):
                    return True
                if isinstance(error, errors.TLSError) or time.monotonic() > until:
                    raise
            else:
                return True

    def _move(self) -> None:
        headers = self._headers | {"Overwrite": "T"}
        self._dav.send("MOVE", f"{self._url}/{_WHOLE}", headers, tries=1, worked_bytes=self._source.size_bytes)

    def _appears(self, failures: int) -> bool:
        """Whether the file appears after a while: after a 504 or a 423 the server may still be joining its chunks."""
        for _ in range(_LOOKS):
            if self._is_there():
                return True
            time.sleep(self._dav.patience.pause_s(failures))
        return self._is_there()

    def _is_there(self) -> bool:
        return self._listings.size_of(self._key) == self._source.size_bytes

    def discard(self) -> None:
        """Remove what the server has of it."""
        with suppress(errors.StorageError):
            self._dav.send("DELETE", self._url)


def _size(text: str) -> int:
    """The size of a chunk in a listing; 0 if that is no number, so that the chunk is sent again."""
    return int(text) if _SIZE.fullmatch(text) else 0


class _Chunk(NamedTuple):
    name: str
    source: Source
