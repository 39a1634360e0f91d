"""What a cache costs a process in memory does not grow with what goes through it."""

from __future__ import annotations

import gc
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from ai4os_data.cache import CachedStore, DiskCache, session_of
from ai4os_data.cache.claims import Claim
from tests.support.crowd import together, wrong_keys
from tests.support.sources import source, tell

if TYPE_CHECKING:
    from pathlib import Path

KiB = 1024
MiB = 1024 * KiB
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return what this process has in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE_BYTES


@dataclass
class Samples:
    """Draws samples at random, and looks at its memory after each tenth of them."""

    directory: str
    policy: Literal["auto", "lru"]
    files: int
    draws: int
    limit: str

    def __call__(self) -> tuple[list[int], dict[str, int], int]:
        """Do it; the memory, the counts, and how many more files are open in the end."""
        store = source([600] * self.files, "small")
        entries = store.list()
        cached = CachedStore(store, DiskCache(self.directory, self.limit, self.policy))
        cached.keep_together(entries)
        chance = random.Random(1)
        sizes = []
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            for _ in range(self.draws // 10 // 50):
                assert wrong_keys(cached, store, chance.sample(entries, 50)) == []
            sizes.append(resident_bytes())
        return sizes, cached.counters.totals(), len(os.listdir("/proc/self/fd")) - before


@pytest.mark.parametrize(
    ("policy", "files", "limit", "draws"),
    [("lru", 1500, "2MiB", 20_000), ("auto", 4000, "4MiB", 50_000), ("lru", 2000, "32MiB", 50_000)],
)
def test_memory_is_flat_over_50000_samples(
    tmp_path: Path, policy: Literal["auto", "lru"], files: int, limit: str, draws: int
) -> None:
    """Hits, misses, evictions and refusals by the ten thousand leave memory and open files as they were."""
    ((sizes, totals, open_files),) = together([Samples(str(tmp_path), policy, files, draws, limit)])
    tell(f"{policy} {limit}: {[f'{size / MiB:.1f}' for size in sizes]} MiB; {totals}")
    assert totals["hits"] + totals["misses"] == draws
    assert sizes[-1] - sizes[2] < 1.5 * MiB
    assert open_files < 10


def test_large_object_needs_no_more_than_its_size_twice(tmp_path: Path) -> None:
    """An answer that goes to the disk is not piled up in memory as well."""
    ((grown, right),) = together([Large(str(tmp_path))])
    tell(f"{grown / MiB:.0f} MiB for an object of 200 MiB")
    assert right
    assert grown < 420 * MiB


@dataclass
class Large:
    """Reads one large object."""

    directory: str

    def __call__(self) -> tuple[int, bool]:
        """Do it; the highest that memory was above what it was before, and whether the bytes were right."""
        store = source([200 * MiB], "large")
        cached = CachedStore(store, DiskCache(self.directory, "1GiB"))
        before = resident_bytes()
        right = wrong_keys(cached, store, store.list()) == []
        with open("/proc/self/status") as file:
            peak = next(int(line.split()[1]) * KiB for line in file if line.startswith("VmHWM"))
        return peak - before, right


def test_object_of_more_than_2_gib_comes_whole(tmp_path: Path) -> None:
    """One system call reads 2 GiB less a page at most; what the claim holds is more."""
    size = 2 * 1024**3 + 5
    claim = session_of(DiskCache(tmp_path, "4GiB")).claim("0" * 32)
    assert isinstance(claim, Claim)
    os.ftruncate(claim.file().descriptor, size)  # a file of holes
    os.pwrite(claim.file().descriptor, b"end", size - 3)
    claim.length = size
    data = claim.content()
    assert len(data) == size
    assert data[-3:] == b"end"
    claim.give_up()
