"""The rows of the index: which entries are counted, and in what order they were used last.

The caller has the ledger. It removes the file of a row that is taken out. The sum of all sizes changes by exactly the
rows that are entered and taken out; otherwise the index is damaged.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.cache import placement
from ai4os_data.cache.entries import Held, held_at, relative_name
from ai4os_data.cache.index import Damage, Index
from ai4os_data.cache.staged import allocated
from ai4os_data.machine import disk_bytes, identity, no_fork, ownership

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

PAGE_BYTES = 4096
ROWS_AT_ONCE = 128  # bounds the write-ahead log of one transaction

_FILES = ("cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal")
_LEAST_LOG_PAGES, _MOST_LOG_PAGES = 16, 256
_LOG_PART = 2048  # part of the limit: a longer log is copied back less often


class Rows:
    """The rows, as one process has them open.

    Args:
        directory: the cache's.
        limit_bytes: what it may take.
    """

    def __init__(self, directory: str, limit_bytes: int) -> None:
        self._cache = directory
        self.directory = f"{directory}/index"
        self._objects = f"{directory}/objects"
        self._limit = limit_bytes
        self._log_pages = max(_LEAST_LOG_PAGES, min(_MOST_LOG_PAGES, limit_bytes // _LOG_PART // PAGE_BYTES))
        self._index: Index | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> bool:
        """Open them, unless they are open. Returns whether they are new, since there were none, or none any more.

        Raises:
            Damage: there is something else.
        """
        path = f"{self.directory}/{_FILES[0]}"
        found = identity(path)
        if self._index is not None and found == self._identity:
            return False
        self.close()  # somebody has removed or replaced the file
        if found is None:
            placement.make(self._cache)
            self.remove()
            os.close(ownership.open_file(path, os.O_CREAT | os.O_WRONLY))
        self._index = Index(self.directory, self._limit, self._log_pages)
        self._identity = identity(path)
        return found is None

    def close(self) -> None:
        """Close the database."""
        index, self._index = self._index, None
        if index is not None:
            with no_fork():
                index.close()

    def remove(self) -> None:
        """Remove the database."""
        for name in _FILES:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")

    @property
    def _opened(self) -> Index:
        assert self._index is not None
        return self._index

    # --- what they say

    def __len__(self) -> int:
        """How many there are."""
        return self._opened.count()

    def unlike(self, here: Mapping[str, Held]) -> tuple[list[Held], list[str]]:
        """Compare the rows with the files that are there.

        Returns:
            The files that have no row, or another one; and the digests that have a row and no file.
        """
        rows = self._opened.all()
        files = ((held, (relative_name(held), allocated(held.size_bytes))) for held in here.values())
        missing = [held for held, row in files if rows.get(held.name) != row]
        return missing, [name for name in rows if name not in here]

    def entries_bytes(self) -> int:
        """The disk space of all files that are counted."""
        return self._opened.sum_bytes()

    def volume_bytes(self) -> int:
        """The same, and that of the database."""
        return self._opened.volume_bytes() + self._opened.sum_bytes()

    def others_bytes(self) -> int:
        """The disk space of the files beside the database."""
        return sum(disk_bytes(f"{self.directory}/{name}") for name in _FILES[1:])

    def growth_bytes(self) -> int:
        """How much the log may grow within one change."""
        database, log = (disk_bytes(f"{self.directory}/{name}") for name in _FILES[:2])
        longest = PAGE_BYTES * self._log_pages + min(database, PAGE_BYTES * 4 * ROWS_AT_ONCE)
        return max(0, longest - log)

    # --- changing them

    def transact(self) -> AbstractContextManager[None]:
        """Do all changes of a block in one commit."""
        return self._opened.transact()

    def enter(self, stored: Sequence[Held], used: Sequence[str]) -> list[Held]:
        """Count files in, and note the digests that were used; returns the files of replaced rows, to be removed."""
        by_name = {held.name: held for held in stored}  # the last one, if it was stored twice
        rows = [(name, relative_name(held), allocated(held.size_bytes)) for name, held in by_name.items()]
        replaced: list[Held] = []
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[begin : begin + ROWS_AT_ONCE]
            names = {name for _, name, _ in some}
            with self._changing() as change_by:
                before = self._opened.enter(some)
                change_by(sum(size_bytes for _, _, size_bytes in some) - sum(size for _, size in before))
                replaced += [self._file(name, size) for name, size in before if name not in names]
        for begin in range(0, len(used), ROWS_AT_ONCE):
            with self._changing():
                self._opened.touch(used[begin : begin + ROWS_AT_ONCE])
        return replaced

    def forget(self, names: Sequence[str]) -> None:
        """Take rows out whose files are gone."""
        for begin in range(0, len(names), ROWS_AT_ONCE):
            with self.transact():
                rows = (self._opened.row(name) for name in names[begin : begin + ROWS_AT_ONCE])
                self._opened.remove([row[0] for row in rows if row is not None])

    def evict(self, bytes_: int, floor_bytes: int = 0) -> list[Held]:
        """Take out the rows used longest ago; returns their files, to be removed.

        Args:
            bytes_: how much is wanted.
            floor_bytes: how much of the entries is to stay.
        """
        with closing(self._opened.oldest()) as rows:
            return self._take_out(rows, min(bytes_, self.entries_bytes() - floor_bytes))

    def evict_those(self, names: Iterable[str], bytes_: int) -> list[Held]:
        """Take out rows by their digests, until that frees the bytes; returns their files, to be removed."""
        rows = (row for name in names if (row := self._opened.row(name)) is not None)
        return self._take_out(rows, bytes_)

    def _take_out(self, rows: Iterable[tuple[int, str, int]], bytes_: int) -> list[Held]:
        taken: list[Held] = []
        numbers = []
        with self._changing() as change_by:
            for number, name, size_bytes in rows if bytes_ > 0 else ():
                taken.append(self._file(name, size_bytes))
                numbers.append(number)
                bytes_ -= size_bytes
                if bytes_ <= 0:
                    break
            self._opened.remove(numbers)
            change_by(-space_of(taken))
        return taken

    @contextmanager
    def _changing(self) -> Iterator[Callable[[int], None]]:
        """Change rows in a block, and check that the sum of sizes changes by the balances that the block gives."""
        balances: list[int] = []
        with self.transact():
            before = self.entries_bytes()
            yield balances.append
            expected, found = before + sum(balances), self.entries_bytes()
            if found != expected:
                raise Damage(f"the sum of sizes is {found:,}, not {expected:,}")

    def _file(self, name: str, size_bytes: int) -> Held:
        """The file of a row."""
        held = held_at(f"{self._objects}/{name}") if name[1:2] == "/" else None
        if held is None or held.name[0] != name[0] or allocated(held.size_bytes) != size_bytes:
            raise Damage(f"a row of {size_bytes} bytes is of {name!r}")
        return held


def space_of(files: Iterable[Held]) -> int:
    """The disk space of some files."""
    return sum(allocated(held.size_bytes) for held in files)
