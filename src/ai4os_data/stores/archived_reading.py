"""Small files read from a Nextcloud as archives of many; each of the others by a request of its own."""

from __future__ import annotations

import multiprocessing
import re
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.http import PART, SILENT, Body, CappedBody, MemoryBody, Request, Response
from ai4os_data.stores import archives
from ai4os_data.stores.base import Fetched, MakeBody, Outcome
from ai4os_data.stores.unpacking import Unpacker
from ai4os_data.stores.whole_folders import WholeFolders, whole_folders
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator

    from ai4os_data.http import Transport
    from ai4os_data.stores.address import Address
    from ai4os_data.stores.base import Entry
    from ai4os_data.stores.capabilities import Capabilities
    from ai4os_data.stores.dav_reading import DavReader

DAV_ROOT = re.compile(r"/remote\.php/(?:dav/files/(?P<user>[^/]+)|webdav)(?:/|$)")
_QUERY = re.compile(r"\?\S+(?=:)")
_ARCHIVES_IN_FLIGHT = 2
_MOST_BEYOND_BYTES = 1024 * 1024  # an error page may follow where an archive breaks off, but no more members
_OF_A_MEMBER = (errors.NotFoundError, errors.LockedError)
_HOPELESS = (*SILENT, errors.AuthenticationError)


class ArchiveReader:
    """Reads files by archives, as long as the server makes them.

    Args:
        reader: reads files one by one.
        transport: sends the requests.
        address: where the folder is.
        server: what is known of it.
    """

    def __init__(self, reader: DavReader, transport: Transport, address: Address, server: Capabilities) -> None:
        self._reader = reader
        self._transport = transport
        self._address = address
        self._server = server

    def read_many(self, entries: Iterable[Entry], make: MakeBody) -> Iterator[Outcome]:
        """Read whole files: small ones as archives of many, the rest by single GETs.

        The next archive is asked for as one ends. Single files wait until no archive is under way.
        """
        # A worker beside others needs no second request to keep the server busy.
        plan = archives.ArchivePlan(entries, self._naming, halves=multiprocessing.parent_process() is None)
        while self._server.makes_archives and not plan.is_through:
            yield from self._read_archives(plan, make)
            alone, plan.alone = plan.alone, []
            if alone:
                yield from self._reader.read_many(alone, make)
        if not plan.is_through:
            yield from self._reader.read_many(plan.everything(), make)

    def read_folders(
        self, wanted: Collection[Entry], listed: Iterable[Entry], make: MakeBody
    ) -> Generator[Outcome, None, None]:
        """Read whole files: those of whole folders by archives of these, the rest as `read_many` does.

        Args:
            wanted: the entries to read.
            listed: all entries there are.
            make: makes what takes the bytes of an entry.
        """
        left = {entry.key: entry for entry in wanted}
        hopeless = None
        if self._server.makes_archives:
            hopeless = yield from self._read_whole(whole_folders(left.keys(), listed, self._naming, make), left)
        if hopeless is None:
            yield from self.read_many(left.values(), make)
        else:
            yield from ((entry, hopeless) for entry in left.values())

    def _read_whole(
        self, groups: Iterator[WholeFolders], left: dict[str, Entry]
    ) -> Generator[Outcome, None, errors.StorageError | None]:
        """The files that come with whole folders; an error if nothing else can be hoped for.

        Once such an archive is of no use there are no more, and what is on its way is given up.
        """
        bodies: list[Unpacker[Body]] = []

        def requests() -> Iterator[Request]:
            for group in groups:
                if any(body.is_none for body in bodies):
                    return
                body = Unpacker(group.choose)
                bodies.append(body)
                url = f"{self._address.url_of_folder(group.parent)}?{group.query}"
                size_bytes = group.size_bytes
                yield Request(url, body, expected_bytes=size_bytes, is_archive=True, streams=True, tag=group)

        try:
            with closing(self._transport.fetch(requests(), _ARCHIVES_IN_FLIGHT)) as answers:
                for request, outcome in answers:
                    for entry, fetched in _taken_out(request):
                        del left[entry.key]
                        yield entry, fetched
                    if isinstance(outcome, _HOPELESS) and not (request.fails_alone or request.body.length):
                        return outcome
                    if not self._is_of_use(request, outcome):
                        return None
        finally:
            for body in bodies:
                body.drop()
        return None

    def _is_of_use(self, request: Request, outcome: Response | errors.StorageError) -> bool:
        """Whether such archives are of use, after all or a part of one has come."""
        assert isinstance(request.body, Unpacker)
        assert isinstance(request.tag, WholeFolders)
        if outcome is PART:
            return request.body.beyond_bytes < _MOST_BEYOND_BYTES
        if isinstance(outcome, errors.StorageError) or self._is_archive(outcome):
            return request.tag.has_come
        return False

    @cached_property
    def _naming(self) -> archives.Naming:
        root = DAV_ROOT.search(self._address.base_path)
        if root is None:
            return archives.Naming(None, None)
        return archives.Naming(root["user"], self._address.base_path[root.end() :])

    def _read_archives(self, plan: archives.ArchivePlan, make: MakeBody) -> Iterator[Outcome]:
        """Read small files as archives, until one has to be read alone, or none is left."""
        for request, outcome in self._transport.fetch(self._requests(plan), _ARCHIVES_IN_FLIGHT):
            group = request.tag
            assert isinstance(group, archives.Group)
            assert isinstance(request.body, MemoryBody)
            if isinstance(outcome, errors.StorageError):
                if request.body.length:
                    yield from _unpacked(request.body.chunks, group, make, plan)
                elif isinstance(outcome, _HOPELESS) and not request.fails_alone:
                    yield from ((entry, outcome) for entry in group.entries)
                elif isinstance(outcome, _OF_A_MEMBER):
                    plan.halve(group)
                else:
                    self._record(request, outcome)
                    plan.alone.extend(group.entries)
            elif self._is_archive(outcome):
                yield from _unpacked(request.body.chunks, group, make, plan)
            else:
                plan.alone.extend(group.entries)

    def _requests(self, plan: archives.ArchivePlan) -> Iterator[Request]:
        begun = 0
        while self._server.makes_archives and (begun < _ARCHIVES_IN_FLIGHT or not plan.alone):
            group = plan.next()
            if group is None:
                return
            begun += 1
            url = self._address.url_of_folder(group.folder)
            size_bytes = sum(entry.size_bytes for entry in group.entries)
            body = CappedBody(group.longest_bytes)
            yield Request(f"{url}?{group.query}", body, expected_bytes=size_bytes, is_archive=True, tag=group)

    def _record(self, request: Request, error: errors.StorageError) -> None:
        """Ask for no more archives if they alone fail, as behind some proxies: each would use up all its tries."""
        if not request.fails_alone:
            return
        if self._server.makes_archives:
            said = _QUERY.sub("", str(error))
            tell_once(
                f"{self._address.location}: files come one by one, since the server fails at archives of many: {said}"
            )
        self._server.makes_archives = False

    def _is_archive(self, response: Response) -> bool:
        """Whether the server makes archives at all: before version 31 it answers the same request with a page."""
        if response.headers.get("content-type", "").startswith("application/zip"):
            return True
        self._server.makes_archives = False
        return False


def _taken_out(request: Request) -> Iterator[tuple[Entry, Fetched]]:
    """The wanted files of an archive that are whole by now."""
    assert isinstance(request.body, Unpacker)
    assert isinstance(request.tag, WholeFolders)
    came = request.body.came
    while came:
        name, body = came.popleft()
        if body is not None:
            request.tag.has_come = True
            entry = request.tag.wanted[name]
            yield entry, Fetched(entry, body)


def _unpacked(
    chunks: Iterable[bytes], group: archives.Group, make: MakeBody, plan: archives.ArchivePlan
) -> Iterator[Outcome]:
    came = archives.unpacked(chunks, group)
    plan.take_up(group, came)
    for entry, data in came.files:
        body = make(entry)
        body.write(data)
        yield entry, Fetched(entry, body)
