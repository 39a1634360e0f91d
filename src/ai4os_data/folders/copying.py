"""One run over a copy: what is missing or has changed is fetched, checked, prepared and placed; the rest stays."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.datasets import Index, enumerated, kept_index, list_anew, matching, open_index
from ai4os_data.folders.fetching import IN_RANGES_BYTES, PREPARED_IN_MEMORY_BYTES, Fetching
from ai4os_data.folders.fitting import check_names
from ai4os_data.folders.job import Difference, Job, difference, with_those_above
from ai4os_data.folders.parts import name_of
from ai4os_data.folders.progress import Tally
from ai4os_data.folders.room import Disk, Need, disk_error, translated
from ai4os_data.folders.sampling import sample_of
from ai4os_data.folders.staged import LocalDiskError
from ai4os_data.folders.target import blocked_error, in_the_way_error
from ai4os_data.telemetry import log, tell_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.folders.progress import Show
    from ai4os_data.folders.record import Record
    from ai4os_data.folders.sampling import Sample
    from ai4os_data.folders.target import Target

_LOOKS = 3  # until a file that is listed, and not there, is an error
_AT_A_TIME = 32  # files that may be under way beside those that they replace


class Copied(NamedTuple):
    """What a copy has: the local size of each file by its key, and what was done for it."""

    sizes: dict[str, int]
    fetched: int
    removed: int


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
        self._journal = record.journal
        self._target = target
        self._tally = Tally(record.show, show)
        self._disk = Disk(target.root)
        self._taken_bytes = 0
        self._fetched = 0
        self._replaced: list[str] = []
        self._removed: list[str] = []

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
        keeps_parts = True
        root = self._target.root
        try:
            with translated(root, self._doing):
                return self._run(self._listing(looks=looks))
        except LocalDiskError as error:
            refusal = disk_error(root, self._doing(), error.error) or error.error
            keeps_parts = not isinstance(refusal, errors.OutOfSpaceError)
            raise refusal from error.error
        except errors.OutOfSpaceError:
            keeps_parts = False
            raise
        finally:
            self._target.end(keeps_parts=keeps_parts)

    def _doing(self) -> str:
        return f"{self._job.store.location} is copied, after {self._fetched:,} files"

    def _run(self, listed: Index) -> Copied:
        for looks_left in reversed(range(_LOOKS)):
            found, fetching = self._round(listed)
            are_gone = [isinstance(error, errors.NotFoundError) for _, error in fetching.failed]
            if not (looks_left and are_gone and all(are_gone)):
                break
            listed = list_anew(self._job.store, self._record)  # they may have gone since it was listed
        self._remove(found)
        self._log(found)
        self._check_failed(fetching)
        self._record.finished(self._job.name)
        return Copied({**found.kept, **fetching.sizes}, self._fetched, len(self._removed))

    def _listing(self, *, looks: bool) -> Index:
        kept = None if looks else kept_index(self._job.store, self._record)
        return open_index(self._job.store, self._record, None, "warn") if kept is None else kept

    def _round(self, listed: Index) -> tuple[Difference, Fetching]:
        """Fetch what the directory lacks beside a listing."""
        positions = matching(self._job.pattern, listed, self._job.store.location)
        keys = listed.keys if len(positions) == len(listed) else [listed.keys[position] for position in positions]
        hollow = listed.hollow if self._job.pattern.is_everything else ()
        check = partial(check_names, keys, hollow, self._target.root, self._target.staging_name)
        check(thoroughly=False)
        found = self._difference(listed, positions)
        self._target.sweep(self._parts(found))
        self._taken_bytes = self._recorded_bytes(found)
        fetching = Fetching(
            self._job, self._journal, self._target, self._tally, check=self._check_limit, listed=listed.entries
        )
        if found.outdated:
            check(thoroughly=True)
            sample = sample_of(self._job, [one.entry for one in found.outdated]) if self._job.preparation else None
            self._check_room(found, sample)
            self._target.begin()
            try:
                fetching.bring(found.outdated, sample)
            finally:
                self._fetched += len(fetching.sizes)
                self._replaced += [key for key in found.replaced if key in fetching.sizes]
        for folder in found.lacking:
            self._target.make_folders(folder, self._journal.add_folder)
        return found, fetching

    def _difference(self, listed: Index, positions: Sequence[int]) -> Difference:
        """What the directory lacks.

        Raises:
            OverwriteError: something is in the way.
        """
        found = difference(self._job, listed, positions, self._journal, self._target)
        if found.may_turn:
            self._remove(found)
            found = difference(self._job, listed, positions, self._journal, self._target)
        if found.blocked:
            raise blocked_error(self._target.root, found.blocked)
        if found.strangers:
            raise in_the_way_error(self._target.root, found.strangers)
        return found

    def _parts(self, found: Difference) -> set[str]:
        """The names of the parts of large files that an earlier run may have left, and that are of use."""
        if self._job.preparation is not None:
            return set()
        return {name_of(one.entry) for one in found.outdated if one.entry.size_bytes >= IN_RANGES_BYTES}

    # --- room

    def _recorded_bytes(self, found: Difference) -> int:
        """What files of ours take that are to stay."""
        replaced = {one.entry.key for one in found.outdated}.union(found.vanished, found.gone)
        written = self._journal.files.items()
        return self._disk.allocated(one.local_bytes for key, one in written if key not in replaced)

    def _check_room(self, found: Difference, sample: Sample | None) -> None:
        disk = self._disk
        ratio = 1.0 if sample is None else sample.ratio
        sizes = [one.entry.size_bytes for one in found.outdated]
        folders = self._new_folders(found)
        new_bytes = disk.allocated(int(size * ratio) for size in sizes) + disk.allocated(1 for _ in range(folders))
        over = [one.over.st_size for one in found.outdated if one.over is not None]
        # A file that is replaced stays until its successor is whole, and what is to be prepared may lie beside it.
        beside_bytes = disk.allocated(sorted(over, reverse=True)[:_AT_A_TIME])
        if sample is not None:
            beside_bytes += max(0, sum(sorted(sizes, reverse=True)[:_AT_A_TIME]) - PREPARED_IN_MEMORY_BYTES)
        need = Need(
            more_bytes=new_bytes - disk.allocated(over) + beside_bytes - self._target.staged_bytes(),
            total_bytes=new_bytes + self._taken_bytes,
            files=len(sizes),
            names=len(sizes) - len(over) + folders,
            estimated=sample is not None,
        )
        disk.check(need, self._job.limit_bytes)

    def _new_folders(self, found: Difference) -> int:
        folders = with_those_above(one.entry.key for one in found.outdated if one.over is None)
        return len(folders.difference(self._journal.folders).union(found.lacking))

    def _check_limit(self, size_bytes: int) -> None:
        """See that a file does not make the copy larger than it may be: it may be larger than was reckoned."""
        limit_bytes = self._job.limit_bytes
        self._taken_bytes += self._disk.allocated([size_bytes])
        if limit_bytes is not None and self._taken_bytes > limit_bytes:
            raise errors.OutOfSpaceError(
                f"{self._target.root}: the copy would be larger than size_limit, {limit_bytes:,} bytes: its files are "
                "larger than was reckoned. What is there is whole, and stays; give a higher size_limit, or choose "
                "files by pattern="
            )

    # --- the end

    def _remove(self, found: Difference) -> None:
        """Remove what vanished from the storage, if it is still as it was left, and the folders that are empty then."""
        for key in found.vanished:
            here = self._target.found(key)
            if here is not None and self._journal.settle(key, here) is None:
                found.left.append(key)
                continue
            self._target.remove(key)
            self._journal.remove(key)
            self._removed.append(key)
        for key in found.gone:
            self._journal.remove(key)
        for folder in found.bare:
            if self._target.remove_folder(folder):
                self._journal.remove(folder)

    def _log(self, found: Difference) -> None:
        where = f"{self._target.root}, the copy of {self._job.store.location}"
        if self._replaced:
            log.info("%s: %s changed on the storage, and came anew", where, enumerated(map(repr, self._replaced)))
        if self._removed:
            log.info("%s: %s vanished from the storage, and here too", where, enumerated(map(repr, self._removed)))
        if found.left:
            tell_once(
                f"{where}: {enumerated(map(repr, found.left))} vanished from the storage, and stay here, since they "
                "were changed here"
            )

    def _check_failed(self, fetching: Fetching) -> None:
        if fetching.failed:
            first = fetching.failed[0][1]
            raise type(first)(
                f"{len(fetching.failed):,} of {len(fetching.failed) + len(fetching.sizes):,} files did not come: "
                f"{enumerated(str(error) for _, error in fetching.failed)}. The others are in {self._target.root}; "
                "call again for the rest"
            )
