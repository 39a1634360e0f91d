"""What one process knows of a cache's entries: the last used ones, and where the file of names has the others.

This is a hint: an entry may have been evicted since, and only its file counts.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ai4os_data.cache.entries import DIGEST_DIGITS, Held, held_at
from ai4os_data.cache.name_positions import NamePositions
from ai4os_data.cache.names import Names
from ai4os_data.machine import tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_KNOWN = 10_000

_NEWER = ">"  # after a digest in the file of names: what follows is no size, but another digest
_LINE_END = 10
_MANY_BYTES = 16 * 1024  # of new lines, from which they are added all at once


class Known:
    """The entries that one process knows of.

    Args:
        directory: the cache's.

    Attributes:
        recent: the files that were used last, by digest; most are still there.
        newer: digests of what files had become when they were fetched.
        names: the file from which processes learn of each other's entries.
    """

    def __init__(self, directory: str) -> None:
        self._root = f"{directory}/objects"
        self.recent: dict[str, Held] = {}
        self.newer: dict[str, str] = {}
        self.names = Names(f"{directory}/names")
        self._positions = NamePositions(self.names.line_at)
        self._threads = threading.Lock()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Wait for no thread of the parent."""
        self._threads = threading.Lock()

    def __contains__(self, name: object) -> bool:
        """Whether there was a cached file for a digest, as far as this process knows."""
        return name in self.recent or (isinstance(name, str) and self._positions.line(name) is not None)

    def find(self, name: str) -> Held | None:
        """The cached file for a digest, whoever put it there; it may have been evicted since."""
        held = self.recent.get(name)
        if held is not None:
            return held
        with self._threads:  # otherwise a thread that looks while another one reads new lines would miss them
            self._read_news()
            line = self._positions.line(name)
            if line is not None and (held := held_at(f"{self._root}/{line[:1]}/{line}")) is not None:
                self.remember(held)
            return held

    def remember(self, held: Held, position: int | None = None) -> None:
        """Remember a file. Only some are kept, since each takes half a KB in every process.

        Args:
            held: the file.
            position: of its name in the file of names, if it was appended just now.
        """
        if len(self.recent) >= MOST_KNOWN:
            for name in list(islice(self.recent, MOST_KNOWN // 2)):
                self.recent.pop(name, None)
        self.recent[held.name] = held
        if position is not None:
            with self._threads:
                self._positions.add(held.name, position)

    def forget(self, name: str) -> None:
        """Record that a file is gone."""
        self.recent.pop(name, None)
        with self._threads:
            self._positions.remove(name)

    def note_newer(self, link: str, newer: str) -> None:
        """Let every process know the digest of what a file had become when it was fetched.

        Args:
            link: names the listed file and its listing.
            newer: the digest.
        """
        if self.newer.get(link) != newer:
            self.newer[link] = newer
            self.names.append(f"{link}{_NEWER}{newer}")

    def rewrite(self, here: Callable[[], Iterable[str]]) -> None:
        """Write the file of names anew, with the files that are there and no others. The caller has the ledger.

        Args:
            here: gives the names of the files.
        """

        def lines() -> Iterable[str]:
            found = {name[:DIGEST_DIGITS]: name for name in here()}
            yield from found.values()
            yield from (f"{name}{_NEWER}{newer}" for name, newer in list(self.newer.items()) if newer in found)

        with self._threads:
            self._read_news()
        self.names.rewrite(lines)

    def _read_news(self) -> None:
        """Read the names that are new."""
        is_all, begin, data = self.names.news()
        if is_all:  # forget the entries that were evicted since the last time
            self._positions.clear()
            self.recent.clear()
            self.newer.clear()
        if data:
            self._take(begin, data)

    def _take(self, begin: int, data: bytes) -> None:
        """Record lines of the file of names."""
        if len(data) > _MANY_BYTES:
            self._take_many(begin, data)
            return
        for line in data.decode("ascii", "replace").splitlines(keepends=True):
            self._take_line(line.rstrip(), begin)
            begin += len(line)

    def _take_line(self, line: str, position: int) -> None:
        name, mark, newer = line[:DIGEST_DIGITS], line[DIGEST_DIGITS : DIGEST_DIGITS + 1], line[DIGEST_DIGITS + 1 :]
        if mark == _NEWER:
            self.newer[name] = newer
        elif mark:
            self._positions.add(name, position)

    def _take_many(self, begin: int, data: bytes) -> None:
        characters = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(characters == _LINE_END)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
        is_long = ends - starts > DIGEST_DIGITS  # a shorter one is damaged, or the head
        starts, ends = starts[is_long], ends[is_long]
        is_newer = characters[starts + DIGEST_DIGITS] == ord(_NEWER)
        for start, end in zip(starts[is_newer].tolist(), ends[is_newer].tolist(), strict=True):
            self._take_line(data[start:end].decode("ascii", "replace"), begin + start)
        self._positions.add_all(data, begin, starts[~is_newer])
