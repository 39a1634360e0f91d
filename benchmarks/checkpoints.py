"""Checkpoints: what a save costs the training, its memory, and what is left after a SIGKILL, ours beside others.

Run it as ``python -m benchmarks.checkpoints --quick --json checkpoints.json``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.api import CheckpointException

from ai4os_data import Remote, StorageCheckpoint
from ai4os_data.stores import Level, MemoryStore, open_store
from benchmarks import transfers
from benchmarks.command import Options, run
from benchmarks.report import Report, at_most, short
from tests.nextcloud import NextcloudServer
from tests.support.servers import RcloneMount, ShapedProxy, missing_fuse
from tests.support.servers.rclone import find_rclone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai4os_data.checkpoint import SaveHandle

MIB = 2**20
TENSORS = 600
LINK_BIT_S = 1e9
RTT_S = 0.005
_MOMENTS = (0.2, 0.4, 0.6, 0.8)  # of the time that a save takes until it is safe

BARS = {"stall_vs_copy": at_most(1.3), "rss_growth": at_most(1.05), **transfers.BARS}
PARTS = ("stall", "rss", "steps", "table", *transfers.PARTS)

COPY = "bare copy_ into warm buffers"
STALL = "save, third and later"


def measure(options: Options) -> Report:
    """Measure all parts."""
    settings = {
        "state": f"{options.choose(8, 1024, 1024)} MiB in {TENSORS} tensors",
        "state of the table": f"{options.choose(1, 64, 256)} MiB",
        "link of the table": "1 Gbit/s, 5 ms",
    }
    report = Report("checkpoints", BARS, settings)
    parts: dict[str, Callable[[Report, Options], None]] = {
        "stall": measure_stall,
        "rss": measure_rss,
        "steps": measure_steps,
        "table": measure_table,
    }
    for name, part in parts.items():
        if options.wants(name):
            begun = time.monotonic()
            part(report, options)
            print(f"{name}: {time.monotonic() - begun:.0f} s in all", file=sys.stderr)
    if any(options.wants(part) for part in transfers.PARTS):
        transfers.add_to(report, options)
    return report


def state_of(size_bytes: int, tensors: int = TENSORS) -> dict[str, torch.Tensor]:
    """A state of tensors of one size."""
    return {f"layer-{number}": torch.full((size_bytes // 4 // tensors,), float(number)) for number in range(tensors)}


class Nowhere(MemoryStore):
    """A store that costs nothing: it keeps names and manifests alone, so that only our own work is measured."""

    def write_confirmed(self, key: str, content: Path | bytes, *_: object, **__: object) -> Level:
        """Report a file as stored."""
        self.files[key] = content.read_bytes() if isinstance(content, Path) and content.suffix == ".json" else b""
        return "confirmed"


def measure_stall(report: Report, options: Options) -> None:
    """The time that `save` takes, beside a bare copy of the same tensors; in turns, with nothing else going on."""
    state = state_of(options.choose(8, 1024, 1024) * MIB)
    buffers = [torch.empty_like(tensor) for tensor in state.values()]
    place = options.directory / "stall"
    with StorageCheckpoint(Nowhere(), spool=place, keep_last=1) as run:

        def saved(step: int) -> float:
            begun = time.perf_counter()
            handle = run.save(state, step)
            stall_s = time.perf_counter() - begun
            handle.wait()
            return stall_s

        report.add("save, the first", saved(0), "s")
        saved(1)
        _copied(state, buffers)
        for number in options.rounds("stall", 35):
            if number % 2:
                report.add(STALL, saved(number + 2), "s")
                report.add(COPY, _copied(state, buffers), "s")
            else:
                report.add(COPY, _copied(state, buffers), "s")
                report.add(STALL, saved(number + 2), "s")
        handles = [run.save(state, 10_000 + number) for number in range(3)]
        for handle in handles[1:]:
            report.add("save, back to back", handle.stall_s, "s", "waits for the local disk")
    report.ratio("stall_vs_copy", STALL, COPY)
    shutil.rmtree(place)


def _copied(state: dict[str, torch.Tensor], buffers: list[torch.Tensor]) -> float:
    begun = time.perf_counter()
    for buffer, tensor in zip(buffers, state.values(), strict=True):
        buffer.copy_(tensor)
    return time.perf_counter() - begun


def measure_rss(report: Report, options: Options) -> None:
    """The memory of a process after twenty saves, divided by that after three."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    place = options.directory / "rss"
    process = context.Process(target=_save_and_weigh, args=(theirs, place, options.choose(4, 256, 256) * MIB))
    process.start()
    sizes = ours.recv()
    process.join()
    report.add("memory after 3 saves", sizes[2] / MIB, "MiB")
    report.add("memory after 20 saves", sizes[-1] / MIB, "MiB")
    report.ratio("rss_growth", "memory after 20 saves", "memory after 3 saves")
    shutil.rmtree(place)


def _save_and_weigh(answer: Any, place: Path, size_bytes: int) -> None:
    state = state_of(size_bytes)
    sizes = []
    with StorageCheckpoint(place / "run", spool=place / "spool", keep_last=1) as run:
        for step in range(20):
            run.save(state, step).wait()
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    answer.send(sizes)


def measure_steps(report: Report, options: Options) -> None:
    """The time of a training step on the CPU beside a save, divided by that of a step alone."""
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.randn(256, 1024)

    def step() -> float:
        begun = time.perf_counter()
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - begun

    state = state_of(options.choose(8, 512, 1024) * MIB)
    place = options.directory / "steps"
    with StorageCheckpoint(place / "run", spool=place / "spool", keep_last=1) as run:
        run.save(state, 0).wait()
        for number in options.rounds("steps", 15):
            alone = [step() for _ in range(20)]
            handle = run.save(state, number + 1)
            beside = [step()]
            while handle.level != "confirmed":
                beside.append(step())
            report.add("step, alone", statistics.median(alone) * 1000, "ms")
            report.add("step, beside a save", statistics.median(beside) * 1000, "ms")
    report.ratio("step_slowdown", "step, beside a save", "step, alone")
    shutil.rmtree(place)


class Contestant(ABC):
    """A way to save to the storage.

    Args:
        cloud: the URL of the files.
        mount: where they are mounted.
        scratch: a local folder.
    """

    name: str

    def __init__(self, cloud: Remote, mount: Path, scratch: Path) -> None:
        self.cloud = cloud
        self.mount = mount
        self.scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def save(self, state: dict[str, torch.Tensor], step: int) -> None:
        """Return when the training may go on."""

    def finish(self) -> None:  # noqa: B027  where `save` returns when all is done, there is nothing to wait for
        """Return when the last save survives the machine."""

    @abstractmethod
    def load(self) -> float:
        """The step that a new process on a new machine loads; raises if it can load none."""


class Ours(Contestant):
    """StorageCheckpoint."""

    name = "ours"
    _run: StorageCheckpoint | None = None
    _pid = 0
    _handle: SaveHandle | None = None

    def _open(self, spool: str) -> StorageCheckpoint:
        return StorageCheckpoint("runs/ours", remote=self.cloud, spool=self.scratch / spool, keep_last=1)

    def save(self, state: dict[str, torch.Tensor], step: int) -> None:
        """Return after the copy in memory."""
        if self._run is None or self._pid != os.getpid():
            self._run, self._pid = self._open(f"spool-{os.getpid()}"), os.getpid()
        self._handle = self._run.save(state, step)

    def finish(self) -> None:
        """Wait for the level `confirmed`."""
        if self._handle is not None:
            self._handle.wait()

    def load(self) -> float:
        """Restore with an empty spool."""
        with self._open("empty") as run:
            restored = run.restore()
            assert restored is not None
            return float(restored["step"][0])


class ToMount(Contestant):
    """torch.save to the mount."""

    name = "torch.save to the mount"

    def save(self, state: dict[str, torch.Tensor], step: int) -> None:  # noqa: ARG002  it has one file
        """Return when the close has sent the file."""
        torch.save(state, self.mount / "to-mount.pt")

    def load(self) -> float:
        """Load from the server itself, past the mount."""
        store = open_store("", self.cloud)
        path = self.scratch / "loaded.pt"
        store.read_into(store.stat("to-mount.pt"), path)
        return float(torch.load(path)["step"][0])


class ByRclone(Contestant):
    """torch.save to the local disk, then rclone copy."""

    name = "torch.save to local, rclone copy"
    _copying: subprocess.Popen[bytes] | None = None

    def __init__(self, cloud: Remote, mount: Path, scratch: Path, environ: dict[str, str]) -> None:
        super().__init__(cloud, mount, scratch)
        self._environ = {**os.environ, "RCLONE_CONFIG": os.devnull, **environ}

    def save(self, state: dict[str, torch.Tensor], step: int) -> None:  # noqa: ARG002  it has one file
        """Return when the file is on the local disk."""
        self.finish()
        folder = self.scratch / "by-rclone"
        folder.mkdir(exist_ok=True)
        torch.save(state, folder / "by-rclone.pt")
        command = [find_rclone(), "copy", "--ignore-times", str(folder), "rshare:by-rclone"]
        self._copying = subprocess.Popen(command, env=self._environ, stderr=subprocess.DEVNULL)

    def finish(self) -> None:
        """Wait for the end of the copy."""
        if self._copying is not None:
            self._copying.wait()
            self._copying = None

    def load(self) -> float:
        """Load from the server."""
        store = open_store("by-rclone", self.cloud)
        path = self.scratch / "loaded.pt"
        store.read_into(store.stat("by-rclone.pt"), path)
        return float(torch.load(path)["step"][0])


class ByDcp(Contestant):
    """torch.distributed.checkpoint with its FsspecWriter over webdav4."""

    name = "DCP FsspecWriter over webdav4"

    def _options(self) -> dict[str, Any]:
        return {"base_url": self.cloud.url, "auth": (self.cloud.user, self.cloud.password)}

    def save(self, state: dict[str, torch.Tensor], step: int) -> None:  # noqa: ARG002  it has one folder
        """Return when everything is sent."""
        dcp.save(dict(state), storage_writer=FsspecWriter("webdav://by-dcp", **self._options()), no_dist=True)

    def load(self) -> float:
        """Load from the server."""
        state = {"step": torch.zeros(1)}
        dcp.load(state, storage_reader=FsspecReader("webdav://by-dcp", **self._options()), no_dist=True)
        return float(state["step"][0])


def measure_table(report: Report, options: Options) -> None:
    """Each way to save, over the same link to the same server, and what is left of two checkpoints after a SIGKILL."""
    if missing_fuse():
        print(f"table: left out, {missing_fuse()}", file=sys.stderr)
        return
    size_bytes = options.choose(1, 64, 256) * MIB
    rows: list[tuple[str, ...]] = [("way to save", "stall s", "safe after s", "left after SIGKILL")]
    with _storage(options) as (cloud, mount, environ):
        ways: list[Contestant] = [way(cloud, mount, options.directory / "table") for way in (Ours, ToMount, ByDcp)]
        ways.insert(2, ByRclone(cloud, mount, options.directory / "table", environ))
        for way in ways:
            stall_s, safe_s = _timed(way, size_bytes)
            report.add(f"{way.name}: stall", stall_s, "s")
            report.add(f"{way.name}: safe", safe_s, "s")
            rows.append((way.name, short(stall_s), short(safe_s), _left(way, size_bytes, safe_s)))
    report.tables.append(rows)


@contextlib.contextmanager
def _storage(options: Options) -> Iterator[tuple[Remote, Path, dict[str, str]]]:
    """A Nextcloud behind a link, and its mount with the platform's flags."""
    server = NextcloudServer(options.directory / "cloud", request_cost_s=0.03)
    with server, ShapedProxy("127.0.0.1", server.port, rtt_s=RTT_S, rate_bit_s=LINK_BIT_S) as proxy:
        url = f"{proxy.url}remote.php/dav/files/{server.user}/"
        remote = Remote(url, server.user, server.password, vendor="nextcloud")
        mount = RcloneMount(
            url.rstrip("/"), server.user, server.password, options.directory / "mount", vendor="nextcloud"
        )
        with mount:
            yield remote, mount.path, mount.environ


def _marked(size_bytes: int, step: int) -> dict[str, torch.Tensor]:
    return {"step": torch.full((1,), float(step)), **state_of(size_bytes, 20)}


def _timed(way: Contestant, size_bytes: int) -> tuple[float, float]:
    way.save(_marked(size_bytes, 0), 0)  # the first time costs more
    way.finish()
    state = _marked(size_bytes, 1)
    begun = time.perf_counter()
    way.save(state, 1)
    stall_s = time.perf_counter() - begun
    way.finish()
    return stall_s, time.perf_counter() - begun


def _left(way: Contestant, size_bytes: int, safe_s: float) -> str:
    """Kill a process at several moments of step 2, with step 1 safe; returns what can be loaded each time."""
    first, second = _marked(size_bytes, 1), _marked(size_bytes, 2)
    found: Counter[str] = Counter()
    for moment in _MOMENTS:
        way.save(first, 1)
        way.finish()
        _killed(lambda: way.save(second, 2), moment * safe_s)
        found[_what_loads(way)] += 1
    return ", ".join(f"{count} x {what}" for what, count in sorted(found.items()))


def _killed(work: Callable[[], None], after_s: float) -> None:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        work()
        time.sleep(60)
        os._exit(0)
    time.sleep(after_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(1.0)  # a mount commits what it has


def _what_loads(way: Contestant) -> str:
    try:
        step = way.load()
    except (Exception, CheckpointException) as error:  # noqa: BLE001  each library has its own word for what is left
        return f"nothing that loads ({type(error).__name__})"
    return f"step {step:.0f}" if step in {1.0, 2.0} else f"a mixture (step {step})"


if __name__ == "__main__":
    sys.exit(run(measure, __doc__ or "", PARTS))
