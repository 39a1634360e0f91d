"""The position of each digest in the file of names: eight bytes a line, in arrays that forked workers do not copy."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_PREFIX_DIGITS = 8
_MOST_RECENT = 4096  # lines that are not yet sorted in
_GONE = 0  # the head of the file is there, and no name

_DIGITS = np.zeros(256, np.uint32)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class NamePositions:
    """The positions of lines, by the digests that they begin with.

    Args:
        line_at: gives the line at a position of the file; an empty one if there is none.
    """

    def __init__(self, line_at: Callable[[int], str]) -> None:
        self._line_at = line_at
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._prefixes, self._positions = array("I"), array("I")  # sorted by the first, and then by the second
        self._recent: dict[str, int] = {}

    def add(self, digest: str, position: int) -> None:
        """Record a line."""
        self._recent[digest] = position
        if len(self._recent) > _MOST_RECENT:
            recent, self._recent = self._recent, {}
            prefixes = np.fromiter(map(_prefix, recent), np.uint32, len(recent))
            self._sort_in(prefixes, np.fromiter(recent.values(), np.int64, len(recent)))

    def add_all(self, data: bytes, begin: int, starts: NDArray[np.int64]) -> None:
        """Record many lines.

        Args:
            data: the lines.
            begin: the position of the first one in the file.
            starts: where each begins in the data; it is longer than a digest.
        """
        characters = np.frombuffer(data, np.uint8)
        prefixes = np.zeros(len(starts), np.uint32)
        for digit in range(_PREFIX_DIGITS):
            prefixes = (prefixes << np.uint32(4)) | _DIGITS[characters[starts + digit]]
        self._sort_in(prefixes, starts + begin)

    def _sort_in(self, prefixes: NDArray[np.uint32], positions: NDArray[np.int64]) -> None:
        order = np.lexsort((positions, prefixes))
        order = order[positions[order] < 1 << 32]
        prefixes, new_positions = prefixes[order], positions[order].astype(np.uint32)
        old_prefixes, old_positions = (
            np.frombuffer(self._prefixes, np.uint32),
            np.frombuffer(self._positions, np.uint32),
        )
        after = np.searchsorted(old_prefixes, prefixes, side="right")
        self._prefixes, self._positions = array("I"), array("I")
        self._prefixes.frombytes(np.insert(old_prefixes, after, prefixes).tobytes())
        self._positions.frombytes(np.insert(old_positions, after, new_positions).tobytes())

    def line(self, digest: str) -> str | None:
        """The last line of a digest."""
        found = self._find(digest)
        return None if found is None else found[1]

    def remove(self, digest: str) -> None:
        """Forget the last line of a digest, whose entry is gone."""
        if self._recent.pop(digest, None) is None and (found := self._find(digest)) is not None:
            self._positions[found[0]] = _GONE

    def _find(self, digest: str) -> tuple[int, str] | None:
        if (position := self._recent.get(digest)) is not None and (line := self._line_at(position)).startswith(digest):
            return -1, line
        prefix = _prefix(digest)
        number = bisect_right(self._prefixes, prefix) - 1
        while number >= 0 and self._prefixes[number] == prefix:
            position = self._positions[number]
            if position != _GONE and (line := self._line_at(position)).startswith(digest):
                return number, line
            number -= 1
        return None


def _prefix(digest: str) -> int:
    try:
        return int(digest[:_PREFIX_DIGITS], 16)
    except ValueError:  # a damaged line, whose digest nobody asks for
        return 0
