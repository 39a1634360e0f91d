"""A directory from the storage on the local disk: verified, resumable, and never over what is not ours."""

from __future__ import annotations

import operator
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai4os_data import errors, telemetry
from ai4os_data.cache import Preparation, digest
from ai4os_data.datasets import Pattern
from ai4os_data.folders import homes, record
from ai4os_data.folders.copying import Copying
from ai4os_data.folders.job import Job
from ai4os_data.folders.progress import Show, bar
from ai4os_data.folders.target import Target
from ai4os_data.http import OUTAGE_S, Patience
from ai4os_data.machine import parse_size
from ai4os_data.stores import DirectoryStore, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.locations import Remote
    from ai4os_data.telemetry import Counters


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
    copy = LocalCopy(
        _job(
            location,
            remote=remote,
            pattern=pattern,
            prepare=prepare,
            prepare_version=prepare_version,
            size_limit=size_limit,
            overwrite=overwrite,
        ),
        directory,
        progress=progress,
    )
    copy.refresh()
    return copy


def copied_to(
    location: str | os.PathLike[str] | Store,
    directory: str | os.PathLike[str] | None,
    show: Show,
    **options: Any,
) -> LocalCopy:
    """The same as `local_copy`, for callers that show the progress themselves.

    Args:
        location: as for `local_copy`.
        directory: as for `local_copy`.
        show: is called now and then with how far it is, from the thread that calls this.
        options: as for `local_copy`, without ``progress``.
    """
    copy = LocalCopy(_job(location, **options), directory, progress=False)
    copy._update(show)  # noqa: SLF001  it is not for users
    return copy


class LocalCopy(os.PathLike[str]):
    """A copy of a location in a directory, as `local_copy` makes it. It is path-like.

    Attributes:
        path: the directory.
        files: the names of the files below it, in order.
        size_bytes: the bytes of them all.
    """

    def __init__(self, job: Job, directory: str | os.PathLike[str] | None, *, progress: bool) -> None:
        home = homes.home(os.environ)
        self.path = (
            homes.own_directory(home, job.store.location, job.store.identity)
            if directory is None
            else Path(os.path.realpath(os.path.expanduser(directory)))
        )
        homes.check_place(self.path, job.store)
        self.files: Sequence[str] = ()
        self.size_bytes = 0
        self._job = job
        self._record = homes.record_of(home, self.path, job.store.identity)
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
        with bar(self.path.name, shown=self._progress) as show:
            self._update(show)

    def _update(self, show: Show) -> None:
        begun, begun_s = time.monotonic(), time.time()
        with record.opened(self._record, show) as written:
            looks = not (written.waited and written.has_finished(self._job.name, begun_s))
            target = Target(self.path, digest(self._job.store.identity))
            copied = Copying(self._job, written, target, show).run(looks=looks)
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
        totals = self._job.counters.totals()
        shown = [name for name in totals if name.startswith("requests_")]
        return {**self._figures, **{name: totals[name] for name in ("bytes_from_network", "retries", *shown)}}


def _job(
    location: str | os.PathLike[str] | Store,
    *,
    remote: str | Remote | None = None,
    pattern: str | Sequence[str] = "**/*",
    prepare: Callable[[bytes], bytes] | None = None,
    prepare_version: str | int | None = None,
    size_limit: int | str = "auto",
    overwrite: bool = False,
) -> Job:
    if prepare is not None and not callable(prepare):
        raise TypeError(f"prepare is a function from bytes to bytes, not {prepare!r}")
    if getattr(prepare, "keep", None) == "pixels":
        raise ValueError(
            f"{prepare!r} keeps arrays, which code that opens the files of a copy as images cannot read: leave out "
            "keep='pixels', or read them through a StorageDataset"
        )
    limit_bytes = _limit(size_limit)
    matches = Pattern(pattern, takes_junk=True)
    counters = getattr(location, "counters", None) or telemetry.Counters()  # a store may have its own
    store = _opened(location, remote, counters)
    return Job(store, matches, Preparation.of(prepare, prepare_version), limit_bytes, overwrite, counters)


def _opened(location: str | os.PathLike[str] | Store, remote: str | Remote | None, counters: Counters) -> Store:
    """The store of a location. Of a mount that is dead a copy may be there."""
    try:
        return open_store(location, remote, counters=counters)
    except errors.StorageGoneError:
        assert not isinstance(location, Store)
        path = os.path.expanduser(os.fspath(location).removeprefix("file://"))
        return DirectoryStore(path, counters=counters, patience=Patience(outage_s=OUTAGE_S))


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
