"""Files are brought into a cache until it is full."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors, telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.cache import CachedStore, WantedFile

_PASSES_UNTIL_FULL = 64


class Filling(NamedTuple):
    """What came of it.

    Attributes:
        files: how many of them are in the cache now.
        size_bytes: what came over the network for it.
        is_full: whether the cache had no room for the others.
    """

    files: int
    size_bytes: int
    is_full: bool


def fill(
    cached: CachedStore,
    files: Sequence[WantedFile],
    came: Callable[[int], object],
    failed: Callable[[WantedFile, errors.StorageError], object],
) -> Filling:
    """Bring files into a cache, as far as there is room.

    Args:
        cached: the store, seen through the cache.
        files: each once.
        came: called with the size of each file that has been dealt with.
        failed: called with each file that cannot be read.
    """
    counts = cached.counters.row
    fetched, there, is_full = 0, 0, False
    passed_before = counts[telemetry.PASSED_THROUGH]
    for wanted, result in cached.fill(files):
        came(wanted.size_bytes)
        if isinstance(result, errors.StorageError):
            failed(wanted, result)
            continue
        there += 1
        fetched += result
        is_full = counts[telemetry.PASSED_THROUGH] - passed_before > _PASSES_UNTIL_FULL
        if is_full:
            break
    # Only now: at the end of the filling, what was still on its way to the disk has found room or has not.
    kept = there - (counts[telemetry.PASSED_THROUGH] - passed_before)
    return Filling(kept, fetched, is_full)
