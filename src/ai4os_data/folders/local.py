"""A directory from the storage on the local disk: verified, resumable, and never over what is not ours."""

from __future__ import annotations

import operator
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai4os_data import telemetry
from ai4os_data.cache import Preparation, digest
from ai4os_data.datasets import Pattern
from ai4os_data.folders import homes, record
from ai4os_data.folders.copying import Copying, Job
from ai4os_data.folders.target import Target
from ai4os_data.machine import parse_size
from ai4os_data.stores import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ai4os_data.locations import Remote


def local_copy(
    location: str | os.PathLike[str] | Store,
    directory: str | os.PathLike[str] | None = None,
    *,
    remote: str | Remote | None = None,
    pattern: str | Sequence[str] = "**/*",
    prepare: Callable[[bytes], bytes] | None = None,
    prepare_version: str | int | None = None,
    size_limit: int | str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> LocalCopy:
    """Copy a location to a directory on the local disk, for code that takes a path.

    Each file lies under its own name, whole, checked, and with the date that the storage gives it. What is there
    already is not fetched again; a call after a kill fetches the rest. Files that changed on the storage are fetched
    anew, and those that vanished there are removed. What others put into the directory is left alone. Several
    processes may call it at once: one copies, the others wait.

    Without the network a copy that is complete serves as it is, with a warning.

    Args:
        location: as for `StorageDataset`.
        directory: where to; by default a folder of its own beside the cache, or below ``AI4OS_DATA_COPIES``.
        remote: a remote's name, or a `Remote`, if the location does not say it.
        pattern: which files; a glob, or several.
        prepare: turns the bytes of a file into those that are kept, such as ``shrink(640)``; on all processors.
        prepare_version: distinguishes what ``prepare`` makes from what another one makes; by default it follows from
            its code.
        size_limit: the most that the copy may take, in bytes or as ``"20GiB"``; ``"auto"`` is what the disk has free,
            less a small reserve.
        overwrite: replace files of the same names that this copy did not write, or that were changed since.
        progress: show a bar.

    Returns:
        A path-like object, for ``open``, ``os.listdir`` and whatever takes a path.

    Raises:
        OverwriteError: files are in the way, and ``overwrite`` is not set. Nothing was fetched.
        OutOfSpaceError: the disk has no room for it, or it would be larger than ``size_limit``. Nothing was fetched,
            unless the disk filled up on the way: what came by then is whole.
        NameRefusedError: the directory cannot hold some of the names. Nothing was fetched.
        EmptyDatasetError: nothing matches.
        StorageError: some files could not be read. The others are there.

    Example:
        >>> data = local_copy("rshare:datasets/birds", "/data/birds")
        >>> YOLO("yolo11n.pt").train(data=data.path / "data.yaml")
    """
    if prepare is not None and not callable(prepare):
        raise TypeError(f"prepare is a function from bytes to bytes, not {prepare!r}")
    limit_bytes = _limit(size_limit)
    matches = Pattern(pattern)
    counters = telemetry.Counters()
    store = open_store(location, remote, counters=counters)
    job = Job(store, matches, Preparation.of(prepare, prepare_version), limit_bytes, overwrite)
    copy = LocalCopy(job, directory, counters, progress=progress)
    copy.refresh()
    return copy


class LocalCopy(os.PathLike[str]):
    """A copy of a location in a directory, as `local_copy` makes it. It is path-like.

    Attributes:
        path: the directory.
        files: the names of the files below it, in order.
        size_bytes: the bytes of them all.
    """

    def __init__(
        self, job: Job, directory: str | os.PathLike[str] | None, counters: telemetry.Counters, *, progress: bool
    ) -> None:
        home = homes.home(os.environ)
        self.path = (
            homes.own_directory(home, job.store.location, job.store.identity)
            if directory is None
            else Path(os.path.realpath(os.path.expanduser(directory)))
        )
        self.files: Sequence[str] = ()
        self.size_bytes = 0
        self._job = job
        self._record = homes.record_of(home, self.path, job.store.identity)
        self._counters = counters
        self._progress = progress
        self._figures: dict[str, float] = {}

    def __fspath__(self) -> str:
        """The directory."""
        return str(self.path)

    def __str__(self) -> str:
        """The directory, as code expects it that had a text in this place."""
        return str(self.path)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        """A path below the directory, as for a `pathlib.Path`."""
        return self.path / name

    def __repr__(self) -> str:
        """A short description for people."""
        return f"LocalCopy({str(self.path)!r}, {len(self.files)} files of {self._job.store.location!r})"

    def refresh(self) -> None:
        """Look at the storage again, and fetch what changed there, or is missing here.

        Raises:
            StorageError: as for `local_copy`.
        """
        begun, begun_s = time.monotonic(), time.time()
        with _bar(self.path, shown=self._progress) as progress, record.opened(self._record, progress) as written:
            looks = not (written.waited and written.has_finished(self._job.name, begun_s))
            target = Target(self.path, digest(self._job.store.identity))
            copied = Copying(self._job, written, target, progress).run(looks=looks)
        self.files = sorted(copied.sizes)
        self.size_bytes = sum(copied.sizes.values())
        self._figures = {
            "files": len(self.files),
            "bytes": self.size_bytes,
            "fetched": copied.fetched,
            "removed": copied.removed,
            "seconds": time.monotonic() - begun,
        }

    def stats(self) -> dict[str, float]:
        """What the copy has, and what the last look cost.

        ``files``, ``bytes``, ``fetched`` and ``removed`` (files), ``seconds``; ``bytes_from_network``, ``retries`` and
        the requests by kind of all looks of this object.
        """
        totals = self._counters.totals()
        shown = [name for name in totals if name.startswith("requests_")]
        return {**self._figures, **{name: totals[name] for name in ("bytes_from_network", "retries", *shown)}}


@contextmanager
def _bar(path: Path, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar that shows how many bytes have come of those that are to come."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=not shown, desc=path.name, delay=0.2) as bar:

        def show(came_bytes: int, total_bytes: int) -> None:
            bar.total = total_bytes
            bar.update(came_bytes - bar.n)

        yield show


def _limit(size: Any) -> int | None:
    """The most bytes that a copy may take; None for what the disk has.

    Raises:
        ValueError: it is no size.
    """
    if size == "auto":
        return None
    try:
        number = parse_size(size) if isinstance(size, str) else operator.index(size)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(size, bool):
        raise ValueError(f"size_limit is a number of bytes, a text such as '20GiB', or 'auto', not {size!r}")
    return number
