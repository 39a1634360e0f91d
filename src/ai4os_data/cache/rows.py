"""The rows of the index: which entries are counted, and in what order they were used last. They lie in diskcache.

Whoever calls has the ledger to itself. A row that is taken out leaves its file to the caller. The sum that is kept of
all sizes changes by exactly what goes in and out, or the index is damaged.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import diskcache

from ai4os_data.cache.claims import Waiting
from ai4os_data.cache.objects import Held, Objects, relative_name
from ai4os_data.cache.staged import allocated
from ai4os_data.machine import (
    disk_bytes,
    identity,
    leave_to_parent,
    no_fork,
    ownership,
    tell_after_fork,
    tell_before_fork,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

PAGE_BYTES = 4096
ROWS_AT_ONCE = 128  # bounds the write-ahead log of one transaction

_FILES = ("cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal")
_LEAST_LOG_PAGES, _MOST_LOG_PAGES = 16, 256
_LOG_PART = 2048  # of the limit: a longer log is copied back less often
_TICK_S = 1e-6  # between the last uses that are noted at once

# What a damaged index may show itself as; each leads to a new one, made from the names of the files.
DAMAGE = (
    sqlite3.Error,
    diskcache.Timeout,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    OverflowError,
)
SQLITE_FULL = 13  # https://www.sqlite.org/rescode.html
_SQLITE_LOCKED = {5, 6}
LOCKED_FOR_S = 10.0  # nobody else changes the index while we have the ledger; a foreign program might


def sqlite_code(error: Exception) -> int | None:
    """SQLite's number for an error, from Python 3.11 on."""
    origin = error.__context__ if isinstance(error, diskcache.Timeout) else error
    return getattr(origin, "sqlite_errorcode", None)


def is_locked(error: Exception, took_s: float) -> bool:
    """Whether an error says that a foreign program has the index locked, which is no damage.

    Args:
        error: what came.
        took_s: how long it took to come: where there is no number, a lock shows by having been waited for.
    """
    code = sqlite_code(error)
    if code is None:
        return took_s >= LOCKED_FOR_S and isinstance(error, (sqlite3.OperationalError, diskcache.Timeout))
    return code & 0xFF in _SQLITE_LOCKED


class _NamesOnly(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Lets nothing into diskcache, or out of it, that would have to be unpickled."""

    def put(self, key: object) -> tuple[object, bool]:
        if not isinstance(key, str):
            _refuse_pickle(key)
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not raw or not isinstance(key, str):
            _refuse_pickle(key)
        return key

    def store(self, value: object, *_read: object, **_key: object) -> NoReturn:
        _refuse_pickle(value)

    def fetch(self, _mode: object, filename: str, *_: object) -> str:
        return filename


def _refuse_pickle(value: object) -> NoReturn:
    message = f"the cache's index holds names only, not {type(value).__name__}"
    raise TypeError(message)


class _Index(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache with changes of many rows at once: one by one, its calls cost three times what SQLite does.

    The columns are those that its own ``set`` fills; see docs/decisions/2026-11-24-rows-in-bulk.md. All threads share
    one connection, one at a time: so it can be closed before a fork, whichever thread has opened it.
    """

    _connection: sqlite3.Connection | None = None

    @property
    def _con(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"{self._directory}/cache.db", timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            with suppress(sqlite3.OperationalError):  # a new one has no settings
                settings = self._connection.execute("SELECT key, value FROM Settings").fetchall()
                for key, value in settings:
                    if key.startswith("sqlite_"):  # they hold for one connection
                        self.reset(key, value, update=False)
        return self._connection

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        """What changes the database outside of transactions; diskcache itself would try it for a minute."""
        if sys.version_info < (3, 11):  # errors have no numbers
            retrying: Callable[..., sqlite3.Cursor] = super()._sql_retry
            return retrying
        return self._execute_when_unlocked

    def _execute_when_unlocked(self, statement: str, *values: Any) -> sqlite3.Cursor:
        waiting = Waiting(LOCKED_FOR_S)
        while True:
            try:
                return self._con.execute(statement, *values)
            except sqlite3.OperationalError as error:
                if not is_locked(error, 0) or not waiting.pause():
                    raise

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def leave_to_parent(self) -> None:
        """In a child: let the parent's connection be."""
        connection, self._connection = self._connection, None
        leave_to_parent(connection)

    def enter(self, rows: Sequence[tuple[str, str, int]]) -> list[tuple[str, int]]:
        """Add rows of key, file name and size, or put them in the place of those with their keys; what these had."""
        now = time.time()
        keys = [key for key, _, _ in rows]
        found: list[tuple[str, int]] = self._con.execute(
            f"SELECT filename, size FROM Cache WHERE raw = 1 AND key IN ({','.join('?' * len(keys))})",  # noqa: S608
            keys,
        ).fetchall()
        self._con.executemany(
            "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename) VALUES (?, 1, ?, ?, ?, ?, ?)"
            " ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time,"
            " access_time = excluded.access_time, size = excluded.size, filename = excluded.filename",
            [
                (key, now, now + number * _TICK_S, size_bytes, diskcache.core.MODE_RAW, name)
                for number, (key, name, size_bytes) in enumerate(rows)
            ],
        )
        return found

    def touch_all(self, keys: Sequence[str]) -> None:
        """Note that they were used now, in this order."""
        now = time.time()
        uses = [(now + number * _TICK_S, key) for number, key in enumerate(keys)]
        self._con.executemany("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", uses)

    def oldest(self) -> sqlite3.Cursor:
        """Number, file name and size of each row, the one used longest ago first."""
        found: sqlite3.Cursor = self._con.execute("SELECT rowid, filename, size FROM Cache ORDER BY access_time")
        return found

    def row(self, key: str) -> tuple[int, str, int] | None:
        """Number, file name and size of the row with a key."""
        found: tuple[int, str, int] | None = self._con.execute(
            "SELECT rowid, filename, size FROM Cache WHERE key = ? AND raw = 1", (key,)
        ).fetchone()
        return found

    def remove(self, numbers: Iterable[int]) -> None:
        """Take rows out by their numbers."""
        self._con.executemany("DELETE FROM Cache WHERE rowid = ?", ((number,) for number in numbers))

    def all(self) -> dict[str, tuple[str, int]]:
        """File name and size of every row, by its key."""
        return {key: (name, size) for key, name, size in self._con.execute("SELECT key, filename, size FROM Cache")}


class _Abandoned:
    """Databases whose owner went while another thread was forking."""

    def __init__(self) -> None:
        self.indices: list[_Index] = []
        tell_before_fork(self)

    def before_fork(self) -> None:
        """Close them."""
        while self.indices:
            with suppress(*DAMAGE):
                self.indices.pop().close()


_abandoned = _Abandoned()


class Rows:
    """The rows, as one process has them open.

    Args:
        directory: the cache's.
        limit_bytes: what it may take.
        objects: the files.
    """

    def __init__(self, directory: str, limit_bytes: int, objects: Objects) -> None:
        self.directory = f"{directory}/index"
        self._limit = limit_bytes
        self._objects = objects
        self._log_pages = max(_LEAST_LOG_PAGES, min(_MOST_LOG_PAGES, limit_bytes // _LOG_PART // PAGE_BYTES))
        self._index: _Index | None = None
        self._identity: tuple[int, int] | None = None
        self._taken: list[Held] = []
        self._balance = 0
        tell_before_fork(self)
        tell_after_fork(self)

    def before_fork(self) -> None:
        """Close the connection: SQLite in a child would take its parent's locks for its own."""
        if self._index is not None:
            with suppress(*DAMAGE):
                self._index.close()

    def after_fork(self) -> None:
        """Let what a fork from the midst of it has left open be the parent's."""
        if self._index is not None:
            self._index.leave_to_parent()

    def __del__(self) -> None:
        """Close the database, now or before the fork that is about to come: a finalizer must not wait for it."""
        if self._index is not None:
            with no_fork(wait=False) as is_certain:
                if is_certain:
                    self.close()
                else:
                    _abandoned.indices.append(self._index)

    def open(self) -> bool:
        """Open them, unless they are; whether they are new, since there were none, or somebody removed them."""
        path = f"{self.directory}/cache.db"
        found = identity(path)
        if self._index is not None and found == self._identity:
            return False
        self.close()  # of a file that somebody has put a new one in place of, or removed
        if found is None:
            self._objects.prepare()
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            self.remove()
            os.close(ownership.open_file(path, os.O_CREAT | os.O_WRONLY))
        self._index = _Index(
            self.directory,
            disk=_NamesOnly,
            timeout=LOCKED_FOR_S,
            eviction_policy="least-recently-used",
            cull_limit=0,
            statistics=0,
            size_limit=self._limit,
            sqlite_synchronous=0,  # the cache dies with the machine; kill -9 leaves the page cache intact
            sqlite_mmap_size=0,  # a truncated file would end the process with SIGBUS
            sqlite_auto_vacuum=0,  # pages of evicted rows are used again
            sqlite_wal_autocheckpoint=self._log_pages,
            sqlite_journal_size_limit=0,
        )
        self._identity = identity(path)
        return found is None

    def __len__(self) -> int:
        """How many there are."""
        return len(self._opened)

    def unlike(self, here: Mapping[str, Held]) -> tuple[list[Held], list[str]]:
        """What rows say otherwise than the files that are there.

        Returns:
            The files that have no row, or another one; and the digests that have a row and no file.
        """
        rows = self._opened.all()
        files = ((held, (relative_name(held), allocated(held.size_bytes))) for held in here.values())
        missing = [held for held, row in files if rows.get(held.name) != row]
        return missing, [name for name in rows if name not in here]

    @property
    def entries_bytes(self) -> int:
        """The disk space of all files that are counted."""
        return int(self._opened.reset("size"))

    @property
    def volume_bytes(self) -> int:
        """The same, and that of the database."""
        return int(self._opened.volume())

    @property
    def bookkeeping(self) -> list[str]:
        """The files that the volume leaves out."""
        return [f"{self.directory}/{name}" for name in _FILES[1:]]

    def growth_bytes(self) -> int:
        """What the log may grow by within one change."""
        database, log = (disk_bytes(f"{self.directory}/{name}") for name in _FILES[:2])
        longest = PAGE_BYTES * self._log_pages + min(database, PAGE_BYTES * 4 * ROWS_AT_ONCE)
        return max(0, longest - log)

    # --- changing them

    def transact(self) -> AbstractContextManager[None]:
        """One commit for all that is done meanwhile: it touches the same pages."""
        changing: AbstractContextManager[None] = self._opened.transact()
        return changing

    def enter(self, stored: Sequence[Held], used: Sequence[str]) -> None:
        """Count files in, and note the digests that were used."""
        by_name = {held.name: held for held in stored}  # the last one, of what was stored twice
        rows = [(name, relative_name(held), allocated(held.size_bytes)) for name, held in by_name.items()]
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[begin : begin + ROWS_AT_ONCE]
            names = {name for _, name, _ in some}
            with self._changing() as index:
                replaced = index.enter(some)
                self._balance = sum(size_bytes for _, _, size_bytes in some) - sum(size for _, size in replaced)
                self._taken += [self._file(name, size) for name, size in replaced if name not in names]
        for begin in range(0, len(used), ROWS_AT_ONCE):
            with self._changing() as index:
                index.touch_all(used[begin : begin + ROWS_AT_ONCE])

    def forget(self, names: Sequence[str]) -> None:
        """Take rows out whose files are gone."""
        for begin in range(0, len(names), ROWS_AT_ONCE):
            with self._opened.transact():
                rows = (self._opened.row(name) for name in names[begin : begin + ROWS_AT_ONCE])
                self._opened.remove([row[0] for row in rows if row is not None])

    def evict(self, bytes_: int, floor_bytes: int) -> int:
        """Take out those used longest ago; how many bytes that makes free.

        Args:
            bytes_: how many are wanted.
            floor_bytes: of entries that are to stay.
        """
        with closing(self._opened.oldest()) as rows:
            return self._take_out(rows, min(bytes_, self.entries_bytes - floor_bytes))

    def evict_those(self, names: Iterable[str], bytes_: int) -> int:
        """Take out some by their digests, until that makes so many bytes free; how many it does."""
        rows = (row for name in names if (row := self._opened.row(name)) is not None)
        return self._take_out(rows, bytes_)

    def _take_out(self, rows: Iterable[tuple[int, str, int]], bytes_: int) -> int:
        """Take rows out, until that makes so many bytes free; how many it does."""
        freed = 0
        numbers = []
        with self._changing() as index:
            for number, name, size_bytes in rows if bytes_ > 0 else ():
                self._taken.append(self._file(name, size_bytes))
                numbers.append(number)
                freed += size_bytes
                if freed >= bytes_:
                    break
            index.remove(numbers)
            self._balance = -freed
        return freed

    @contextmanager
    def _changing(self) -> Iterator[_Index]:
        """Change rows, and see that the sum of sizes changes by the balance that is told."""
        index = self._opened
        self._balance = 0
        with index.transact():
            before = self.entries_bytes
            yield index
            if self.entries_bytes != before + self._balance:
                message = f"the sum of sizes is {self.entries_bytes:,}, not {before + self._balance:,}"
                raise sqlite3.DatabaseError(message)

    def _file(self, name: str, size_bytes: int) -> Held:
        """The file of a row."""
        try:
            held = self._objects.named(name)
        except FileNotFoundError:
            held = None
        if held is None or allocated(held.size_bytes) != size_bytes:
            message = f"a row of {size_bytes} bytes is of {name!r}"
            raise sqlite3.DatabaseError(message)
        return held

    def taken(self) -> list[Held]:
        """The files whose rows were evicted since this was last asked, for the caller to remove."""
        taken, self._taken = self._taken, []
        return taken

    @property
    def taken_bytes(self) -> int:
        """The disk space of these files."""
        return sum(allocated(held.size_bytes) for held in self._taken)

    # --- the files that they lie in

    @property
    def _opened(self) -> _Index:
        assert self._index is not None
        return self._index

    def close(self) -> None:
        """Close the database."""
        index, self._index = self._index, None
        if index is not None:
            with no_fork(), suppress(*DAMAGE):
                index.close()

    def remove(self) -> None:
        """Remove the database."""
        for name in _FILES:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")
