"""Filling a full cache with four processes, beside plain files that are written and deleted.

Run it as ``python -m benchmarks.fill --quick --json fill.json``.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
from collections import deque
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from ai4os_data import DiskCache, errors
from ai4os_data.cache import CachedStore
from ai4os_data.http.bodies import MemoryBody
from ai4os_data.machine.mounts import mount_of
from ai4os_data.stores import Entry, Fetched, Listing, Store
from ai4os_data.telemetry import STORED
from benchmarks.command import Options, run
from benchmarks.corpus import FILE_BYTES
from benchmarks.report import Report, at_most
from benchmarks.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.stores import Content
    from ai4os_data.stores.base import MakeBody, Outcome

PROCESSES = 4

BARS = {"fill_vs_plain": at_most(2.0)}

PLAIN = "plain files, written and deleted"
FILLED = "ours, a full cache"
PLAIN_CPU = "plain files: CPU"
FILLED_CPU = "ours, a full cache: CPU"


class NearStore(Store):
    """A store that costs nothing: all its files are the same bytes, and there already."""

    def __init__(self) -> None:
        self.location = self.identity = "near"
        self.is_local = True  # no sockets to serve meanwhile
        self.data = random.Random(20261122).randbytes(FILE_BYTES)

    def entries(self, name: str) -> Iterator[Entry]:
        """More entries, as many as are asked for."""
        for number in count():
            yield Entry(f"{name}/{number:08d}.bin", FILE_BYTES, "1")

    def _listed(self, folder: str) -> Listing:
        """Not used here."""
        raise NotImplementedError

    def stat(self, key: str) -> Entry:
        """Not used here."""
        raise NotImplementedError

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:  # noqa: ARG002
        """The same bytes for each entry."""
        for entry in entries:
            taker = MemoryBody()
            taker.write(self.data)
            yield entry, Fetched(entry, taker)

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:  # noqa: ARG002
        """A part of the same bytes."""
        return self.data[start:stop]

    def write(self, key: str, content: Content) -> Entry:
        """Not used here."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Not used here."""
        raise NotImplementedError


def measure(options: Options) -> Report:
    """Measure in memory, since the time of a disk would hide ours."""
    held, filled = options.choose(200, 4000, 8000), options.choose(50, 1000, 4000)
    with tempfile.TemporaryDirectory(prefix="ai4os-data-bench-", dir=memory_directory(options)) as name:
        directory = Path(name)
        disk = mount_of(directory)
        settings = {
            "processes": PROCESSES,
            "files in all": held,
            "written by each in a round": filled,
            "bytes a file": FILE_BYTES,
            "disk": disk.kind if disk else "unknown",
        }
        report = Report("fill", BARS, settings)
        limit = held * (FILE_BYTES + 4096)
        store = NearStore()
        cache = DiskCache(directory / "cache", size_limit=limit, policy="lru")
        with (
            Workers(PROCESSES, lambda worker: filling(store, cache, f"{worker}", held, filled)) as ours,
            Workers(PROCESSES, lambda worker: writing(store, directory / f"{worker}", held, filled)) as plain,
        ):
            for number in options.rounds("fill", 45):
                turns = [(FILLED, FILLED_CPU, ours), (PLAIN, PLAIN_CPU, plain)]
                for case, cpu_case, workers in turns if number % 2 else turns[::-1]:
                    seconds, used = workers.run()
                    report.add(case, seconds / (PROCESSES * filled) * 1e6, "µs/file")
                    report.add(cpu_case, sum(used) / (PROCESSES * filled) * 1e6, "µs CPU/file")
                taken = disk_bytes(directory / "cache")
                assert taken <= limit, f"the cache takes {taken:,} bytes, its limit is {limit:,}"
        cache.close()
    report.ratio("fill_vs_plain", FILLED, PLAIN)
    return report


def memory_directory(options: Options) -> str:
    """A tmpfs; without one another directory, and a message."""
    shared = "/dev/shm"  # noqa: S108  a folder of random name is made in it
    mount = mount_of(shared)
    if mount is not None and mount.is_memory and os.access(shared, os.W_OK):
        return shared
    print(f"{shared} is not a tmpfs that can be written: the disk is measured too", file=sys.stderr)
    return str(options.directory)


def filling(store: NearStore, cache: DiskCache, worker: str, held: int, filled: int) -> Callable[[], float]:
    """A worker that puts new entries into a full cache."""
    cached = CachedStore(store, cache)
    names = store.entries(worker)

    def fill(number: int) -> float:
        before, used = cached.counters.row[STORED], cpu_s()
        for _, result in cached.fill(next(names) for _ in range(number)):
            if isinstance(result, errors.StorageError):
                raise result
        stored = cached.counters.row[STORED] - before
        assert stored == number, f"{number - stored} of {number} were not kept"
        return cpu_s() - used

    fill(held // PROCESSES + filled)
    return lambda: fill(filled)


def writing(store: NearStore, folder: Path, held: int, filled: int) -> Callable[[], float]:
    """A worker that writes plain files, and deletes as many."""
    folder.mkdir()
    numbers = count()
    there: deque[str] = deque()

    def write(number: int) -> float:
        used = cpu_s()
        for _ in range(number):
            path = f"{folder}/{next(numbers)}"
            with open(path, "wb") as file:
                file.write(store.data)
            there.append(path)
            if len(there) > held // PROCESSES:
                os.unlink(there.popleft())
        return cpu_s() - used

    write(held // PROCESSES + filled)
    return lambda: write(filled)


def cpu_s() -> float:
    """The CPU time of this process, in user and kernel mode."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def disk_bytes(folder: Path) -> int:
    """The size of a folder in allocated blocks."""
    paths = [folder, *folder.rglob("*")]
    return sum(path.stat().st_blocks * 512 for path in paths if path.exists())


if __name__ == "__main__":
    sys.exit(run(measure, "Fill a full cache from four processes."))
