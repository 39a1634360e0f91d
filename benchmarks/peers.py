"""Ours beside what people use instead: the same files, server and distance, and four workers each.

A cold epoch begins with nothing local and ends when every worker has read its files once; a warm one reads them again,
in another order. A way that fetches all files first (``.warm()``, ``rclone copy``) does so within the cold epoch.

Run it as ``python -m benchmarks.peers --quick --json peers.json``.
"""

from __future__ import annotations

import importlib.util
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import fsspec

from ai4os_data import DiskCache, Remote, StorageDataset
from ai4os_data.machine.mounts import mount_of
from benchmarks import corpus
from benchmarks.command import Options, run
from benchmarks.report import Report, at_least, short
from benchmarks.static_server import StaticServer
from benchmarks.workers import Workers
from tests.support.servers import RcloneMount, missing_fuse
from tests.support.servers.rclone import find_rclone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fsspec import AbstractFileSystem

RTT_S = 0.020
WORKERS = 4
BATCH = 64
USER, PASSWORD = "alice", "unasked"
AT_LEAST_S = 0.5  # a warm epoch that is shorter is read several times

BARS = {"cold_vs_best_peer": at_least(1.0), "warm_vs_best_peer": at_least(1.0)}

OURS = "ours"
REFERENCE = "plain local files, for reference"


@dataclass(frozen=True)
class Setting:
    """The files that every contestant reads.

    Attributes:
        url: of the server.
        keys: of the files there.
        files: where they lie, for the reference.
        scratch: an empty folder.
    """

    url: str
    keys: list[str]
    files: Path
    scratch: Path

    @property
    def remote(self) -> Remote:
        """The server as a `Remote`."""
        return Remote(self.url, USER, PASSWORD)


@dataclass(frozen=True)
class Contestant:
    """One way to read.

    Attributes:
        reader: called in each worker; returns a function that reads keys in their order.
        fetch_first: called once before the workers read.
        disk: the folder that it fills.
        pid: another process, whose CPU time counts too.
    """

    reader: Callable[[], Callable[[list[str]], object]]
    fetch_first: Callable[[], object] = lambda: None
    disk: Path | None = None
    pid: int | None = None


def measure(options: Options) -> Report:
    """Measure all contestants."""
    number = options.choose(8, 200, 500)
    disk = mount_of(options.directory)
    settings = {
        "files": number,
        "bytes a file": corpus.FILE_BYTES,
        "RTT": f"{RTT_S * 1000:g} ms",
        "workers": WORKERS,
        "disk": disk.kind if disk else "unknown",
    }
    report = Report("peers", BARS, settings)
    paths = corpus.make(options.directory / "files", number)
    contestants = available()
    with StaticServer(options.directory / "files", rtt_s=RTT_S) as server:
        for turn in options.rounds("peers", 80):
            order = list(contestants)
            random.Random(turn).shuffle(order)
            for name in order:
                with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
                    setting = Setting(server.url, [path.name for path in paths], paths[0].parent, Path(scratch))
                    with contestants[name](setting) as contestant:
                        race(report, name, contestant, setting)
    conclude(report, list(contestants))
    return report


def race(report: Report, name: str, contestant: Contestant, setting: Setting) -> None:
    """Measure a cold epoch and a warm one."""

    def prepare(worker: int) -> Callable[[], float]:
        read = contestant.reader()
        keys = setting.keys[worker::WORKERS]
        source = random.Random(worker)

        def epoch() -> float:
            source.shuffle(keys)
            used = cpu_s()
            read(keys)
            return cpu_s() - used

        return epoch

    with Workers(WORKERS, prepare) as workers:
        used, used_apart = cpu_s(resource.RUSAGE_CHILDREN) + cpu_s(), process_cpu_s(contestant.pid)
        begun = time.perf_counter()
        contestant.fetch_first()
        fetched_s = time.perf_counter() - begun
        cold_s, cold_cpu = workers.run()
        warm_s, warm_cpu = workers.run()
        used = cpu_s(resource.RUSAGE_CHILDREN) + cpu_s() - used
        used += process_cpu_s(contestant.pid) - used_apart + sum(cold_cpu) + sum(warm_cpu)
        if warm_s < AT_LEAST_S:
            times = int(AT_LEAST_S / warm_s) + 1
            warm_s = workers.run(times)[0] / times
    report.add(f"{name}: cold epoch", fetched_s + cold_s, "s")
    report.add(f"{name}: warm epoch", 1000 * warm_s, "ms")
    report.add(f"{name}: CPU of both", used, "s")
    report.add(f"{name}: disk", disk_bytes(contestant.disk) / 1e6, "MB")


def conclude(report: Report, names: list[str]) -> None:
    """Add the table, and the ratios to the best of the others."""
    columns = ("cold epoch", "warm epoch", "CPU of both", "disk")
    names = sorted(names, key=lambda name: report.cases[f"{name}: cold epoch"].median)
    report.cases = {case: report.cases[case] for column in columns for case in (f"{name}: {column}" for name in names)}
    rows: list[tuple[str, ...]] = [("", "cold epoch, s", "warm epoch, ms", "CPU of both, s", "peak disk, MB")]
    rows += [(name, *(short(report.cases[f"{name}: {column}"].median) for column in columns)) for name in names]
    report.tables.append(rows)
    peers = [name for name in names if name not in {OURS, REFERENCE}]
    for ratio, column in (("cold_vs_best_peer", "cold epoch"), ("warm_vs_best_peer", "warm epoch")):
        best = min((f"{name}: {column}" for name in peers), key=lambda case: report.cases[case].median)
        report.ratio(ratio, best, f"{OURS}: {column}")


# --- the contestants


def available() -> dict[str, Callable[[Setting], AbstractContextManager[Contestant]]]:
    """The contestants that can run here; the others are named with a reason."""
    found: dict[str, Callable[[Setting], AbstractContextManager[Contestant]]] = {
        OURS: ours,
        REFERENCE: plain,
        "webdav4's fsspec file system": webdav4,
        "fsspec filecache:: over it": filecache,
        "rclone copy first": rclone_copy,
    }
    missing = missing_fuse()
    if missing is None:
        found["rclone mount, the sidecar's flags"] = mount
        found["rclone mount, --vfs-cache-mode full"] = mount_full
        if all(importlib.util.find_spec(needed) is not None for needed in ("litdata", "zstd")):
            found["litdata's raw dataset over the mount"] = litdata
        else:
            missing = "litdata is not installed (pip install litdata zstd)"
    if missing is not None:
        print(f"left out: {missing}", file=sys.stderr)
    return found


@contextmanager
def ours(setting: Setting) -> Iterator[Contestant]:
    """A `StorageDataset`, warmed first."""
    cache = DiskCache(setting.scratch / "cache", size_limit="4GiB")
    dataset = StorageDataset(setting.url, remote=setting.remote, cache=cache)
    index_of = {key: index for index, key in enumerate(dataset.keys)}

    def reader() -> Callable[[list[str]], None]:
        def read(keys: list[str]) -> None:
            for key in keys:
                dataset[index_of[key]]

        return read

    yield Contestant(reader, lambda: dataset.warm(progress=False), setting.scratch / "cache")
    cache.close()


@contextmanager
def plain(setting: Setting) -> Iterator[Contestant]:
    """Plain local files."""
    yield Contestant(lambda: reading_in(setting.files))


def webdav_file_system(setting: Setting) -> AbstractFileSystem:
    """The fsspec file system of webdav4, a new one."""
    from webdav4.fsspec import WebdavFileSystem  # nobody else needs it

    file_system: AbstractFileSystem = WebdavFileSystem(
        setting.url, auth=(USER, PASSWORD), skip_instance_cache=True, timeout=60
    )
    return file_system


@contextmanager
def webdav4(setting: Setting) -> Iterator[Contestant]:
    """A file system in each worker, without a cache."""

    def reader() -> Callable[[list[str]], None]:
        file_system = webdav_file_system(setting)

        def read(keys: list[str]) -> None:
            for key in keys:
                file_system.cat_file(key)

        return read

    yield Contestant(reader)


@contextmanager
def filecache(setting: Setting) -> Iterator[Contestant]:
    """The same under fsspec's cache of whole files. Each worker has its own folder, since the record is not shared."""

    def reader() -> Callable[[list[str]], None]:
        storage = tempfile.mkdtemp(dir=setting.scratch)
        cached = fsspec.filesystem("filecache", fs=webdav_file_system(setting), cache_storage=storage)

        def read(keys: list[str]) -> None:
            for key in keys:
                with cached.open(key, "rb") as file:
                    file.read()

        return read

    yield Contestant(reader, disk=setting.scratch)


@contextmanager
def mounted(setting: Setting, *flags: str) -> Iterator[RcloneMount]:
    """The files under a mount."""
    with RcloneMount(setting.url, USER, PASSWORD, setting.scratch / "mount", flags=flags) as mount:
        os.listdir(mount.path)  # in a deployment it has been there for long
        yield mount


@contextmanager
def mount(setting: Setting) -> Iterator[Contestant]:
    """A mount with the platform's flags."""
    with mounted(setting) as there:
        yield Contestant(lambda: reading_in(there.path), pid=there.child.pid)


@contextmanager
def mount_full(setting: Setting) -> Iterator[Contestant]:
    """A mount with rclone's own cache on disk."""
    cache = setting.scratch / "vfs"
    with mounted(setting, "--vfs-cache-mode", "full", "--cache-dir", str(cache)) as there:
        yield Contestant(lambda: reading_in(there.path), disk=cache, pid=there.child.pid)


@contextmanager
def litdata(setting: Setting) -> Iterator[Contestant]:
    """Litdata's raw dataset with its cache of files, in batches, over the platform's mount."""
    cache = setting.scratch / "litdata"
    with mounted(setting) as there:

        def reader() -> Callable[[list[str]], None]:
            raw = importlib.import_module("litdata")  # optional
            dataset = raw.StreamingRawDataset(str(there.path), cache_dir=str(cache), cache_files=True)
            index_of = {file.path.rpartition("/")[2]: index for index, file in enumerate(dataset.files)}

            def read(keys: list[str]) -> None:
                for begin in range(0, len(keys), BATCH):
                    dataset.__getitems__([index_of[key] for key in keys[begin : begin + BATCH]])

            return read

        yield Contestant(reader, disk=cache, pid=there.child.pid)


@contextmanager
def rclone_copy(setting: Setting) -> Iterator[Contestant]:
    """``rclone copy rshare: .`` and then plain files."""
    copy = setting.scratch / "copy"
    environ = {**os.environ, **RcloneMount(setting.url, USER, PASSWORD, copy).environ, "RCLONE_CONFIG": os.devnull}

    def fetch() -> None:
        command = [find_rclone(), "copy", "rshare:", str(copy)]
        subprocess.run(command, check=True, capture_output=True, env=environ)

    yield Contestant(lambda: reading_in(copy), fetch, copy)


def reading_in(folder: Path) -> Callable[[list[str]], None]:
    """A function that reads plain files of a folder."""
    paths = str(folder)

    def read(keys: list[str]) -> None:
        for key in keys:
            with open(f"{paths}/{key}", "rb") as file:
                file.read()

    return read


# --- what it costs


def cpu_s(whose: int = resource.RUSAGE_SELF) -> float:
    """The CPU time of this process, or of its children that have ended."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def process_cpu_s(pid: int | None) -> float:
    """The CPU time of another process."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def disk_bytes(folder: Path | None) -> int:
    """The size of a folder in allocated blocks. Nothing is removed here, so it is the peak, too."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*")) if folder is not None else 0


if __name__ == "__main__":
    sys.exit(run(measure, "Race the ways to read a remote folder of many files."))
