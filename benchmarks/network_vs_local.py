"""This network beside this local disk: what a training gains from the cache on your storage.

Run it as ``python -m benchmarks.network_vs_local rshare:benchmark --json mine.json``. With a path below ``/storage``
the mount is measured too. It costs the server little: some 130 files of 110 KB go up once, below a new name, each is
read up to four times, and everything is removed again, with the folders made for it.
"""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from ai4os_data import DiskCache, StorageDataset, open_filesystem
from ai4os_data.cli.probe import visiting
from ai4os_data.machine import mounts
from ai4os_data.stores import open_store
from benchmarks import corpus
from benchmarks.command import Options, run
from benchmarks.report import Report, at_most

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

_BATCH = 32
_ONE_BY_ONE = 16

LOCAL = "local disk: open().read()"
COLD = "ours: first epoch"
WARM = "ours: every later epoch"
SINGLE = "the same way, one file after the other"
MOUNT = "mount: open().read()"
BARS = {"warm_vs_local": at_most(3.0)}


def measure(options: Options) -> Report:
    """Upload the files, read them in every way, and remove them."""
    number = options.choose(8, 64, 128)
    name = f"ai4os-data-benchmark-{secrets.token_hex(4)}"
    base = options.location if options.location.endswith(":") else options.location.rstrip("/") + "/"
    local = corpus.make(options.directory / "local", number)
    store = open_store(options.location, create=True)
    files = open_filesystem(store, cache=None, create=True)
    report = Report("network_vs_local", BARS, {"location": repr(files), "files": number, "bytes": corpus.FILE_BYTES})
    mounted = _mounted(options.location)
    with visiting(store):  # the folders that this makes go too
        try:
            if mounted:  # a mount would not see for five minutes what came past it
                _copy(local, Path(options.location, name))
            else:
                files.put([str(path) for path in local], [f"{name}/{path.name}" for path in local])
            for turn in range(1 if options.tiny else 3):
                _measure_once(report, options, f"{base}{name}", local, turn)
                if mounted and turn == 0:  # afterwards the kernel has them
                    paths = [Path(options.location, name, path.name) for path in local[:_ONE_BY_ONE]]
                    report.add(MOUNT, _per_file(_read_all, paths), "ms per file")
        finally:
            if files.exists(name):
                files.rm(name, recursive=True)
    report.ratio("first_epoch_vs_local", COLD, LOCAL)
    report.ratio("warm_vs_local", WARM, LOCAL)
    report.ratio("first_epoch_vs_warm", COLD, WARM)
    return report


def _measure_once(report: Report, options: Options, location: str, local: list[Path], turn: int) -> None:
    """One round: the local disk, an empty cache, a full cache, and some files one by one."""
    cache = DiskCache(options.directory / f"cache-{turn}", size_limit="256MiB")
    data = StorageDataset(location, cache=cache)
    batches = [list(range(begin, min(begin + _BATCH, len(data)))) for begin in range(0, len(data), _BATCH)]

    def epoch(_: Iterable[object]) -> None:
        for batch in batches:
            data.__getitems__(batch)

    report.add(COLD, _per_file(epoch, data.keys), "ms per file")
    report.add(WARM, _per_file(epoch, data.keys), "ms per file")
    report.add(LOCAL, _per_file(_read_all, local), "ms per file")
    few = StorageDataset.from_keys(location, data.keys[:_ONE_BY_ONE], cache=None)
    report.add(SINGLE, _per_file(lambda _: [few[index] for index in range(len(few))], few.keys), "ms per file")


def _mounted(location: str) -> bool:
    """Whether a location is a path on a network mount."""
    mount = mounts.mount_of(location) if location.startswith("/") else None
    return mount is not None and mount.is_network


def _copy(paths: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())


def _read_all(paths: Iterable[str | os.PathLike[str]]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            file.read()


def _per_file(work: Callable[[list], object], items: list) -> float:
    """Milliseconds per file."""
    begun = time.perf_counter()
    work(items)
    return (time.perf_counter() - begun) * 1000 / len(items)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__ or "", takes_location=True))
