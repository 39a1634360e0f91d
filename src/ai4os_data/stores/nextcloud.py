"""Nextcloud: WebDAV with archives of many files, folder ETags, and uploads that the server hashes itself."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import Source
from ai4os_data.stores.archived_reading import DAV_ROOT, ArchiveReader
from ai4os_data.stores.base import Entry, MakeBody, OnBytes, Outcome, checked, confirm, memory_body
from ai4os_data.stores.capabilities import Capabilities, chunk_limits
from ai4os_data.stores.chunked import CHUNK_BYTES, LEAST_CHUNK_BYTES, ChunkedUpload, UnsupportedError
from ai4os_data.stores.names import check_utf_8
from ai4os_data.stores.nextcloud_folders import NextcloudFolderMaker
from ai4os_data.stores.nextcloud_urls import NextcloudUrls
from ai4os_data.stores.trashbin import SKIP, TrashBin
from ai4os_data.stores.webdav import WebDAVStore
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from ai4os_data.http import Content, Transport
    from ai4os_data.locations import Remote
    from ai4os_data.stores.dav_writing import Span
    from ai4os_data.stores.levels import Level

_HASH_TRIES = 2  # if a proxy does not wait while the server hashes a large file, it will not the next time

SINGLE_PUT_BYTES = 64 * 1024 * 1024
"""The largest file that is sent in one piece; a larger one goes in chunks, and can be resumed."""


def is_nextcloud(remote: Remote) -> bool:
    """Whether a remote is a Nextcloud, by its vendor or by the form of its URL."""
    return remote.vendor == "nextcloud" or DAV_ROOT.search(remote.url) is not None


class NextcloudStore(WebDAVStore):
    """The files of one folder of a Nextcloud account.

    Attributes:
        single_put_bytes: up to which size a file is uploaded by a single PUT.
        chunk_bytes: the size of the chunks of a larger one, within what the server allows.
    """

    single_put_bytes = SINGLE_PUT_BYTES
    chunk_bytes = CHUNK_BYTES
    _makes_folders = NextcloudFolderMaker

    def _ask_through(self, transport: Transport) -> None:
        super()._ask_through(transport)
        self._server: Capabilities = self.__dict__.get("_server") or Capabilities()  # a copy has the original's
        self._archives = ArchiveReader(self._reader, transport, self.address, self._server)
        self._urls = NextcloudUrls.of(self.remote)

    @property
    def asks_together(self) -> bool:  # type: ignore[override]  # it turns out with the first answer
        """Whether the server makes archives, as far as is known."""
        return self._server.makes_archives

    def folder_etag(self) -> str | None:
        """The folder's ETag, by one PROPFIND of Depth 0: it changes when anything below does."""
        return self._folder.etag()

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files: small ones as archives of many, if the server makes them; the rest by single GETs."""
        return self._archives.read_many(entries, body or memory_body)

    def read_folders(
        self, wanted: Collection[Entry], listed: Iterable[Entry], body: MakeBody
    ) -> Generator[Outcome, None, None]:
        """Read whole files, where it is known what else there is: folders of which nearly all is wanted come whole."""
        return self._archives.read_folders(wanted, listed, body)

    # --- writing

    def sha256_of(self, entry: Entry) -> str:
        """The sha256 that the server computes of what it reads back, or that of the downloaded bytes if it does not."""
        try:
            answer = self.dav.send(
                "PATCH",
                self.address.url(entry.key),
                {"X-Recalculate-Hash": "sha256"},
                tries=_HASH_TRIES,
                worked_bytes=entry.size_bytes,
            )
        except (errors.AuthenticationError, errors.NotFoundError):
            raise
        except (errors.ServerError, errors.PermissionDeniedError):  # too old, not a Nextcloud, or too slow for a proxy
            return super().sha256_of(self.stat(entry.key))
        kind, _, found = answer.headers.get("oc-checksum", "").partition(":")
        return found.lower() if kind == "SHA256" else super().sha256_of(self.stat(entry.key))

    def write(self, key: str, content: Content) -> Entry:
        """PUT a whole file, and make the folders above it if they are missing."""
        check_utf_8(self.location, key)
        return super().write(key, content)

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """PUT a whole new file, or send it in chunks; the server computes the sha256."""
        check_utf_8(self.location, key)
        source = Source(content, on_bytes=on_bytes)
        # A new folder holds no file of an earlier try.
        before = None if self._folders.make_parent(key) else self._writer.before(key)
        send = partial(self._store_new, key, source, sha256, before)
        return confirm(self, key, source, sha256, before=before, send=send)

    def abandon(self, key: str, size_bytes: int, sha256: str) -> None:
        """Remove the chunks of an upload that broke off."""
        urls = self._urls
        if urls is not None and self._server.takes_chunks and size_bytes > self.single_put_bytes:
            destination = urls.destination(self.address.below_remote(key))
            with suppress(errors.StorageError):  # the server removes them after a day
                self.dav.send("DELETE", urls.upload_url(destination, sha256), tries=1)

    def _store_new(self, key: str, source: Source, sha256: str, before: Entry | None) -> str:
        """Store it, in smaller pieces if a proxy limits the body of a request."""
        while True:
            try:
                return self._store_in_pieces(key, source, sha256, before)
            except errors.StorageError as error:
                if error.status != 413 or not self._take_smaller_pieces(source.size_bytes):
                    self._server.takes_chunks = True  # an earlier refusal of chunks may have been a proxy's
                    raise
                tell_once(f"{self.location}: files go in chunks of {self.chunk_bytes >> 20} MiB, since {error}")

    def _store_in_pieces(self, key: str, source: Source, sha256: str, before: Entry | None) -> str:
        """PUT it whole and let the server hash it on its way, or in chunks and let the server hash the result."""
        if source.size_bytes <= self.single_put_bytes or not self._upload_in_chunks(key, source, sha256):
            answer = self._writer.put(key, source, "X-Hash: sha256", before=before)
            if answer is not None and (found := answer.headers.get("x-hash-sha256")):
                return found.lower()
        return self.sha256_of(Entry(key, source.size_bytes))

    def _take_smaller_pieces(self, size_bytes: int) -> bool:
        """Send less at a time from now on, if that is possible for a file of this size."""
        piece_bytes = size_bytes if size_bytes <= self.single_put_bytes else min(size_bytes, self.chunk_bytes)
        smaller_bytes = max(LEAST_CHUNK_BYTES, min(self.chunk_bytes, piece_bytes // 4))
        if not self._server.takes_chunks or smaller_bytes >= piece_bytes:
            return False
        self.single_put_bytes = self.chunk_bytes = smaller_bytes
        return True

    def _upload_in_chunks(self, key: str, source: Source, sha256: str) -> bool:
        """Whether the file could be sent so; if not, the server takes no chunks, and none are tried again."""
        server = self._server
        if self._urls is None or not server.takes_chunks:
            return False
        if server.chunk_limits is None:
            server.chunk_limits = chunk_limits(self.transport, self._urls.server_url)
        upload = ChunkedUpload(
            self._listings,
            self._folders,
            self._urls,
            key,
            source,
            sha256=sha256,
            server=server,
            chunk_bytes=self.chunk_bytes,
        )
        try:
            upload.send()
            server.was_full = False
        except UnsupportedError:
            server.takes_chunks = False
        except errors.OutOfSpaceError:
            server.was_full = True
            raise
        return server.takes_chunks

    def expunge(self, folder: str, first: Sequence[str] = ()) -> None:
        """Remove a folder for good, past the trash bin, or out of it by its own name."""
        headers = SKIP if self._urls is not None else None
        gone: dict[str, Span | None] = {}
        for key in first:
            with suppress(errors.NotFoundError):  # somebody else was faster
                gone[self.address.below_remote(key)] = self._writer.remove_file(key, headers)
        gone[self.address.below_remote(folder)] = self._writer.remove_folder(checked(folder), headers)
        if self._urls is not None:
            TrashBin(self.dav, self._urls).expunge(gone)
