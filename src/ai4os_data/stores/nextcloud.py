"""Nextcloud: WebDAV with archives of many files, folder ETags, and uploads that the server hashes itself."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.bodies import MemoryBody
from ai4os_data.stores import archives
from ai4os_data.stores.base import Entry, Fetched, MakeBody, Outcome, memory_body
from ai4os_data.stores.capabilities import ChunkLimits, chunk_limits
from ai4os_data.stores.chunked import CHUNK_BYTES, ChunkedUpload, UnsupportedError, UploadPlace
from ai4os_data.stores.webdav import WebDAVStore
from ai4os_data.transport import Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai4os_data.bodies import Source
    from ai4os_data.remotes import Remote

_DAV_ROOT = re.compile(r"/remote\.php/(dav/files/[^/]+|webdav)(/|$)")
_ARCHIVES_IN_FLIGHT = 2
_HASH_TRIES = 2  # a proxy that has no patience with a large file will not have it the next time
_PLANNED_AT_ONCE = 2 * archives.MOST_MEMBERS
_HOPELESS = (
    errors.AuthenticationError,
    errors.ServerUnavailableError,
    errors.ThrottledError,
    errors.DeadlineError,
)


SINGLE_PUT_BYTES = 64 * 1024 * 1024
"""The largest file that is sent in one piece; a larger one goes in chunks, and on from the last one after a break."""


def is_nextcloud(remote: Remote) -> bool:
    """Whether a remote is a Nextcloud, by its vendor or by the form of its URL."""
    return remote.vendor == "nextcloud" or _DAV_ROOT.search(remote.url) is not None


class NextcloudStore(WebDAVStore):
    """The files of one folder of a Nextcloud account.

    Attributes:
        single_put_bytes: up to which size a file is uploaded by a single PUT.
        chunk_bytes: the size of the chunks of a larger one, within what the server allows.
    """

    single_put_bytes = SINGLE_PUT_BYTES
    chunk_bytes = CHUNK_BYTES
    _chunks = True
    _limits: ChunkLimits | None = None
    _archives = True
    _longest_query = archives.LONGEST_QUERY

    def token(self) -> str | None:
        """The folder's ETag, by one PROPFIND of Depth 0: it changes when anything below does."""
        return self.folder_etag()

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files: small ones as archives of many, where the server makes them; the rest by single GETs."""
        make = body or memory_body
        source = iter(entries)
        while window := list(islice(source, _PLANNED_AT_ONCE)):
            once = dict.fromkeys(window)
            repeated = list((Counter(window) - Counter(once.keys())).elements())  # an archive has each name once
            alone = [entry for entry in once if not self._archives or entry.size_bytes >= archives.LARGE_BYTES]
            large = set(alone)
            alone += repeated
            if len(large) < len(once):
                yield from self._read_archives([entry for entry in once if entry not in large], make, alone)
            yield from super().read_many(alone, make)

    # --- writing

    def sha256_of(self, entry: Entry) -> str:
        """The sha256 that the server computes of what it reads back; of what is downloaded, where it does not."""
        try:
            answer = self.dav(
                "PATCH",
                self.url(entry.key),
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

    def _before(self, key: str) -> Entry | None:
        """What an earlier try has left at a key; in a folder that is new there is nothing to look for."""
        return None if self.make_parent(key) else super()._before(key)

    def _store_new(self, key: str, source: Source, sha256: str, before: Entry | None) -> str:
        """PUT it whole and let the server hash it on its way, or in chunks and let the server hash the result."""
        if source.size_bytes <= self.single_put_bytes or not self._upload_in_chunks(key, source, sha256):
            answer = self.upload(key, source, "X-Hash: sha256", before=before)
            if answer is not None and (found := answer.headers.get("x-hash-sha256")):
                return found.lower()
        return self.sha256_of(Entry(key, source.size_bytes))

    def _upload_in_chunks(self, key: str, source: Source, sha256: str) -> bool:
        """Whether the file could be sent so; if not, the server takes no chunks, and none are tried again."""
        place = UploadPlace.of(self.remote) if self._chunks else None
        if place is None:
            return False
        if self._limits is None:
            self._limits = chunk_limits(self.transport, place.server_url)
        upload = ChunkedUpload(self, place, key, source, sha256, limits=self._limits, chunk_bytes=self.chunk_bytes)
        try:
            upload.send()
        except UnsupportedError:
            self._chunks = False
        return self._chunks

    # --- archives

    def _read_archives(self, entries: list[Entry], make: MakeBody, alone: list[Entry]) -> Iterator[Outcome]:
        """Read small files as archives. What does not come so is added to those that are fetched alone."""

        def requests() -> Iterator[Request]:
            for group in archives.groups(entries, self._longest_query):
                if len(group.entries) == 1 or not self._archives:
                    alone.extend(group.entries)
                else:
                    size = sum(entry.size_bytes for entry in group.entries)
                    url = f"{self.url(group.folder) if group.folder else self.base_url}?{group.query}"
                    yield Request(url, MemoryBody(), expected_bytes=size, is_archive=True, tag=group)

        for request, outcome in self.transport.fetch(requests(), _ARCHIVES_IN_FLIGHT):
            group = request.tag
            assert isinstance(group, archives.Group)
            if isinstance(outcome, _HOPELESS):
                yield from ((entry, outcome) for entry in group.entries)
            elif isinstance(outcome, errors.StorageError) or not self._is_archive(outcome):
                alone.extend(group.entries)
            else:
                assert isinstance(request.body, MemoryBody)
                yield from self._unpacked(request.body.getvalue(), group, make, alone)

    def _is_archive(self, response: Response) -> bool:
        """Whether the server makes archives at all: before version 31 it answers the same request with a page."""
        if response.headers.get("content-type", "").startswith("application/zip"):
            return True
        self._archives = False
        return False

    def _unpacked(self, archive: bytes, group: archives.Group, make: MakeBody, alone: list[Entry]) -> Iterator[Outcome]:
        came = set()
        for entry, data in archives.members(archive, group):
            came.add(entry)
            body = make(entry)
            body.write(data)
            yield entry, Fetched(entry, body)
        alone.extend(entry for entry in group.entries if entry not in came)
