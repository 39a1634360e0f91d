"""One run over a copy: what is missing or has changed is fetched, checked, prepared and placed; the rest stays."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.datasets import Index, enumerated, kept_index, matching, open_index
from ai4os_data.folders.fitting import check_names, check_room
from ai4os_data.folders.progress import Progress
from ai4os_data.folders.record import Record, Written
from ai4os_data.folders.target import StagedFile, Target, in_the_way_error
from ai4os_data.http import Body, MemoryBody
from ai4os_data.stores import Entry, Fetched, Store, modified_ns
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ai4os_data.cache import Preparation
    from ai4os_data.datasets import Pattern
    from ai4os_data.folders.progress import Show
    from ai4os_data.telemetry import Counters

_IN_MEMORY_BYTES = 1024 * 1024  # from here on, bytes go to the disk as they come
_IN_RANGES_BYTES = 16 * 1024 * 1024  # from here on, a file comes in several ranges at a time
_BLOCK_BYTES = 4096
_FULL = {errno.ENOSPC, errno.EDQUOT}
_SAMPLED = 16


@dataclass(frozen=True)
class Job:
    """What is to be copied, and how.

    Attributes:
        store: where the files are.
        pattern: which of them.
        preparation: what is made of each; None for nothing.
        limit_bytes: the most that the copy may take; None for what the disk has.
        overwrite: whether files that are not ours may be replaced.
        counters: where requests and bytes are counted.
    """

    store: Store
    pattern: Pattern
    preparation: Preparation | None
    limit_bytes: int | None
    overwrite: bool
    counters: Counters

    @property
    def prepared_as(self) -> str:
        """What distinguishes what is made of the files; empty for nothing."""
        return "" if self.preparation is None else self.preparation.name

    @property
    def name(self) -> str:
        """What distinguishes it from other jobs with the same record."""
        return repr((self.pattern.given, self.prepared_as))


class Outdated(NamedTuple):
    """A file that is to be fetched, and the local one whose place it may take."""

    entry: Entry
    over: os.stat_result | None


@dataclass
class Difference:
    """What a directory lacks beside a listing.

    Attributes:
        outdated: what is to be fetched.
        kept: the local sizes of the files that are right as they are, by their keys.
        strangers: the keys of files that are not ours, where ours belong.
        vanished: the keys of files of ours that are on the storage no more.
        left: those of them that were changed here, and so stay.
    """

    outdated: list[Outdated] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def replaced(self) -> int:
        """How many files are there in another version."""
        return sum(one.over is not None for one in self.outdated)


class Copied(NamedTuple):
    """What a copy has: the local size of each file by its key, and what was done for it."""

    sizes: dict[str, int]
    fetched: int
    removed: int


def difference(job: Job, listed: Index, positions: Sequence[int], record: Record, target: Target) -> Difference:
    """Compare a directory with a listing, by one look at each file."""
    found = Difference()
    entries = [listed.entries[position] for position in positions]
    for folder in sorted({entry.key.rpartition("/")[0] for entry in entries}):
        if (way := target.in_the_way(folder)) is not None:
            found.strangers.append(way)
    for entry in entries:
        here = target.found(entry.key)
        if here is None:
            found.outdated.append(Outdated(entry, None))
            continue
        written = record.of(entry.key, here)
        if written is not None and written.is_of(entry, job.prepared_as):
            found.kept[entry.key] = written.local_bytes
        elif written is not None or (job.overwrite and stat.S_ISREG(here.st_mode)):
            found.outdated.append(Outdated(entry, here))
        else:
            found.strangers.append(entry.key)
    _compare_vanished(found, listed, record, target)
    return found


def _compare_vanished(found: Difference, listed: Index, record: Record, target: Target) -> None:
    for key in record.keys:
        if key not in found.kept and key not in listed.by_key and (here := target.found(key)) is not None:
            (found.vanished if record.of(key, here) is not None else found.left).append(key)


class Copying:
    """One run.

    Args:
        job: what is to be copied.
        record: what was written before.
        target: the directory.
        show: is called with how far it is.
    """

    def __init__(self, job: Job, record: Record, target: Target, show: Show) -> None:
        self._job = job
        self._record = record
        self._target = target
        self._show = show
        self._failed: list[tuple[Entry, errors.StorageError]] = []
        self._gone: list[str] = []
        self._sizes: dict[str, int] = {}
        self._over: dict[str, os.stat_result | None] = {}
        self._fetched = self._came_bytes = self._total_bytes = self._total_files = 0

    def run(self, *, looks: bool) -> Copied:
        """Make the copy complete.

        Args:
            looks: whether to ask the storage what there is.

        Raises:
            OverwriteError: files are in the way that are not ours.
            NameRefusedError: the directory cannot hold some names.
            OutOfSpaceError: the disk has no room for it.
            StorageError: some files could not be fetched; the others are there.
        """
        listed = self._listing(looks=looks)
        positions = matching(self._job.pattern, listed, self._job.store.location)
        found = difference(self._job, listed, positions, self._record, self._target)
        if found.strangers:
            raise in_the_way_error(self._target.root, found.strangers)
        self._sizes = found.kept
        if found.outdated:
            check_names([listed.keys[position] for position in positions], self._target.root)
            self._check_room(found)
            self._fetch(found.outdated)
        self._remove(found)
        self._log(found)
        self._check_failed(len(found.outdated))
        self._record.finished(self._job.name)
        return Copied(self._sizes, self._fetched, len(found.vanished))

    def _listing(self, *, looks: bool) -> Index:
        kept = None if looks else kept_index(self._job.store, self._record)
        return open_index(self._job.store, self._record, None, "warn") if kept is None else kept

    # --- room

    def _check_room(self, found: Difference) -> None:
        ratio = 1.0
        if self._job.preparation is not None:
            ratio = self._ratio([one.entry for one in found.outdated])
        new = sum(_allocated(int(one.entry.size_bytes * ratio)) for one in found.outdated)
        old = sum(_allocated(one.over.st_size) for one in found.outdated if one.over is not None)
        # A file that is replaced stays until its successor is whole.
        largest = max((int(one.entry.size_bytes * ratio) for one in found.outdated if one.over is not None), default=0)
        check_room(
            self._target.root,
            need_bytes=new - old + largest,
            files=len(found.outdated),
            total_bytes=new + sum(map(_allocated, found.kept.values())),
            limit_bytes=self._job.limit_bytes,
            estimated=self._job.preparation is not None,
        )

    def _ratio(self, entries: Sequence[Entry]) -> float:
        """How large some files become when they are prepared, as a part of what they are."""
        assert self._job.preparation is not None
        sample = entries[:: -(-len(entries) // _SAMPLED)]
        before = after = 0
        for entry, outcome in self._job.store.read_many(sample):
            if isinstance(outcome, Fetched):
                assert isinstance(outcome.body, MemoryBody)
                prepared = self._job.preparation.apply(outcome.body.getvalue(), repr(entry.key))
                if isinstance(prepared, bytes):
                    before, after = before + outcome.body.length, after + len(prepared)
        return after / before if before else 1.0

    # --- fetching

    def _fetch(self, outdated: Sequence[Outdated]) -> None:
        self._total_bytes, self._total_files = sum(one.entry.size_bytes for one in outdated), len(outdated)
        self._over = {one.entry.key: one.over for one in outdated}
        entries = [one.entry for one in outdated]
        try:
            self._target.begin()
            try:
                if self._job.preparation is not None:
                    self._fetch_prepared(entries)
                else:
                    self._fetch_many([entry for entry in entries if entry.size_bytes < _IN_RANGES_BYTES])
                    self._fetch_large([entry for entry in entries if entry.size_bytes >= _IN_RANGES_BYTES])
            finally:
                self._target.end()
        except OSError as error:
            if isinstance(error, errors.StorageError) or error.errno not in _FULL:
                raise
            free = os.statvfs(self._target.root)
            raise errors.OutOfSpaceError(
                f"{self._target.root}: the disk is full ({error.strerror}), with {free.f_bavail * free.f_frsize:,} "
                f"bytes free, after {self._fetched:,} of {len(outdated):,} files. Those are whole, and stay: make "
                "room, and call again for the rest"
            ) from error

    def _fetch_many(self, entries: Iterable[Entry]) -> None:
        """Fetch files, many at a time."""
        with closing(self._job.store.read_many(entries, self._body)) as outcomes:  # type: ignore[type-var]
            for entry, outcome in outcomes:
                if isinstance(outcome, errors.StorageError):
                    self._fail(entry, outcome)
                else:
                    self._finish(entry, outcome.entry, self._staged(outcome.body))

    def _body(self, entry: Entry) -> Body:
        return StagedFile(self._target.new_path()) if entry.size_bytes > _IN_MEMORY_BYTES else MemoryBody()

    def _staged(self, body: Body) -> str:
        """The staged file that has the bytes of an answer."""
        if isinstance(body, MemoryBody):
            staged = StagedFile(self._target.new_path())
            for chunk in body.chunks:
                staged.write(chunk)
            body = staged
        assert isinstance(body, StagedFile)
        body.close()
        return body.path

    def _fetch_large(self, entries: Iterable[Entry]) -> None:
        """Fetch large files, each in several ranges at a time."""
        for entry in entries:
            path = self._target.new_path()
            try:
                self._job.store.read_into(entry, Path(path))
            except errors.StorageError as error:
                self._fail(entry, error)
            else:
                self._finish(entry, entry, path)

    def _fetch_prepared(self, entries: Iterable[Entry]) -> None:
        """Fetch files, and prepare them on all processors that this process may use."""
        cores = len(os.sched_getaffinity(0))
        under_way: set[Future[None]] = set()
        with (
            ThreadPoolExecutor(cores) as pool,
            closing(self._job.store.read_many(entries)) as outcomes,  # type: ignore[type-var]
        ):
            try:
                for entry, outcome in outcomes:
                    if isinstance(outcome, errors.StorageError):
                        self._fail(entry, outcome)
                        continue
                    under_way.add(pool.submit(self._prepare, entry, outcome))
                    full = len(under_way) > 4 * cores
                    ended, under_way = wait(under_way, None if full else 0, FIRST_COMPLETED)
                    for future in ended:
                        future.result()
                for future in under_way:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _prepare(self, entry: Entry, fetched: Fetched) -> None:
        assert self._job.preparation is not None
        assert isinstance(fetched.body, MemoryBody)
        what = f"{self._job.store.location}: prepare(…) of {entry.key!r}"
        prepared = self._job.preparation.apply(fetched.body.getvalue(), what)
        if isinstance(prepared, errors.StorageError):
            self._fail(entry, prepared)
            return
        body = MemoryBody()
        body.write(prepared)
        self._finish(entry, fetched.entry, self._staged(body))

    def _finish(self, wanted: Entry, served: Entry, staged: str) -> None:
        """Let a file that is whole appear under its name."""
        changed_ns = modified_ns(self._job.store, served)
        if changed_ns is not None:
            os.utime(staged, ns=(changed_ns, changed_ns))
        found = os.stat(staged)
        self._record.add(
            wanted.key,
            Written(
                served.size_bytes,
                served.etag,
                served.modified,
                self._job.prepared_as,
                found.st_ino,
                found.st_size,
                found.st_mtime_ns,
            ),
        )
        self._target.place(staged, wanted.key, self._over[wanted.key])
        self._sizes[wanted.key] = found.st_size
        self._fetched += 1
        self._came(wanted.size_bytes)

    def _came(self, size_bytes: int) -> None:
        self._came_bytes += size_bytes
        progress = Progress(self._came_bytes, self._total_bytes, self._fetched, self._total_files)
        self._record.show(progress)
        self._show(progress)

    def _fail(self, entry: Entry, error: errors.StorageError) -> None:
        self._failed.append((entry, error))

    # --- the end

    def _remove(self, found: Difference) -> None:
        for key in found.vanished:
            self._target.remove(key)
            self._record.remove(key)

    def _log(self, found: Difference) -> None:
        where = f"{self._target.root}, the copy of {self._job.store.location}"
        if found.replaced:
            changed = [one.entry.key for one in found.outdated if one.over is not None]
            log.info("%s: %s changed on the storage, and came anew", where, enumerated(map(repr, changed)))
        if found.vanished:
            log.info("%s: %s vanished from the storage, and here too", where, enumerated(map(repr, found.vanished)))
        if found.left:
            log.warning(
                "%s: %s vanished from the storage, and stay here, since they were changed here",
                where,
                enumerated(map(repr, found.left)),
            )

    def _check_failed(self, total: int) -> None:
        if self._failed:
            first = self._failed[0][1]
            raise type(first)(
                f"{len(self._failed):,} of {total:,} files did not come: "
                f"{enumerated(str(error) for _, error in self._failed)}. The others are in {self._target.root}; call "
                "again for the rest"
            )


def _allocated(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
