"""A folder of a WebDAV server (RFC 4918) as a store: verbs by webdav4, bytes by our transport, listings parsed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from ai4os_data.http import Content, Patience, Source, Transport
from ai4os_data.stores.address import Address
from ai4os_data.stores.base import (
    Entries,
    Entry,
    Keys,
    Listing,
    MakeBody,
    OnBytes,
    Outcome,
    Store,
    checked,
    confirm,
    memory_body,
    read_back,
    received,
)
from ai4os_data.stores.dav import DavClient
from ai4os_data.stores.dav_folder import DavFolder
from ai4os_data.stores.dav_folders import FolderMaker
from ai4os_data.stores.dav_reading import DavReader
from ai4os_data.stores.dav_writing import DavWriter
from ai4os_data.stores.listings import Listings
from ai4os_data.stores.ranges import Front, read_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO
    from pathlib import Path

    from ai4os_data import telemetry
    from ai4os_data.http import Credentials
    from ai4os_data.locations import Remote
    from ai4os_data.stores.levels import Level


class WebDAVStore(Store):
    """The files of one folder of a WebDAV server.

    Args:
        remote: the server and the credentials.
        path: the folder below the remote's URL, not percent-encoded.
        location: what messages call it.
        patience: deadlines and tries.
        counters: where requests and bytes are counted.
    """

    _makes_folders: type[FolderMaker] = FolderMaker

    def __init__(
        self,
        remote: Remote,
        path: str = "",
        *,
        location: str | None = None,
        patience: Patience | None = None,
        counters: telemetry.Counters | None = None,
    ) -> None:
        path = path.strip("/")
        if path:
            checked(path)
        self.remote = remote
        self.address = Address(remote, path, location)
        self.location = self.address.location
        self._known_folders: set[str] = set()
        self._ask_through(Transport(remote, patience=patience, counters=counters))

    def _ask_through(self, transport: Transport) -> None:
        self.transport = transport
        self.patience, self.counters = transport.patience, transport.counters
        self.dav = DavClient(transport)
        self._folder = DavFolder(self.dav, self.address)
        self._listings = Listings(self._folder)
        self._reader = DavReader(self._listings)
        self._folders = self._makes_folders(self._folder, self._known_folders)
        self._writer = DavWriter(self._listings, self._folders)

    @property
    def identity(self) -> str:  # type: ignore[override]  # the folder may be found under another form of its name
        """What distinguishes its files from those of other stores, for the cache."""
        return self.address.identity

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made from, and what is known of the credentials: those refused since stay refused."""
        options = {"location": self.location, "patience": self.patience, "counters": self.counters}
        return _opened_again, (type(self), self.remote, self.address.path, options, self.transport.credentials)

    def close(self) -> None:
        """Let go of this process's connections."""
        self.transport.close()

    def with_patience(self, patience: Patience) -> Self:
        """The same folder, read with another patience for a server that is away, over the same connections."""
        store = super().with_patience(patience)
        if store is not self:
            store._ask_through(self.transport.patient(patience))  # noqa: SLF001  a copy of this store
        return store

    def look(self) -> None:
        """Check that the folder is on the server, by a PROPFIND of Depth 0."""
        self._folder.found(lambda: self._listings.of("", "0"))

    # --- reading

    def listing(self) -> Listing:
        """Every file below the folder, by Depth infinity if the server allows it, else folder by folder."""
        listing = self._folder.found(self._listings.below)
        entries = sorted(listing.entries)
        self.transport.connections.outage.other_urls = tuple(self.address.url(entry.key) for entry in entries[:2])
        return Listing(entries, listing.unreadable, sorted(listing.hollow))

    def _listed(self, folder: str) -> Listing | None:
        return self._listings.below_if_there(folder)

    def has_folder(self, key: str) -> bool:
        """Whether there is such a folder, by a PROPFIND of Depth 0."""
        return self._listings.has_folder(key)

    def members(self, folder: str) -> tuple[Entries, Keys]:
        """What lies directly in a folder, by a PROPFIND of Depth 1; what cannot be read is logged."""
        return self._listings.members(folder)

    def stat(self, key: str) -> Entry:
        """One file, by a PROPFIND of Depth 0."""
        return self._listings.stat(key)

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files by parallel GETs."""
        return self._reader.read_many(entries, body or memory_body)

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file, by a ranged GET whose answer is checked."""
        return self._reader.read_range(entry, start, stop)

    def read_into(self, entry: Entry, path: Path, sha256: str | None = None) -> str:
        """Download by several ranges at a time if the server has strong ETags, else from beginning to end."""
        url = self.address.url(entry.key)

        def fill(file: FileIO) -> str:
            front = Front(file)
            is_whole = read_ranges(self.transport, url, entry, file, came=front.advance)
            return front.sha256 if is_whole else read_back(self, entry, file)

        return received(self, entry, path, sha256, fill)

    # --- writing

    def write(self, key: str, content: Content) -> Entry:
        """PUT a whole file, and make the folders above it if they are missing."""
        self._writer.put(key, Source(content), repeats=True)
        return self.stat(key)

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """PUT a whole new file, and compare the sha256 of what the server holds."""
        source, before = Source(content, on_bytes=on_bytes), self._writer.before(key)

        def send() -> str:
            self._folders.make_parent(key)
            self._writer.put(key, source, before=before)
            return self.sha256_of(self.stat(key))

        return confirm(self, key, source, sha256, before=before, send=send)

    def make_folder(self, key: str) -> bool:
        """Make a folder, and those above it, if they are missing. Returns whether the server says it is new.

        Some servers say so of a folder that was there.
        """
        return self._folders.make(key)

    def delete(self, key: str) -> None:
        """Remove a file, and never a folder: a DELETE would take all that is in it."""
        self._writer.remove_file(key)

    def remove_tree(self, key: str) -> None:
        """Remove a folder and all below it, by one DELETE."""
        self._writer.remove_folder(key)


def _opened_again(
    kind: type[WebDAVStore], remote: Remote, path: str, options: dict[str, Any], credentials: Credentials
) -> WebDAVStore:
    """A store from its pickle."""
    store = kind(remote, path, **options)
    store.transport.credentials = credentials
    return store
