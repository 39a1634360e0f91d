"""Epochs in a known order over a narrow link: bytes fetched, time waited, and the cost of looking ahead.

Run it as ``python -m benchmarks.epochs --quick --json epochs.json``.
"""

from __future__ import annotations

import math
import random
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.data import DataLoader

from ai4os_data import DiskCache, Remote, Sample, StorageDataLoader, StorageDataset, StorageSampler
from benchmarks import bare_curl
from benchmarks.command import Options, run
from benchmarks.report import Report, at_most
from benchmarks.static_server import StaticServer
from benchmarks.workers import Workers
from tests.support.servers.proxy import ShapedProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RATE_BIT_S = 400e6
RTT_S = 0.020
IN_FLIGHT = 32
BATCH = 32
WORKERS = 2
SHARES = (0.1, 0.25, 0.5, 0.75)
SIDE = 88
PICTURE_BYTES = 3 * SIDE * SIDE
SMALLEST_BYTES, LARGEST_BYTES = 100_000, 1_000_000
EPOCHS = 4
RANKS, RANK_EPOCHS = 2, 3
COMPUTE = 1.2  # times what the network needs for the same bytes

PARTS = ("bound", "stall", "cold", "warm", "ranks")
BARS = {
    **{f"bytes_vs_bound_{share:g}": at_most(1.05) for share in SHARES},
    "stall_share": at_most(0.05),
    "cold_epoch_vs_network": at_most(1.10),
    "warm_cpu": at_most(0.02),
    "two_ranks_bytes": at_most(1.01),
}

OURS = "ours, auto"
LRU = "ours, lru"
PLAIN = "plain DataLoader, auto"
FORMULA = "lru, by the formula"
BOUND = "the bound, 1 - c"
OF_ALL = "of the data fetched in an epoch"
CURL = "bare curl, 32 in flight, thrown away"
COLD = "ours: a cold epoch, 2 workers"
COLD_FIRST = "ours: first batch of a cold epoch"
STALL_FIRST = "ours: first batch, with compute"
WARM = "ours: a warm epoch, 2 workers"
WARM_CPU = "ours: CPU of the look-ahead in it"
ONE_RANK, TWO_RANKS = "1 rank, 3 epochs", "2 ranks, 3 epochs"


@dataclass(frozen=True)
class Link:
    """Files on a server, reached through a narrow link and without it.

    Attributes:
        sizes: of all files.
        near: the server itself.
        far: the same server, through the link.
        names: of all files.
    """

    sizes: list[int]
    near: str
    far: str
    names: list[str]

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(self.sizes)

    def dataset(self, cache: DiskCache, *, near: bool = False) -> StorageDataset:
        """A dataset over the link, or beside the server if only bytes are counted."""
        url = self.near if near else self.far
        remote = Remote(url, "alice", "unasked")
        return StorageDataset(url, remote=remote, cache=cache, decode=picture, target=size_of)

    def curl_s(self) -> float:
        """The seconds that bare curl takes for all files."""
        begun = time.perf_counter()
        bare_curl.throw_away([f"{self.far}{name}" for name in self.names], IN_FLIGHT)
        return time.perf_counter() - begun


def measure(options: Options) -> Report:
    """Measure all parts."""
    number = options.choose(40, 800, 1600)
    sizes = spread(number)
    settings = {
        "files": number,
        "bytes": sum(sizes),
        "bytes a file": f"{min(sizes)} to {max(sizes)}",
        "link": f"{RATE_BIT_S / 1e6:g} Mbit/s",
        "RTT": f"{RTT_S * 1000:g} ms",
        "workers": WORKERS,
    }
    report = Report("epochs", BARS, settings)
    folder = options.directory / "files"
    names = write(folder, sizes)
    with (
        StaticServer(folder) as server,
        ShapedProxy("127.0.0.1", server.port, rtt_s=RTT_S, rate_bit_s=RATE_BIT_S) as line,
    ):
        link = Link(sizes, server.url, f"{line.url}dav/", names)
        parts: dict[str, Callable[[Report, Link, Options], None]] = {
            "cold": measure_cold,
            "stall": measure_stall,
            "warm": measure_warm,
            "ranks": measure_ranks,
            "bound": measure_bound,
        }
        for part, measured in parts.items():
            if options.wants(part):
                begun = time.monotonic()
                measured(report, link, options)
                print(f"{part}: {time.monotonic() - begun:.0f} s in all", file=sys.stderr)
    return report


def spread(number: int) -> list[int]:
    """Sizes whose logarithms are spread evenly over a factor of ten."""
    chance = random.Random(20261122)
    low, high = math.log(SMALLEST_BYTES), math.log(LARGEST_BYTES)
    return [int(math.exp(chance.uniform(low, high))) for _ in range(number)]


def write(folder: Path, sizes: list[int]) -> list[str]:
    """Write files of these sizes, and return their names."""
    source = random.Random(20261122).randbytes(2 * LARGEST_BYTES)
    folder.mkdir()
    names = [f"{number:06d}.bin" for number in range(len(sizes))]
    for number, (name, size_bytes) in enumerate(zip(names, sizes, strict=True)):
        begin = (number * 7919) % LARGEST_BYTES
        (folder / name).write_bytes(source[begin : begin + size_bytes])
    return names


@contextmanager
def new_cache(options: Options, limit_bytes: int, policy: Any = "auto") -> Iterator[DiskCache]:
    """An empty cache in a folder that no other loader knows, removed afterwards."""
    directory = tempfile.mkdtemp(prefix="cache-", dir=options.directory)
    cache = DiskCache(directory, size_limit=limit_bytes, policy=policy)
    try:
        yield cache
    finally:
        cache.close()
        shutil.rmtree(directory)


def picture(sample: Sample) -> torch.Tensor:
    """A tensor of fewer bytes than the file, as a decoder would give."""
    return torch.frombuffer(bytearray(sample.bytes()[:PICTURE_BYTES]), dtype=torch.uint8).view(3, SIDE, SIDE)


def size_of(sample: Sample) -> int:
    """The size of the file, as a tensor."""
    return sample.size_bytes


def loader_of(dataset: StorageDataset, **options: Any) -> StorageDataLoader:
    """The loader that is measured."""
    given = {"batch_size": BATCH, "shuffle": True, "num_workers": WORKERS, **options}
    return StorageDataLoader(dataset, **given)


# --- bytes


def measure_bound(report: Report, link: Link, options: Options) -> None:
    """The bytes that epochs 2 to 4 fetch, for caches that hold a part of the data."""
    total = link.total_bytes
    for share in SHARES:
        limit = max(int(share * total), 2**20)
        bound = 1 - share
        with new_cache(options, limit) as cache:
            loader = loader_of(link.dataset(cache))
            fetched = fetched_later(loader, loader.stats)
        report.add(f"{OURS}, c = {share:g}", fetched / total, OF_ALL)
        report.figure(f"bytes_vs_bound_{share:g}", [fetched / (bound * total)])
        with new_cache(options, limit, "lru") as cache:
            loader = loader_of(link.dataset(cache, near=True))
            report.add(f"{LRU}, c = {share:g}", fetched_later(loader, loader.stats) / total, OF_ALL)
        with new_cache(options, limit) as cache:
            dataset = link.dataset(cache, near=True)
            plain = DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS)
            report.add(f"{PLAIN}, c = {share:g}", fetched_later(plain, dataset.stats) / total, OF_ALL)
        report.add(f"{FORMULA}, c = {share:g}", 1 - share - (1 - share) * math.log(1 - share), OF_ALL)
        report.add(f"{BOUND}, c = {share:g}", bound, OF_ALL)


def fetched_later(loader: DataLoader[Any], stats: Callable[[], dict[str, float]]) -> float:
    """The bytes that an epoch fetches, after the first one."""
    fetched = []
    for _ in range(EPOCHS):
        before = stats().get("bytes_from_network", 0) if not isinstance(loader, StorageDataLoader) else 0
        for _ in loader:
            pass
        fetched.append(stats()["bytes_from_network"] - before)
    return sum(fetched[1:]) / (EPOCHS - 1)


# --- time


def measure_cold(report: Report, link: Link, options: Options) -> None:
    """A cold epoch without compute, beside bare curl over the same link."""
    for _ in options.rounds("cold", 20):
        report.add(CURL, link.curl_s(), "s")
        with new_cache(options, 4 * link.total_bytes + 2**24) as cache:
            loader = loader_of(link.dataset(cache))
            begun = time.perf_counter()
            for _ in loader:
                pass
            report.add(COLD, time.perf_counter() - begun, "s")
            report.add(COLD_FIRST, loader.stats()["first_batch_s"], "s")
            assert loader.stats()["bytes_from_network"] == link.total_bytes, "something was fetched twice"
    report.ratio("cold_epoch_vs_network", COLD, CURL)


def measure_stall(report: Report, link: Link, options: Options) -> None:
    """The share of a cold epoch that is spent waiting, if compute takes a little longer than the network."""
    shares = []
    for _ in options.rounds("stall", 25):
        network_s = link.curl_s()
        with new_cache(options, 4 * link.total_bytes + 2**24) as cache:
            loader = loader_of(link.dataset(cache))
            for _, sizes in loader:
                compute(int(sizes.sum()) / link.total_bytes * network_s * COMPUTE)
            shares.append(loader.stats()["waiting_share"])
            report.add(STALL_FIRST, loader.stats()["first_batch_s"], "s")
    report.figure("stall_share", shares)


def compute(seconds: float) -> None:
    """Wait, as for an accelerator."""
    time.sleep(seconds)


def measure_warm(report: Report, link: Link, options: Options) -> None:
    """The CPU time of the look-ahead in a warm epoch."""
    shares = []
    with new_cache(options, 4 * link.total_bytes + 2**24) as cache:
        dataset = link.dataset(cache, near=True)
        dataset.warm(progress=False)
        loader = loader_of(dataset, persistent_workers=True)
        before = dataset.stats()["requests"]
        for _ in options.rounds("warm", 10):
            for _ in loader:
                pass
            said = loader.stats()
            report.add(WARM, said["seconds"], "s")
            report.add(WARM_CPU, said["look_ahead_cpu_s"], "s")
            shares.append(said["look_ahead_cpu_s"] / said["seconds"])
        assert dataset.stats()["requests"] == before, "a warm epoch asked the server"
    report.figure("warm_cpu", shares)


# --- ranks


def measure_ranks(report: Report, link: Link, options: Options) -> None:
    """The bytes that two ranks on one node fetch together, beside one rank alone."""
    for _ in range(options.choose(1, 1, 3)):
        for name, ranks in ((ONE_RANK, 1), (TWO_RANKS, RANKS)):
            with new_cache(options, 4 * link.total_bytes + 2**24) as cache:

                def prepare(rank: int, cache: DiskCache = cache, ranks: int = ranks) -> Callable[[], float]:
                    dataset = link.dataset(cache)
                    sampler = StorageSampler(dataset, ranks, rank)
                    loader = loader_of(dataset, shuffle=None, sampler=sampler)
                    return lambda: sum(fetched_in(loader) for _ in range(RANK_EPOCHS))

                with Workers(ranks, prepare, daemon=False) as workers:
                    _, fetched = workers.run()
                report.add(name, sum(fetched) / 1e6, "MB")
    report.ratio("two_ranks_bytes", TWO_RANKS, ONE_RANK)


def fetched_in(loader: StorageDataLoader) -> float:
    """The bytes that one epoch fetches."""
    for _ in loader:
        pass
    return loader.stats()["bytes_from_network"]


if __name__ == "__main__":
    sys.exit(run(measure, "Epochs in a known order, over a link of 400 Mbit/s.", PARTS))
