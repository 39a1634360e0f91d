"""The database of a cache's index, kept by diskcache: one connection, closed before every fork.

Errors of SQLite leave this module as `Damage`, and rows that are not ours raise it too. A bug of ours is raised as it
is, and never taken for a damaged disk.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import diskcache

from ai4os_data.cache.waiting import Waiting
from ai4os_data.machine import leave_to_parent, no_fork, tell_after_fork, tell_before_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

LOCKED_FOR_S = 10.0  # nobody else changes the index while we have the ledger; a foreign program might

_FULL = 13  # https://www.sqlite.org/rescode.html
_LOCKED = {5, 6}
_TICK_S = 1e-6  # between the times of uses that are noted together
_SETTINGS = {
    "eviction_policy": "least-recently-used",
    "cull_limit": 0,
    "statistics": 0,
    "sqlite_synchronous": 0,  # the cache dies with the machine; kill -9 leaves the page cache intact
    "sqlite_mmap_size": 0,  # a truncated file would end the process with SIGBUS
    "sqlite_auto_vacuum": 0,  # pages of evicted rows are used again
    "sqlite_journal_size_limit": 0,
}
_LOG_PAGES = "sqlite_wal_autocheckpoint"
_KNOWN_SETTINGS = {*_SETTINGS, _LOG_PAGES, *diskcache.core.DEFAULT_SETTINGS, *diskcache.core.METADATA}
_PRAGMAS = sorted(key for key in _KNOWN_SETTINGS if key.startswith("sqlite_"))
_ROW = "SELECT rowid, filename, size FROM Cache"


class Damage(Exception):  # noqa: N818  it never leaves the cache
    """The index does not work, or its content is wrong: it is made anew from the files.

    Attributes:
        code: SQLite's number for what it said, from Python 3.11 on.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_full(self) -> bool:
        """Whether SQLite said that the disk is full."""
        return self.code == _FULL

    def is_locked(self, took_s: float) -> bool:
        """Whether a foreign program has the index locked, which is no damage.

        Args:
            took_s: how long the call took to fail. If the error has no number, only the wait shows that it was a lock.
        """
        if self.code is None:
            is_busy = isinstance(self.__cause__, (sqlite3.OperationalError, diskcache.Timeout))
            return is_busy and took_s >= LOCKED_FOR_S
        return self.code & 0xFF in _LOCKED


@contextmanager
def _translated() -> Iterator[None]:
    """Raise errors of the database as damage; a wrong use of it by us is raised as it is."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except (sqlite3.DatabaseError, diskcache.Timeout, UnicodeDecodeError) as error:  # the last for a message of SQLite
        if isinstance(error.__context__, Damage):  # then this is the rollback, which failed too
            raise error.__context__ from None
        origin = error.__context__ if isinstance(error, diskcache.Timeout) else error
        code = getattr(origin, "sqlite_errorcode", None)
        raise Damage(f"{type(error).__name__}: {error}", code) from error


class _NamesOnly(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Refuses every value of diskcache that would have to be pickled or unpickled."""

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
    raise TypeError(f"the cache's index holds names only, not {type(value).__name__}")


class _Database(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache with a single connection for all threads, one at a time: so it can be closed before a fork."""

    _connection: sqlite3.Connection | None = None

    def __init__(self, directory: str, limit_bytes: int, log_pages: int) -> None:
        settings = {**_SETTINGS, _LOG_PAGES: log_pages}
        super().__init__(directory, disk=_NamesOnly, timeout=LOCKED_FOR_S, size_limit=limit_bytes, **settings)
        tell_before_fork(self)
        tell_after_fork(self)

    @property
    def _con(self) -> sqlite3.Connection:
        return self.connection()

    def connection(self) -> sqlite3.Connection:
        """The connection, opened on first use."""
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"{self._directory}/cache.db", timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            for key in _PRAGMAS:  # they hold for one connection; diskcache sets those of its first one
                if hasattr(self, key):
                    self.reset(key, getattr(self, key), update=False)
        return self._connection

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        """Runs changes outside of transactions; diskcache's own version repeats them for a minute."""
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
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _LOCKED or not waiting.pause():
                    raise

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    before_fork = close  # SQLite in a child would take its parent's locks for its own

    def after_fork(self) -> None:
        """Leave the connection to the parent, if the fork came while it was in use."""
        connection, self._connection = self._connection, None
        leave_to_parent(connection)

    def __del__(self) -> None:
        """Close it now, or just before the fork that has begun: a finalizer must not wait for a fork."""
        with no_fork(wait=False) as is_certain:
            if is_certain:
                self.close()
            elif self._connection is not None:
                _abandoned.connections.append(self._connection)


class Index:
    """The rows of a database: key, file name, size and last use of each entry, and the sum of all sizes.

    The columns are those that diskcache's own ``set`` fills. Its calls one by one would cost three times what SQLite
    does, see docs/decisions/2026-11-24-rows-in-bulk.md.

    Args:
        directory: has the database, or is to have it.
        limit_bytes: the limit that diskcache is given; it never evicts anything by itself.
        log_pages: how long the write-ahead log may grow before it is copied back.

    Raises:
        Damage: the file is not our database.
    """

    def __init__(self, directory: str, limit_bytes: int, log_pages: int) -> None:
        with _translated():
            _check_settings(f"{directory}/cache.db")
            self._database = _Database(directory, limit_bytes, log_pages)

    # --- what is in it

    def count(self) -> int:
        """How many rows there are."""
        return self._setting("count")

    def sum_bytes(self) -> int:
        """The sum of all sizes, as triggers keep it."""
        return self._setting("size")

    def volume_bytes(self) -> int:
        """What the pages of the database take."""
        return self._number("PRAGMA page_count") * self._number("PRAGMA page_size")

    def oldest(self) -> Generator[tuple[int, str, int], None, None]:
        """Number, file name and size of each row, the one used longest ago first."""
        return self._rows(f"{_ROW} ORDER BY access_time", (), (int, str, int))

    def row(self, key: str) -> tuple[int, str, int] | None:
        """Number, file name and size of the row with a key."""
        return next(self._rows(f"{_ROW} WHERE key = ? AND raw = 1", (key,), (int, str, int)), None)

    def all(self) -> dict[str, tuple[str, int]]:
        """File name and size of every row, by its key."""
        rows = self._rows("SELECT key, filename, size FROM Cache", (), (str, str, int))
        return {key: (name, size) for key, name, size in rows}

    def _setting(self, key: str) -> int:
        return self._number("SELECT value FROM Settings WHERE key = ?", key)

    def _number(self, statement: str, *values: str) -> int:
        number: int
        for (number,) in self._rows(statement, values, (int,)):
            if number < 0:  # all of them count something
                raise Damage(f"{statement!r} gives {number}")
            return number
        raise Damage(f"{statement!r} gives nothing")

    def _rows(self, statement: str, values: Sequence[str], types: tuple[type, ...]) -> Generator[Any, None, None]:
        with _translated():
            for row in self._database.connection().execute(statement, values):
                if tuple(map(type, row)) != types:
                    raise Damage(f"a row is {row!r}")
                yield row

    # --- changing it

    @contextmanager
    def transact(self) -> Iterator[None]:
        """Do all changes of a block in one commit, since they touch the same pages."""
        with _translated(), self._database.transact():
            yield

    def enter(self, rows: Sequence[tuple[str, str, int]]) -> list[tuple[str, int]]:
        """Add rows of key, file name and size, or replace those with the same keys; returns what was replaced."""
        now = time.time()
        keys = [key for key, _, _ in rows]
        in_place = f"SELECT filename, size FROM Cache WHERE raw = 1 AND key IN ({','.join('?' * len(keys))})"  # noqa: S608
        found: list[tuple[str, int]] = list(self._rows(in_place, keys, (str, int)))
        self._many(
            "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename) VALUES (?, 1, ?, ?, ?, ?, ?)"
            " ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time,"
            " access_time = excluded.access_time, size = excluded.size, filename = excluded.filename",
            [
                (key, now, now + number * _TICK_S, size_bytes, diskcache.core.MODE_RAW, name)
                for number, (key, name, size_bytes) in enumerate(rows)
            ],
        )
        return found

    def touch(self, keys: Sequence[str]) -> None:
        """Note that these keys were used now, in this order."""
        now = time.time()
        uses = [(now + number * _TICK_S, key) for number, key in enumerate(keys)]
        self._many("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", uses)

    def remove(self, numbers: Iterable[int]) -> None:
        """Take rows out by their numbers."""
        self._many("DELETE FROM Cache WHERE rowid = ?", ((number,) for number in numbers))

    def _many(self, statement: str, values: Iterable[tuple[object, ...]]) -> None:
        with _translated():
            self._database.connection().executemany(statement, values)

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        self._database.close()


class _Abandoned:
    """Connections whose owner was deleted while another thread was forking."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []
        tell_before_fork(self)

    def before_fork(self) -> None:
        """Close them."""
        while self.connections:
            with suppress(sqlite3.Error):
                self.connections.pop().close()


_abandoned = _Abandoned()


def _check_settings(path: str) -> None:
    """Check the settings by which diskcache opens the database.

    Raises:
        Damage: diskcache could not read them.
    """
    with closing(sqlite3.connect(path, timeout=LOCKED_FOR_S)) as connection:
        if connection.execute("SELECT name FROM sqlite_master WHERE name = 'Settings'").fetchone() is None:
            return  # a new one
        settings = connection.execute("SELECT key, value FROM Settings").fetchall()
    for key, value in settings:
        if key not in _KNOWN_SETTINGS or not isinstance(value, (int, float, str)):
            raise Damage(f"a setting is {key!r}: {value!r}")
