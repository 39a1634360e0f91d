"""A directory from the storage: `local_copy` beside `rclone copy`, beside bare curl, and its memory.

Run it as ``python -m benchmarks.folders --quick --json folders.json``.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from ai4os_data import Remote, local_copy
from ai4os_data.machine.mounts import mount_of
from benchmarks import bare_curl, corpus, shrinking
from benchmarks.command import Options, run
from benchmarks.report import Report, at_least, at_most
from benchmarks.static_server import StaticServer
from benchmarks.transfers import LINK_BIT_S, memory
from tests.nextcloud import NextcloudServer
from tests.support.servers import RcloneMount
from tests.support.servers.proxy import ShapedProxy
from tests.support.servers.rclone import find_rclone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ai4os_data.folders import LocalCopy

MIB = 1024 * 1024
REQUEST_COST_S = 0.030  # of a real Nextcloud, measured
MEMBER_COST_S = 0.003
RTT_S = 0.020
IN_FLIGHT = 32
LINK_RTT_S = 0.005
USER, PASSWORD = "alice", "unasked"

BARS = {
    "copy_vs_rclone": at_least(7),
    "copy_vs_rclone_dav": at_least(7),
    "copy_vs_limit": at_least(0.9),
    "large_vs_curl": at_least(0.9),
    "second_copy_s": at_most(1.0),
    "copy_rss_mb": at_most(150),
    **shrinking.BARS,
}
PARTS = ("rclone", "parallel", "dav", "limit", "large", "second", "memory", *shrinking.PARTS)

OURS_CLOUD, RCLONE_CLOUD = "ours, Nextcloud", "rclone copy, Nextcloud"
OURS_PARALLEL, RCLONE_PARALLEL = "ours, Nextcloud, all requests at once", "rclone copy, Nextcloud, all requests at once"
OURS_DAV, RCLONE_DAV = "ours, plain WebDAV", "rclone copy, plain WebDAV"
RCLONE_START = "rclone version: a process that starts and ends"
OURS_LIMIT, CURL_LIMIT = "ours, 32 in flight", "bare curl, 32 in flight, into files"
OURS_LARGE, CURL_LARGE = "ours, one large file, verified", "curl's GET of it"
SECOND_CLOUD, SECOND_DAV = "second call, Nextcloud", "second call, plain WebDAV"
MEMORY = "memory over the idle process"


class Source(NamedTuple):
    """A folder on a server.

    Attributes:
        url: its address.
        remote: with the credentials.
        vendor: what rclone calls such a server.
        files: how many it has.
    """

    url: str
    remote: Remote
    vendor: str
    files: int

    def copy(self, target: Path) -> LocalCopy:
        """Copy it with ours."""
        return local_copy(self.url, target, remote=self.remote, progress=False)

    def rclone(self, target: Path) -> None:
        """Copy it with rclone as users type it: ``rclone copy rshare: DIRECTORY``."""
        mount = RcloneMount(self.url, self.remote.user or "", self.remote.password or "", target, vendor=self.vendor)
        environ = {**os.environ, **mount.environ, "RCLONE_CONFIG": os.devnull}
        subprocess.run([find_rclone(), "copy", "rshare:", str(target)], check=True, capture_output=True, env=environ)

    def check(self, target: Path) -> None:
        """See that all of it has come."""
        found = sum(path.is_file() for path in target.rglob("*"))
        assert found == self.files, f"{found} of {self.files} files came"


def measure(options: Options) -> Report:
    """Measure all parts, or those that were asked for."""
    disk = mount_of(options.directory)
    settings = {
        "bytes a file": corpus.FILE_BYTES,
        "Nextcloud": f"{REQUEST_COST_S * 1000:g} ms a request, {MEMBER_COST_S * 1000:g} ms a member",
        "RTT of WebDAV": f"{RTT_S * 1000:g} ms",
        "link of the large file": f"{LINK_BIT_S / 1e9:g} Gbit/s, {LINK_RTT_S * 1000:g} ms",
        "disk": disk.kind if disk else "unknown",
        **shrinking.settings(options),
    }
    report = Report("folders", BARS, settings)
    os.environ["AI4OS_DATA_COPIES"] = str(options.directory / "records")
    parts = {
        "rclone": measure_rclone,
        "parallel": measure_parallel,
        "dav": measure_dav,
        "limit": measure_limit,
        "large": measure_large,
        "second": measure_second,
        "memory": measure_memory,
        **shrinking.PARTS,
    }
    for part, measure_part in parts.items():
        if options.wants(part):
            measure_part(report, options)
    return report


# --- beside rclone


def measure_rclone(report: Report, options: Options) -> None:
    """Files of a Nextcloud that takes its time for each request, and works on one at a time."""
    with _nextcloud(options, "cloud", options.choose(8, 500, 500), costs=True, concurrency=1) as source:
        _race(report, options, source, OURS_CLOUD, RCLONE_CLOUD)
    report.ratio("copy_vs_rclone", RCLONE_CLOUD, OURS_CLOUD)


def measure_parallel(report: Report, options: Options) -> None:
    """The same of one that has a processor for each request, however many there are, as no real one has."""
    with _nextcloud(options, "cloud parallel", options.choose(8, 500, 500), costs=True) as source:
        _race(report, options, source, OURS_PARALLEL, RCLONE_PARALLEL)
    report.ratio("copy_vs_rclone_parallel", RCLONE_PARALLEL, OURS_PARALLEL)


def measure_dav(report: Report, options: Options) -> None:
    """Files of a plain server that is far away."""
    with _far(options, "far", options.choose(8, 500, 500)) as source:
        _race(report, options, source, OURS_DAV, RCLONE_DAV)
    report.ratio("copy_vs_rclone_dav", RCLONE_DAV, OURS_DAV)


def _race(report: Report, options: Options, source: Source, ours: str, rclone: str) -> None:
    source.copy(_new_folder(options, "warm-up"))
    for number in options.rounds(ours, 30):
        for name, seconds in _turns(options, number, source, {ours: source.copy, rclone: source.rclone}):
            report.add(name, seconds, "s")
        begun = time.perf_counter()
        subprocess.run([find_rclone(), "version"], check=True, capture_output=True)
        report.add(RCLONE_START, time.perf_counter() - begun, "s")


def _turns(
    options: Options, number: int, source: Source, ways: Mapping[str, Callable[[Path], object]]
) -> Iterator[tuple[str, float]]:
    """One round: every way once, in reversed order each time, into a folder of its own; the seconds of each."""
    for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
        target = _new_folder(options, "copy")
        begun = time.perf_counter()
        way(target)
        yield name, time.perf_counter() - begun
        source.check(target)


# --- beside curl


def measure_limit(report: Report, options: Options) -> None:
    """Files a second, with the listing that curl does not need."""
    with _far(options, "limit", options.choose(64, 2000, 4000)) as source:
        urls = [f"{source.url}{number:06d}.bin" for number in range(source.files)]
        ways: dict[str, Callable[[Path], object]] = {
            OURS_LIMIT: source.copy,
            CURL_LIMIT: lambda target: bare_curl.write_files(urls, target, IN_FLIGHT),
        }
        for number in options.rounds("limit", 20):
            for name, seconds in _turns(options, number, source, ways):
                report.add(name, source.files / seconds, "files/s")
    report.ratio("copy_vs_limit", OURS_LIMIT, CURL_LIMIT)


def measure_large(report: Report, options: Options) -> None:
    """One large file over a fast link, in memory if there is room, so that the link is measured and not the disk."""
    size_bytes = options.choose(20, 512, 512) * MIB
    with memory(options, 3 * size_bytes) as directory:
        server = NextcloudServer(directory / "server", request_cost_s=REQUEST_COST_S)
        with server, ShapedProxy("127.0.0.1", server.port, rtt_s=LINK_RTT_S, rate_bit_s=LINK_BIT_S) as proxy:
            _write(directory / "server" / "large" / "large.bin", size_bytes)
            root = f"{proxy.url}remote.php/dav/files/{server.user}/"
            remote = Remote(root, server.user, server.password, vendor="nextcloud")
            source = Source(f"{root}large", remote, "nextcloud", 1)
            curl = bare_curl.Connection(server.user, server.password)
            ways: dict[str, Callable[[Path], object]] = {
                OURS_LARGE: source.copy,
                CURL_LARGE: lambda target: curl.request("GET", f"{root}large/large.bin", sink=target / "fetched"),
            }
            for number in options.rounds("large", 25):
                for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
                    with tempfile.TemporaryDirectory(dir=directory) as target:
                        begun = time.perf_counter()
                        way(Path(target))
                        report.add(name, size_bytes / (time.perf_counter() - begun) / 1e6, "MB/s")
                        source.check(Path(target))
    report.ratio("large_vs_curl", OURS_LARGE, CURL_LARGE)


# --- again


def measure_second(report: Report, options: Options) -> None:
    """A call that finds nothing to do."""
    number = options.choose(200, 20_000, 20_000)
    with (
        _nextcloud(options, "many", number, size_bytes=100) as cloud,
        _far(options, "many far", number, size_bytes=100) as far,
    ):
        copies = {SECOND_CLOUD: (cloud, _new_folder(options, "copy")), SECOND_DAV: (far, _new_folder(options, "copy"))}
        for source, target in copies.values():
            source.copy(target)
        for _ in options.rounds("second", 10):
            for name, (source, target) in copies.items():
                begun = time.perf_counter()
                again = source.copy(target)
                report.add(name, time.perf_counter() - begun, "s")
                assert again.stats()["fetched"] == 0
                assert len(again.files) == number
    report.figure("second_copy_s", report.cases[SECOND_CLOUD].values)


# --- memory

_COPIER = """
import sys
from ai4os_data import Remote, local_copy
location, target, *remote = sys.argv[1:]
def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))
idle = memory("VmRSS")
copy = local_copy(location, target, remote=Remote(*remote, vendor="nextcloud"), progress=False)
print(len(copy.files), memory("VmHWM") - idle)
"""


def measure_memory(report: Report, options: Options) -> None:
    """The highest memory of a process that copies, less what it had when it had imported everything."""
    large_bytes = options.choose(20, 256, 256) * MIB
    with _nextcloud(options, "large", options.choose(50, 5000, 5000), size_bytes=20_000) as small:
        root = options.directory / "large" / "photos"
        for number in range(8):
            with (root / f"{number}.large").open("wb") as file:
                file.truncate(large_bytes)  # zeros, which the server reads from no disk
        source = small._replace(files=small.files + 8)
        remote = source.remote
        for _ in options.rounds("memory", 20):
            target = _new_folder(options, "copy")
            arguments = [source.url, str(target), remote.url, remote.user or "", remote.password or ""]
            done = subprocess.run(
                [sys.executable, "-c", _COPIER, *arguments], check=True, capture_output=True, text=True
            )
            files, memory_bytes = map(int, done.stdout.split())
            assert files == source.files
            report.add(MEMORY, memory_bytes / 1e6, "MB")
            shutil.rmtree(target)
    report.figure("copy_rss_mb", report.cases[MEMORY].values)


# --- the servers


def _write(path: Path, size_bytes: int) -> None:
    path.parent.mkdir()
    piece = random.Random(size_bytes).randbytes(MIB)
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(piece)


@contextmanager
def _nextcloud(
    options: Options,
    name: str,
    number: int,
    *,
    size_bytes: int = corpus.FILE_BYTES,
    costs: bool = False,
    concurrency: int | None = None,
) -> Iterator[Source]:
    folder = options.directory / name
    corpus.make(folder / "photos", number, size_bytes)
    server = NextcloudServer(
        folder,
        request_cost_s=REQUEST_COST_S if costs else 0.0,
        member_cost_s=MEMBER_COST_S if costs else 0.0,
        concurrency=concurrency,
    )
    with server as cloud:
        remote = Remote(cloud.url, cloud.user, cloud.password, vendor="nextcloud")
        yield Source(f"{cloud.url}photos", remote, "nextcloud", number)


@contextmanager
def _far(options: Options, name: str, number: int, *, size_bytes: int = corpus.FILE_BYTES) -> Iterator[Source]:
    corpus.make(options.directory / name, number, size_bytes)
    with StaticServer(options.directory / name, rtt_s=RTT_S) as server:
        yield Source(server.url, Remote(server.url, USER, PASSWORD), "other", number)


def _new_folder(options: Options, name: str) -> Path:
    """A folder that stays until all is measured, since ext4 is slow for a minute after many files were removed."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=options.directory))


if __name__ == "__main__":
    sys.exit(run(measure, "Copy whole folders, and compare.", PARTS))
