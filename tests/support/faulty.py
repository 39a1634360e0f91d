"""One file on the fault server, read through a store that has little patience."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Entry
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.outcomes import content

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ai4os_data.errors import StorageError
    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Fetched, Store
    from tests.support.servers import FaultServer, Request

KEY = "a.bin"
SIZE_BYTES = 100_000
DATA = random.Random(1).randbytes(SIZE_BYTES)
NEWER = random.Random(2).randbytes(SIZE_BYTES)
"""Another content of the same length."""


def waiting(store: WebDAVStore, outage_s: float) -> WebDAVStore:
    """The same files, whose reads wait this long for a server that is away."""
    return store.with_patience(replace(store.patience, outage_s=outage_s))


@dataclass
class Faulty:
    """A listed file, on a server that answers as the test says."""

    server: FaultServer
    store: WebDAVStore
    entry: Entry

    @classmethod
    def make(cls, server: FaultServer, patience: Patience, **habits: str) -> Faulty:
        """Put the file there and list it."""
        (server.root / KEY).write_bytes(DATA)
        server.change(**habits)
        store = WebDAVStore(Remote(server.url, server.user, server.password), patience=patience)
        entry = store.stat(KEY)
        server.forget()
        return cls(server, store, entry)

    @staticmethod
    def listed() -> Entry:
        """The file as some server might list it."""
        return Entry(KEY, SIZE_BYTES, "etag")

    def outcome(self) -> Fetched | StorageError:
        """The outcome of reading the whole file."""
        ((entry, outcome),) = self.store.read_many([self.entry])
        assert entry == self.entry
        return outcome

    def bytes(self) -> bytes:
        """The whole file, which must come."""
        return content(self.outcome())

    def requests(self, method: str = "GET") -> list[Request]:
        """The requests since the listing."""
        return [request for request in self.server.requests() if request.method == method]


def read_in_threads(store: Store, ready: Connection | None = None) -> list[str]:
    """List and read in four threads; the names of the errors."""

    def ask(number: int) -> str:
        try:
            store.list() if number % 2 else store.read("a.bin")
        except errors.StorageError as error:
            return type(error).__name__
        return "read"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(8)))
    if ready is not None:
        ready.send(found)
    return found
