"""Verified transfers of large files to and from a Nextcloud, beside curl, which verifies nothing.

Uploads are what `write_confirmed` does: into a folder that is new, hashed by the server, the hash compared. Downloads
are what `read_into` does: into a local file, hashed and compared.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from ai4os_data.locations.remotes import Remote
from ai4os_data.machine.mounts import mount_of
from ai4os_data.stores.nextcloud import SINGLE_PUT_BYTES, NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore
from benchmarks.bare_curl import Connection
from benchmarks.command import run
from benchmarks.report import Report, at_least
from tests.nextcloud import NextcloudServer
from tests.support.servers.proxy import ShapedProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai4os_data.stores import Store
    from benchmarks.command import Options

MIB = 1024 * 1024
LINK_BIT_S = 1e9
RTT_S = 0.005
REQUEST_COST_S = 0.03  # what a Nextcloud takes for each request, whatever is in it
HASHING_COST_S = 0.25  # more, for a client that does not keep its cookies
PARTS = ("single", "chunked", "restore")
BARS = {"upload_vs_curl": at_least(0.9), "chunked_vs_curl": at_least(1.0), "restore_vs_curl": at_least(0.8)}
SINGLE, SINGLE_CURL = "upload, one PUT", "curl's PUT with X-Hash"
READ_BACK = "upload, PUT and read back, as to other servers"
CHUNKED, CHUNKED_CURL = "upload, chunks", "curl's same requests, one by one"
RESTORE, RESTORE_CURL = "download, verified", "curl's GET"


def measure(options: Options) -> Report:
    """Measure all parts, or those that were asked for."""
    settings = {
        "link": "1 Gbit/s",
        "round trip": f"{RTT_S * 1000:g} ms",
        "cost of a request": f"{REQUEST_COST_S * 1000:g} ms",
        "bytes of a single PUT": options.choose(MIB, SINGLE_PUT_BYTES, SINGLE_PUT_BYTES),
        "bytes of a file in chunks": options.choose(11 * MIB, 256 * MIB, 1024 * MIB),
    }
    report = Report("transfers", BARS, settings)
    add_to(report, options)
    return report


def add_to(report: Report, options: Options) -> None:
    """Measure the transfers, and add their cases and ratios to a report."""
    with _Cloud.started(options) as cloud:
        if options.wants("single"):
            _measure_single(report, options, cloud)
        if options.wants("chunked"):
            _measure_chunked(report, options, cloud)
        if options.wants("restore"):
            _measure_restore(report, options, cloud)


def _measure_single(report: Report, options: Options, cloud: _Cloud) -> None:
    local = cloud.local_file(options.choose(MIB, SINGLE_PUT_BYTES, SINGLE_PUT_BYTES))
    for number in options.rounds("single", 15):
        _take_turns(
            report,
            number,
            local.stat().st_size,
            {
                SINGLE: lambda: cloud.confirm(local),
                SINGLE_CURL: lambda: cloud.put_with_curl(local),
                READ_BACK: lambda: cloud.confirm(local, cloud.plain),
            },
        )
    report.ratio("upload_vs_curl", SINGLE, SINGLE_CURL)
    report.ratio("read_back_vs_curl", READ_BACK, SINGLE_CURL)


def _measure_chunked(report: Report, options: Options, cloud: _Cloud) -> None:
    local = cloud.local_file(options.choose(11 * MIB, 256 * MIB, 1024 * MIB))
    cloud.store.single_put_bytes = 10 * MIB
    cloud.store.chunk_bytes = options.choose(5 * MIB, NextcloudStore.chunk_bytes, NextcloudStore.chunk_bytes)
    for number in options.rounds("chunked", 30):
        _take_turns(
            report,
            number,
            local.stat().st_size,
            {CHUNKED: lambda: cloud.confirm(local), CHUNKED_CURL: lambda: cloud.put_chunks_with_curl(local)},
        )
    report.ratio("chunked_vs_curl", CHUNKED, CHUNKED_CURL)


def _measure_restore(report: Report, options: Options, cloud: _Cloud) -> None:
    local = cloud.local_file(options.choose(MIB, 256 * MIB, 1024 * MIB))
    cloud.serve(local)
    for number in options.rounds("restore", 30):
        _take_turns(
            report,
            number,
            local.stat().st_size,
            {RESTORE: lambda: cloud.restore(local), RESTORE_CURL: cloud.get_with_curl},
        )
    report.ratio("restore_vs_curl", RESTORE, RESTORE_CURL)


def _take_turns(report: Report, number: int, size_bytes: int, cases: dict[str, Callable[[], None]]) -> None:
    """One round: every case once, in reversed order each time; in bytes per second."""
    turns = list(cases.items())
    for name, act in turns if number % 2 else turns[::-1]:
        begun = time.perf_counter()
        act()
        report.add(name, size_bytes / (time.perf_counter() - begun) / 1e6, "MB/s")


class _Cloud:
    """A Nextcloud behind a link, an open store, and curl with an open connection."""

    def __init__(self, server: NextcloudServer, proxy: ShapedProxy, directory: Path) -> None:
        self.server = server
        self.directory = directory
        url = f"{proxy.url}remote.php/dav/files/{server.user}"
        remote = Remote(url, server.user, server.password, vendor="nextcloud")
        self.store = NextcloudStore(remote)
        self.plain = WebDAVStore(remote)
        self.curl = Connection(server.user, server.password)
        self._files_url = url
        self._uploads_url = f"{proxy.url}remote.php/dav/uploads/{server.user}"
        self._number = 0

    @classmethod
    @contextmanager
    def started(cls, options: Options) -> Iterator[_Cloud]:
        """Start a Nextcloud with the costs of a real one."""
        with memory(options, options.choose(1, 2, 6) * 1024 * MIB) as directory:
            server = NextcloudServer(directory / "server", request_cost_s=REQUEST_COST_S, hashing_cost_s=HASHING_COST_S)
            with server, ShapedProxy("127.0.0.1", server.port, rtt_s=RTT_S, rate_bit_s=LINK_BIT_S) as proxy:
                cloud = cls(server, proxy, directory)
                cloud.warm()
                yield cloud

    def local_file(self, size_bytes: int) -> Path:
        """A file of random bytes."""
        path = self.directory / f"{size_bytes}.bin"
        generator = random.Random(size_bytes)
        with path.open("wb") as file:
            for begin in range(0, size_bytes, MIB):
                file.write(generator.randbytes(min(MIB, size_bytes - begin)))
        return path

    def warm(self) -> None:
        """Let both sides connect and get their cookies, as in a run that saves repeatedly."""
        small = self.local_file(1000)
        self.confirm(small)
        self.confirm(small, self.plain)
        self.put_with_curl(small)

    def confirm(self, local: Path, store: Store | None = None) -> None:
        """Send a file as a checkpoint does; its hash is known."""
        key = f"{self._new_folder()}/data.bin"
        level = (store or self.store).write_confirmed(key, local, _sha256(local))
        assert level == "confirmed"
        self._remove(key)

    def put_with_curl(self, local: Path) -> None:
        """Upload into a folder that exists."""
        key = f"{self._new_folder()}.bin"
        self.curl.request("PUT", f"{self._files_url}/{key}", source=local, headers=["X-Hash: sha256"])
        self._remove(key)

    def put_chunks_with_curl(self, local: Path) -> None:
        """The requests that `confirm` sends, one after the other."""
        folder = self._new_folder()
        key = f"{folder}/data.bin"
        size_bytes = local.stat().st_size
        destination = f"{self._files_url}/{key}"
        upload = f"{self._uploads_url}/{folder}"
        headers = [f"Destination: {destination}", f"OC-Total-Length: {size_bytes}"]
        self.curl.request("MKCOL", f"{self._files_url}/{folder}/")
        self.curl.request("MKCOL", upload, headers=headers)
        for number, start in enumerate(range(0, size_bytes, self.store.chunk_bytes), 1):
            stop = min(start + self.store.chunk_bytes, size_bytes)
            self.curl.request("PUT", f"{upload}/{number:05d}", source=local, start=start, stop=stop, headers=headers)
        self.curl.request("MOVE", f"{upload}/.file", headers=headers)
        self.curl.request("PATCH", destination, headers=["X-Recalculate-Hash: sha256"])
        self._remove(key)

    def serve(self, local: Path) -> None:
        """Put a file on the server's disk directly."""
        (self.server.root / "served.bin").write_bytes(local.read_bytes())

    def restore(self, local: Path) -> None:
        """Fetch a file as a restore does; its hash is known from the manifest."""
        self.store.read_into(self.store.stat("served.bin"), self.directory / "restored.bin", _sha256(local))

    def get_with_curl(self) -> None:
        """Fetch into a local file."""
        self.curl.request("GET", f"{self._files_url}/served.bin", sink=self.directory / "fetched.bin")

    def _new_folder(self) -> str:
        self._number += 1
        return f"{self._number:06d}"

    def _remove(self, key: str) -> None:
        (self.server.root / key).unlink()


@contextmanager
def memory(options: Options, needed_bytes: int) -> Iterator[Path]:
    """A folder in memory, if there is room, so that the link is measured and not the disk."""
    shared = "/dev/shm"  # noqa: S108  a folder of random name is made in it
    mount = mount_of(shared)
    has_room = mount is not None and mount.is_memory and shutil.disk_usage(shared).free > needed_bytes
    if not has_room:
        print(f"{shared} has no room: the disk is measured too", file=sys.stderr)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="ai4os-data-bench-", dir=shared if has_room else options.directory) as path:
        tempfile.tempdir = path  # the double keeps its chunks with other temporary files
        try:
            yield Path(path)
        finally:
            tempfile.tempdir = before


_known: dict[Path, str] = {}


def _sha256(path: Path) -> str:
    """As the spool has computed it while it wrote the file."""
    if path not in _known:
        _known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _known[path]


if __name__ == "__main__":
    sys.exit(run(measure, "Send and fetch large files, verified, beside curl.", PARTS))
