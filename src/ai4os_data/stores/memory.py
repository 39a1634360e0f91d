"""A store in this process's memory, for tests and examples. A pickle of it carries its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.stores.base import Entry, Fetched, Listing, MakeBody, Outcome, Store, checked, memory_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai4os_data.http import Content


class MemoryStore(Store):
    """Files in a dictionary.

    Args:
        files: key to bytes.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.location = "memory"
        self.is_local = True
        self.identity = f"memory {id(self):x}"

    def stat(self, key: str) -> Entry:
        """One file."""
        if checked(key) not in self.files:
            raise errors.NotFoundError(f"{self.location}: {key!r}: no such file")
        data = self.files[key]
        return Entry(key, len(data), hashlib.blake2b(data, digest_size=8).hexdigest())

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files."""
        for entry in entries:
            try:
                served = self.stat(entry.key)
            except errors.NotFoundError as error:
                yield entry, error
                continue
            taker = (body or memory_body)(entry)
            taker.write(self.files[entry.key])
            yield entry, Fetched(served, taker)

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file."""
        if not entry.is_same_version(self.stat(entry.key)):
            raise errors.ChangedError(f"{self.location}: {entry.key!r} changed since it was opened; open it again")
        return self.files[entry.key][start:stop]

    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file."""
        self.files[checked(key)] = content.read_bytes() if isinstance(content, Path) else bytes(content)
        return self.stat(key)

    def delete(self, key: str) -> None:
        """Remove a file."""
        self.stat(key)
        del self.files[key]

    def _listed(self, folder: str) -> Listing:
        above = f"{folder}/" if folder else ""
        return Listing([self.stat(key) for key in self.files if key.startswith(above)], [])
