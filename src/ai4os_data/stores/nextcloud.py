"""Nextcloud: WebDAV with archives of many files, folder ETags, and uploads that the server hashes itself."""

from __future__ import annotations

import multiprocessing
import re
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import CappedBody, MemoryBody, Request, Response
from ai4os_data.stores import archives
from ai4os_data.stores.base import Entry, Fetched, MakeBody, Outcome, checked, memory_body
from ai4os_data.stores.capabilities import ChunkLimits, chunk_limits
from ai4os_data.stores.chunked import CHUNK_BYTES, LEAST_CHUNK_BYTES, ChunkedUpload, UnsupportedError, UploadPlace
from ai4os_data.stores.forms import quoted
from ai4os_data.stores.multistatus import NotMultistatusError, properties
from ai4os_data.stores.names import is_utf_8
from ai4os_data.stores.trashbin import SKIP, TrashBin
from ai4os_data.stores.webdav import Span, WebDAVStore
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ai4os_data.http import Source
    from ai4os_data.locations import Remote

_DAV_ROOT = re.compile(r"/remote\.php/(?:dav/files/(?P<user>[^/]+)|webdav)(?:/|$)")
_AVAILABLE = "DAV: quota-available-bytes"
_QUOTA = b'<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:quota-available-bytes/></d:prop></d:propfind>'
_QUERY = re.compile(r"\?\S+(?=:)")
_ARCHIVES_IN_FLIGHT = 2
_HASH_TRIES = 2  # a proxy that has no patience with a large file will not have it the next time
_OF_A_MEMBER = (errors.NotFoundError, errors.LockedError)
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
    _was_full = False
    answers_heads = True  # to "Expect: 100-continue", as far as is known
    _limits: ChunkLimits | None = None
    _archives = True
    _longest_query = archives.LONGEST_QUERY

    @property
    def asks_together(self) -> bool:  # type: ignore[override]  # it turns out with the first answer
        """Whether the server makes archives, as far as is known."""
        return self._archives

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files: small ones as archives of many, where the server makes them; the rest by single GETs.

        The next archive is asked for as one ends; only what comes alone waits for those that are under way.
        """
        make = body or memory_body
        plan = archives.Plan(entries, self._naming, self._longest_query, halves=_is_on_its_own())
        while self._archives and not plan.is_through:
            yield from self._read_archives(plan, make)
            alone, plan.alone = plan.alone, []
            if alone:
                yield from super().read_many(alone, make)
        if not plan.is_through:
            yield from super().read_many(plan.everything(), make)

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

    def upload(
        self, key: str, source: Source, *headers: str, repeats: bool = False, before: Entry | None = None
    ) -> Response | None:
        """PUT a whole file."""
        self._check_utf_8(key)
        return super().upload(key, source, *headers, repeats=repeats, before=before)

    def make_folder(self, key: str) -> bool:
        """Make a folder below the root, and those above it, where they are missing.

        Raises:
            OutOfSpaceError: the quota is used up: before version 30 or so that is a 403 like any other.
        """
        self._check_utf_8(key)
        try:
            return super().make_folder(key)
        except errors.PermissionDeniedError as error:
            if not self._is_full(self.below_remote(key)):
                raise
            raise errors.OutOfSpaceError(
                f"{self.location}: {key!r} cannot be made: the account's quota is used up. Remove what is not needed "
                "on the storage, or ask for a larger quota; what lies in the trash bin does not count"
            ) from error

    def _is_full(self, path: str) -> bool:
        """Whether no byte is left of the quota, as far as the server tells.

        It remembers for five minutes what it has told of a folder, so one is asked that others hardly ask for.
        """
        headers = {"Depth": "0", "Content-Type": "application/xml"}
        while path:
            path = path.rpartition("/")[0]
            url = f"{self.remote.url}/{quoted(path)}".rstrip("/")
            try:
                answer = self.dav("PROPFIND", f"{url}/", headers, _QUOTA, tries=1)
                told = properties(answer.content, [_AVAILABLE])
            except errors.NotFoundError:
                continue
            except (errors.StorageError, NotMultistatusError):
                return False
            return any(texts.get(_AVAILABLE) == "0" for _, texts in told)
        return False

    def _check_utf_8(self, key: str) -> None:
        """Refuse a name that the server would store as another one: it reads what is no UTF-8 as Latin-1.

        Raises:
            NameRefusedError: the name is no UTF-8.
        """
        if not is_utf_8(key):
            raise errors.NameRefusedError(
                f"{self.location}: {key!r} cannot be written: it is no UTF-8, and a Nextcloud would store it under "
                "another name. Choose another name."
            )

    def _before(self, key: str) -> Entry | None:
        """What an earlier try has left at a key; in a folder that is new there is nothing to look for."""
        self._check_utf_8(key)
        return None if self.make_parent(key) else super()._before(key)

    def abandon(self, key: str, size_bytes: int, sha256: str) -> None:
        """Remove the chunks of an upload that broke off."""
        place = UploadPlace.of(self.remote) if self._chunks and size_bytes > self.single_put_bytes else None
        if place is not None:
            with suppress(errors.StorageError):  # the server removes them after a day
                self.dav("DELETE", place.upload_url(place.destination(self.below_remote(key)), sha256), tries=1)

    def _store_new(self, key: str, source: Source, sha256: str, before: Entry | None) -> str:
        """Store it, in smaller pieces where a proxy limits the body of a request."""
        while True:
            try:
                return self._store_in_pieces(key, source, sha256, before)
            except errors.StorageError as error:
                if error.status != 413 or not self._take_smaller_pieces(source.size_bytes):
                    self._chunks = True  # that none were taken may have been a mistake of a proxy
                    raise
                tell_once(f"{self.location}: files go in chunks of {self.chunk_bytes >> 20} MiB, since {error}")

    def _store_in_pieces(self, key: str, source: Source, sha256: str, before: Entry | None) -> str:
        """PUT it whole and let the server hash it on its way, or in chunks and let the server hash the result."""
        if source.size_bytes <= self.single_put_bytes or not self._upload_in_chunks(key, source, sha256):
            answer = self.upload(key, source, "X-Hash: sha256", before=before)
            if answer is not None and (found := answer.headers.get("x-hash-sha256")):
                return found.lower()
        return self.sha256_of(Entry(key, source.size_bytes))

    def _take_smaller_pieces(self, size_bytes: int) -> bool:
        """Send less at a time from now on, if that is possible for a file of this size."""
        piece_bytes = size_bytes if size_bytes <= self.single_put_bytes else min(size_bytes, self.chunk_bytes)
        smaller_bytes = max(LEAST_CHUNK_BYTES, min(self.chunk_bytes, piece_bytes // 4))
        if not self._chunks or smaller_bytes >= piece_bytes:
            return False
        self.single_put_bytes = self.chunk_bytes = smaller_bytes
        return True

    def _upload_in_chunks(self, key: str, source: Source, sha256: str) -> bool:
        """Whether the file could be sent so; if not, the server takes no chunks, and none are tried again."""
        place = UploadPlace.of(self.remote) if self._chunks else None
        if place is None:
            return False
        if self._limits is None:
            self._limits = chunk_limits(self.transport, place.server_url)
        upload = ChunkedUpload(
            self,
            place,
            key,
            source,
            sha256,
            limits=self._limits,
            chunk_bytes=self.chunk_bytes,
            was_full=self._was_full,
        )
        try:
            upload.send()
            self._was_full = False
        except UnsupportedError:
            self._chunks = False
        except errors.OutOfSpaceError:
            self._was_full = True
            raise
        return self._chunks

    def expunge(self, folder: str, first: Sequence[str] = ()) -> None:
        """Remove a folder for good, past the trash bin, or out of it by its own name."""
        place = UploadPlace.of(self.remote)
        headers = SKIP if place is not None else None
        gone: dict[str, Span | None] = {}
        for key in first:
            with suppress(errors.NotFoundError):  # somebody else was faster
                gone[self.below_remote(key)] = self._delete_file(key, headers)
        gone[self.below_remote(folder)] = self._delete_folder(checked(folder), headers)
        if place is not None:
            TrashBin(self, place).expunge(gone)

    # --- archives

    @cached_property
    def _naming(self) -> archives.Naming:
        root = _DAV_ROOT.search(self.base_path)
        if root is None:
            return archives.Naming(None, None)
        return archives.Naming(root["user"], self.base_path[root.end() :])

    def _read_archives(self, plan: archives.Plan, make: MakeBody) -> Iterator[Outcome]:
        """Read small files as archives, until something is to be read alone, or nothing is left."""

        def requests() -> Iterator[Request]:
            begun = 0
            while self._archives and (begun < _ARCHIVES_IN_FLIGHT or not plan.alone):
                group = plan.next()
                if group is None:
                    return
                begun += 1
                size = sum(entry.size_bytes for entry in group.entries)
                url = f"{self.url(group.folder) if group.folder else self.base_url}?{group.query}"
                body = CappedBody(group.longest_bytes)
                yield Request(url, body, expected_bytes=size, is_archive=True, tag=group)

        for request, outcome in self.transport.fetch(requests(), _ARCHIVES_IN_FLIGHT):
            group = request.tag
            assert isinstance(group, archives.Group)
            assert isinstance(request.body, MemoryBody)
            if isinstance(outcome, errors.StorageError):
                if request.body.length:
                    yield from self._unpacked(request.body.getvalue(), group, make, plan)
                elif isinstance(outcome, _HOPELESS) and not request.fails_alone:
                    yield from ((entry, outcome) for entry in group.entries)
                elif isinstance(outcome, _OF_A_MEMBER):
                    plan.halve(group)
                else:
                    self._take_in(request, outcome)
                    plan.alone.extend(group.entries)
            elif self._is_archive(outcome):
                yield from self._unpacked(request.body.getvalue(), group, make, plan)
            else:
                plan.alone.extend(group.entries)

    def _take_in(self, request: Request, error: errors.StorageError) -> None:
        """Ask for no more archives where they alone fail, as behind some proxies: each takes all its tries."""
        if not request.fails_alone:
            return
        if self._archives:
            said = _QUERY.sub("", str(error))
            tell_once(f"{self.location}: files come one by one, since the server fails at archives of many: {said}")
        self._archives = False

    def _is_archive(self, response: Response) -> bool:
        """Whether the server makes archives at all: before version 31 it answers the same request with a page."""
        if response.headers.get("content-type", "").startswith("application/zip"):
            return True
        self._archives = False
        return False

    def _unpacked(
        self, archive: bytes, group: archives.Group, make: MakeBody, plan: archives.Plan
    ) -> Iterator[Outcome]:
        came = archives.unpacked(archive, group)
        plan.take_up(group, came)
        for entry, data in came.files:
            body = make(entry)
            body.write(data)
            yield entry, Fetched(entry, body)


def _is_on_its_own() -> bool:
    """Whether this is no worker beside others, which together keep the server busy."""
    return multiprocessing.parent_process() is None
