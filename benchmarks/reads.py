"""The same bytes read in every way: plain local files, the mount, WebDAV, and our cache, cold and warm.

Run it as ``python -m benchmarks.reads --quick --json reads.json``.
"""

from __future__ import annotations

import multiprocessing
import pickle
import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from torch.utils.data import DataLoader, Dataset

from ai4os_data import DiskCache, Remote, StorageDataLoader, StorageDataset, errors
from ai4os_data.loader.bound import Sums
from ai4os_data.loader.spent import Stopwatch
from ai4os_data.machine.mounts import mount_of
from ai4os_data.stores import open_store
from ai4os_data.telemetry import reading
from benchmarks import bare_curl, corpus
from benchmarks.command import Options, run
from benchmarks.report import Report, at_least, at_most
from benchmarks.static_server import StaticServer
from benchmarks.workers import Workers
from tests.nextcloud import NextcloudServer
from tests.support.servers import RcloneMount, missing_fuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ai4os_data.stores import Entry, Store

RTT_S = 0.020
IN_FLIGHT = 32
BATCH = 64
MOUNT_WORKERS = 4
LOADER_WORKERS = 2
REQUEST_COST_S = 0.030  # of a real Nextcloud, measured
MEMBER_COST_S = 0.003
ARCHIVES_IN_FLIGHT = 2  # as many as our store has
CLOUD_BATCH = 32
CHUNK = 100  # reads between two turns of what is compared

BARS = {
    "warm_vs_local": at_most(1.05),
    "warm_vs_local_2": at_most(1.05),
    "warm_loader_vs_local": at_least(0.90),
    "bound_by_cost": at_most(0.005),
    "cold_vs_limit": at_least(0.90),
    "cold_vs_mount": at_least(5),
    "archive_vs_single": at_least(7),
    "archive_vs_curl": at_least(0.9),
    "loader_vs_warm": at_least(0.9),
    "cpu_per_get_vs_curl": at_most(2),
}
PARTS = ("warm", "warm2", "loader", "bound", "cold", "mount", "archive", "ahead")

LOCAL = "plain local files: open().read()"
HIT = "ours, warm: dataset[i]"
LOCAL_2 = "plain local files, 2 processes"
HIT_2 = "ours, warm, 2 processes"
LOCAL_LOADER = "DataLoader over plain files, 2 workers"
HIT_LOADER = "ours, warm: DataLoader, 2 workers"
HIT_BATCH = "ours, warm: a batch of StorageDataLoader, no workers"
STAMPS = "what measures its bound_by"
LIMIT = "bare curl, 32 in flight, thrown away"
CURL_FILES = "bare curl, 32 in flight, into files"
UNCACHED = "ours, cold, without cache: read_many"
COLD = "ours, cold, into the cache: warm()"
SINGLE = "Nextcloud: bare curl, single GETs"
ZIPS = "Nextcloud: bare curl, the same zips"
ARCHIVES = "ours, Nextcloud: read_many, archives"
WARM_ALL = "ours, Nextcloud, cold: warm()"
LOADER_COLD = "ours, Nextcloud, cold: StorageDataLoader, 2 workers"
PLAIN_COLD = "ours, Nextcloud, cold: DataLoader, 2 workers"
BATCHES = "ours, Nextcloud, cold: batches of 32, one after the other"
MOUNT_COLD = "mount, cold, 4 workers"
MOUNT_WARM = "mount, warm, 4 workers"
COLD_4 = "ours, cold, 4 workers: warm()"
CURL_CPU = "bare curl into files: CPU"
COLD_CPU = "ours, cold, into the cache: CPU"


@dataclass(frozen=True)
class Files:
    """The files that are read, and the server that has them."""

    paths: list[Path]
    server: StaticServer
    remote: Remote

    @property
    def urls(self) -> list[str]:
        """The URLs of the files."""
        return [f"{self.server.url}{path.name}" for path in self.paths]

    def dataset(self, cache: DiskCache, keys: Sequence[str] | None = None) -> StorageDataset:
        """A dataset of all files, or of some."""
        if keys is None:
            return StorageDataset(self.server.url, remote=self.remote, cache=cache)
        return StorageDataset.from_keys(self.server.url, keys, remote=self.remote, cache=cache)

    def store(self) -> Store:
        """The store of the files, without a cache."""
        return open_store(self.server.url, self.remote)


class PlainFiles(Dataset[bytes]):
    """The baseline of a loader: the files of a folder."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = [str(path) for path in paths]

    def __len__(self) -> int:
        """The number of files."""
        return len(self._paths)

    def __getitem__(self, index: int) -> bytes:
        """The bytes of one file."""
        with open(self._paths[index], "rb") as file:
            return file.read()


def measure(options: Options) -> Report:
    """Measure all parts."""
    number = options.choose(32, 1500, 4000)
    disk = mount_of(options.directory)
    settings = {
        "files": number,
        "bytes a file": corpus.FILE_BYTES,
        "RTT": f"{RTT_S * 1000:g} ms",
        "disk": disk.kind if disk else "unknown",
    }
    report = Report("reads", BARS, settings)
    paths = corpus.make(options.directory / "files", number)
    with StaticServer(options.directory / "files", rtt_s=RTT_S) as server:
        files = Files(paths, server, Remote(server.url, "alice", "unasked"))
        if options.wants("cold"):
            measure_cold(report, files, options)
        if options.wants("mount"):
            measure_mount(report, files, options, options.choose(8, 240, 500))
        if options.wants("archive"):
            measure_archives(report, options, options.choose(8, 256, 512))
        if options.wants("ahead"):
            measure_look_ahead(report, options, options.choose(64, 1024, 2048))
        if any(map(options.wants, ("warm", "warm2", "loader"))):
            measure_all_warm(report, files, options)
    return report


def measure_all_warm(report: Report, files: Files, options: Options) -> None:
    """Measure reads from a cache that has everything."""
    with new_cache(options.directory) as cache:
        dataset = files.dataset(cache)
        dataset.warm(progress=False)
        check_same(dataset, files.paths)
        if options.wants("warm"):
            measure_warm(report, dataset, files.paths, options)
        if options.wants("warm2"):
            measure_warm_2(report, dataset, files.paths, options)
        if options.wants("loader"):
            measure_loader(report, dataset, files.paths, options)
        if options.wants("bound"):
            measure_bound(report, dataset, options)
        assert dataset.stats()["misses"] == len(dataset), "a warm case was not warm"


# --- warm


def measure_warm(report: Report, dataset: StorageDataset, paths: list[Path], options: Options) -> None:
    """``dataset[i]`` beside ``open(path, "rb").read()``, in turns of a hundred."""
    for number in options.rounds("warm", 10):
        local_s, ours_s = alternate(dataset, [str(path) for path in paths], number)
        report.add(LOCAL, local_s / len(paths) * 1e6, "µs/file")
        report.add(HIT, ours_s / len(paths) * 1e6, "µs/file")
    report.ratio("warm_vs_local", HIT, LOCAL)


def alternate(
    dataset: StorageDataset,
    paths: list[str],
    seed: int,
    chunk: int = CHUNK,
    together: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """Read all files in both ways, in turns: the seconds of each way."""
    order = corpus.shuffled(len(paths), seed)
    local_s = ours_s = 0.0
    for begin in range(0, len(order), chunk):
        indices = order[begin : begin + chunk]
        for ours in ((begin // chunk) % 2 == 0, (begin // chunk) % 2 == 1):
            together()
            if ours:
                begun = time.perf_counter()
                for index in indices:
                    dataset[index]
                ours_s += time.perf_counter() - begun
            else:
                begun = time.perf_counter()
                for index in indices:
                    open(paths[index], "rb").read()  # noqa: SIM115  exactly the baseline
                local_s += time.perf_counter() - begun
    return local_s, ours_s


def measure_warm_2(report: Report, dataset: StorageDataset, paths: list[Path], options: Options) -> None:
    """The same in two processes, which do the same at the same time."""
    barrier = multiprocessing.get_context("fork").Barrier(2)
    names = [str(path) for path in paths]

    def prepare(worker: int) -> Callable[[], tuple[float, float]]:
        for index in range(len(dataset)):
            dataset[index]  # finds out where each file is
        seeds = iter(range(1000 * (worker + 1), 1000 * (worker + 2)))
        return lambda: alternate(dataset, names, next(seeds), 5 * CHUNK, barrier.wait)

    with Workers(2, prepare) as workers:
        for _ in options.rounds("warm2", 10):
            _, results = workers.run()
            local_s, ours_s = (sum(seconds) / 2 for seconds in zip(*results, strict=True))
            report.add(LOCAL_2, local_s / len(paths) * 1e6, "µs/file")
            report.add(HIT_2, ours_s / len(paths) * 1e6, "µs/file")
    report.ratio("warm_vs_local_2", HIT_2, LOCAL_2)


def measure_loader(report: Report, dataset: StorageDataset, paths: list[Path], options: Options) -> None:
    """An epoch of a DataLoader over each."""
    loaders = {
        name: DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=LOADER_WORKERS, persistent_workers=True)
        for name, data in ((LOCAL_LOADER, PlainFiles(paths)), (HIT_LOADER, dataset))
    }

    def epoch(name: str) -> float:
        begun = time.perf_counter()
        samples = sum(len(batch) for batch in loaders[name])
        return samples / (time.perf_counter() - begun)

    for name in loaders:
        epoch(name)  # starts the workers
    for number in options.rounds("loader", 10):
        for name in sorted(loaders, reverse=number % 2 == 0):
            report.add(name, epoch(name), "files/s")
    report.ratio("warm_loader_vs_local", HIT_LOADER, LOCAL_LOADER)


def measure_bound(report: Report, dataset: StorageDataset, options: Options) -> None:
    """All that is called for ``bound_by`` with a batch, called alone, beside a batch whose samples cost the least.

    Without workers nothing else counts: with them the way of a batch to the caller takes longer than this.
    """
    loader = StorageDataLoader(dataset, BATCH, shuffle=True)
    for _ in loader:
        pass  # finds out where each file is
    for _ in options.rounds("bound", 10):
        begun = time.perf_counter()
        batches = sum(1 for _ in loader)
        report.add(HIT_BATCH, (time.perf_counter() - begun) / batches * 1e6, "µs")
        report.add(STAMPS, stamps_s(options.choose(10, 2000, 5000)) * 1e6, "µs")
    report.ratio("bound_by_cost", STAMPS, HIT_BATCH)


def stamps_s(times: int) -> float:
    """The seconds that it takes to measure what a batch takes, as loader and reader do it, around nothing."""
    sums, indices = Sums(), range(BATCH)
    begun = time.perf_counter()
    for _ in range(times):
        watch = Stopwatch()
        begun_ns = time.perf_counter_ns()
        reading.add(time.perf_counter_ns() - begun_ns, fetching=False)
        for _ in enumerate(zip(indices, chain(repeat(None, BATCH - 1), [watch.look]), strict=True)):
            pass  # the last sample of a batch may be looked at
        sums.add(begun, begun, pickle.loads(pickle.dumps(watch.spent())))  # noqa: S301  as it comes from a worker
    with_samples = time.perf_counter() - begun
    begun = time.perf_counter()
    for _ in range(times):
        for _ in enumerate(indices):
            pass
    return (with_samples - (time.perf_counter() - begun)) / times


# --- cold


def measure_cold(report: Report, files: Files, options: Options) -> None:
    """Cold reads with and without a cache, beside bare curl that drops the bytes or writes files."""
    turns: list[Callable[[], None]] = [
        lambda: timed(report, LIMIT, len(files.urls), lambda: bare_curl.throw_away(files.urls, IN_FLIGHT)),
        lambda: curl_into_files(report, files, options.directory),
        lambda: without_cache(report, files),
        lambda: into_cache(report, files, options.directory),
    ]
    for turn in turns:
        turn()
    report.cases.clear()  # that imported, and warmed up
    for number in options.rounds("cold", 20):
        for turn in turns[number % len(turns) :] + turns[: number % len(turns)]:
            turn()
    report.ratio("cold_vs_limit", COLD, LIMIT)
    report.ratio("cpu_per_get_vs_curl", COLD_CPU, CURL_CPU)


def timed(report: Report, name: str, number: int, work: Callable[[], object], cpu: str = "") -> None:
    """Do some work on files, and report files per second and CPU time per file."""
    begun, used = time.perf_counter(), cpu_s()
    work()
    seconds, used = time.perf_counter() - begun, cpu_s() - used
    report.add(name, number / seconds, "files/s")
    if cpu:
        report.add(cpu, used / number * 1e6, "µs CPU/file")


def cpu_s() -> float:
    """The CPU time of this process, in user and kernel mode."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def curl_into_files(report: Report, files: Files, directory: Path) -> None:
    """Bare curl that writes a file for each answer."""
    folder = new_folder(directory, "curl")
    urls = files.urls
    timed(report, CURL_FILES, len(urls), lambda: bare_curl.write_files(urls, folder, IN_FLIGHT), CURL_CPU)


def without_cache(report: Report, files: Files) -> None:
    """Our store alone."""
    store = files.store()
    entries = store.list()
    timed(report, UNCACHED, len(entries), lambda: read_all(store, entries))


def into_cache(report: Report, files: Files, directory: Path) -> None:
    """Our dataset, from the network into an empty cache."""
    with new_cache(directory) as cache:
        dataset = files.dataset(cache)
        timed(report, COLD, len(dataset), lambda: dataset.warm(progress=False), COLD_CPU)
        assert dataset.stats()["stored"] == len(dataset), "not everything was kept"


@contextmanager
def new_cache(directory: Path) -> Iterator[DiskCache]:
    """An empty cache with room for all."""
    cache = DiskCache(new_folder(directory, "cache"), size_limit="4GiB")
    try:
        yield cache
    finally:
        cache.close()


def new_folder(directory: Path, name: str) -> Path:
    """A folder that stays until all is measured.

    ext4 takes 0.2 ms instead of 0.03 to find the inode of a new file if many files were deleted in the last minute.
    That does not happen in a first epoch, so nothing is deleted before the end.
    """
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))


def measure_mount(report: Report, files: Files, options: Options, number: int) -> None:
    """The platform's rclone mount beside ours, four workers each."""
    missing = missing_fuse()
    if missing is not None:
        print(f"mount: left out, since {missing}", file=sys.stderr)
        return
    keys = [path.name for path in files.paths[:number]]
    for _ in options.rounds("mount", 10):
        with RcloneMount(files.server.url, "alice", "unasked", options.directory / "mount") as mount:

            def read_mount(worker: int, root: Path = mount.path) -> Callable[[], None]:
                paths = [str(root / key) for key in keys[worker::MOUNT_WORKERS]]
                return lambda: read_plainly(paths)

            with Workers(MOUNT_WORKERS, read_mount) as workers:
                report.add(MOUNT_COLD, number / workers.run()[0], "files/s")
                report.add(MOUNT_WARM, number / workers.run()[0], "files/s")
        with new_cache(options.directory) as cache:

            def warm(worker: int, cache: DiskCache = cache) -> Callable[[], object]:
                dataset = files.dataset(cache, keys[worker::MOUNT_WORKERS])
                return lambda: dataset.warm(progress=False)

            with Workers(MOUNT_WORKERS, warm) as ours:
                report.add(COLD_4, number / ours.run()[0], "files/s")
    report.ratio("cold_vs_mount", COLD_4, MOUNT_COLD)


def read_plainly(paths: list[str]) -> None:
    """Read files one after the other."""
    for path in paths:
        with open(path, "rb") as file:
            file.read()


# --- Nextcloud


def measure_archives(report: Report, options: Options, number: int) -> None:
    """Archives from the double of Nextcloud, which serves one request at a time, beside bare curl."""
    folder = options.directory / "cloud"
    corpus.make(folder / "photos", number)
    with NextcloudServer(folder, concurrency=1, request_cost_s=REQUEST_COST_S, member_cost_s=MEMBER_COST_S) as cloud:
        headers = [f"Authorization: {cloud.authorization}"]
        store = open_store(f"{cloud.url}photos", Remote(cloud.url, cloud.user, cloud.password, vendor="nextcloud"))
        entries = store.list()
        assert len(entries) == number
        singles = [f"{cloud.url}photos/{entry.key}" for entry in entries]
        cloud.forget()
        read_all(store, entries)
        queries = [request.headers.get(":query", "") for request in cloud.requests() if request.method == "GET"]
        zips = [f"{cloud.url}photos?{query}" for query in queries if "accept=zip" in query]
        assert len(zips) == len(queries), "not everything came in archives"
        for _ in options.rounds("archive", 25):
            timed(report, ARCHIVES, number, lambda: read_all(store, entries))
            timed(report, ZIPS, number, lambda: bare_curl.throw_away(zips, ARCHIVES_IN_FLIGHT, headers))
            timed(report, SINGLE, number, lambda: bare_curl.throw_away(singles, IN_FLIGHT, headers))
    report.ratio("archive_vs_single", ARCHIVES, SINGLE)
    report.ratio("archive_vs_curl", ARCHIVES, ZIPS)


def measure_look_ahead(report: Report, options: Options, number: int) -> None:
    """A cold epoch over the double of Nextcloud in each of our ways, beside `warm()`."""
    folder = options.directory / "cloud ahead"
    corpus.make(folder / "photos", number)
    with NextcloudServer(folder, request_cost_s=REQUEST_COST_S, member_cost_s=MEMBER_COST_S) as cloud:
        remote = Remote(cloud.url, cloud.user, cloud.password, vendor="nextcloud")

        def cold(name: str, epoch: Callable[[StorageDataset], int]) -> None:
            with new_cache(options.directory) as cache:
                dataset = StorageDataset(f"{cloud.url}photos", remote=remote, cache=cache)
                assert len(dataset) == number
                timed(report, name, number, lambda: epoch(dataset))
                assert dataset.stats()["misses"] == number, "it was not fetched once, and in this epoch"

        ways: list[tuple[str, Callable[[StorageDataset], int]]] = [
            (WARM_ALL, lambda dataset: dataset.warm(progress=False) or 0),
            (LOADER_COLD, lambda dataset: count(cold_loader(StorageDataLoader, dataset))),
            (PLAIN_COLD, lambda dataset: count(cold_loader(DataLoader, dataset))),
            (BATCHES, read_batches),
        ]
        for round_ in options.rounds("ahead", 20):
            for name, epoch in ways[round_ % 2 :] + ways[: round_ % 2]:
                cold(name, epoch)
    report.ratio("loader_vs_warm", LOADER_COLD, WARM_ALL)


def cold_loader(kind: type[DataLoader[bytes]], dataset: StorageDataset) -> DataLoader[bytes]:
    """A loader whose workers have not been started."""
    return kind(dataset, batch_size=CLOUD_BATCH, shuffle=True, num_workers=LOADER_WORKERS)


def count(loader: DataLoader[bytes]) -> int:
    """The number of samples in an epoch."""
    return sum(len(batch) for batch in loader)


def read_batches(dataset: StorageDataset) -> int:
    """Read everything in this process, batch by batch, in an order that is not known beforehand."""
    order = corpus.shuffled(len(dataset), 1)
    return sum(
        len(dataset.__getitems__(order[begin : begin + CLOUD_BATCH])) for begin in range(0, len(order), CLOUD_BATCH)
    )


def read_all(store: Store, entries: Sequence[Entry]) -> None:
    """Read all files whole; raises if one fails."""
    for _, outcome in store.read_many(entries):
        if isinstance(outcome, errors.StorageError):
            raise outcome


def check_same(dataset: StorageDataset, paths: list[Path]) -> None:
    """Check that all ways give the same bytes."""
    for index, path in enumerate(paths):
        assert dataset[index] == path.read_bytes(), path


if __name__ == "__main__":
    sys.exit(run(measure, "Read the same bytes in every way, and compare.", PARTS))
