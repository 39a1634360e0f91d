"""Restores the newest checkpoint whose every byte is right, from the spool or a download beside it, or raises.

A run that has checkpoints never starts from scratch in silence.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.checkpoint.names import CheckpointName
from ai4os_data.checkpoint.ranks import Ranks
from ai4os_data.checkpoint.restored import Restored
from ai4os_data.checkpoint.serialisation import load_state
from ai4os_data.checkpoint.staging import with_arrays
from ai4os_data.machine import sha256_of
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ai4os_data.checkpoint.history import History, Seen
    from ai4os_data.checkpoint.manifest import Manifest
    from ai4os_data.checkpoint.saving import Saver

_LOOKS = 10  # before a checkpoint that another process removes during the read counts as damaged


@dataclass(frozen=True)
class Verified:
    """The checkpoint that is restored.

    Attributes:
        manifest: what it consists of.
        file: its state on the disk of rank 0, verified.
        scratch: the folder to remove after the reading; None if the file is in the spool.
        skipped: those that were tried before, each with the reason.
    """

    manifest: Manifest
    file: Path
    scratch: Path | None
    skipped: dict[str, str]


class Restoring:
    """Chooses a checkpoint and reads it.

    Args:
        saver: of the run.
        ranks: all of them restore the same checkpoint, which rank 0 chooses.
    """

    def __init__(self, saver: Saver, ranks: Ranks) -> None:
        self._saver = saver
        self._store = saver.store
        self._ranks = ranks

    def resumed(
        self, step: int | None, map_location: Any, *, weights_only: bool
    ) -> tuple[Restored, dict[str, Any] | None] | None:
        """The newest checkpoint, or that of a step, for all ranks, and the random states of this one.

        What is saved afterwards belongs to a new attempt, whose parent it is.

        Returns:
            None if there has never been a checkpoint. The random states are None if this rank has saved none.

        Raises:
            DamagedError: there are some, and none is intact.
            StorageError: the store cannot be listed or read.
        """
        with self._chosen(self._look_anew, step) as chosen:
            if chosen is None:
                return None
            payload = self._payload(chosen, map_location, weights_only=weights_only)
            self._ranks.gather(None)  # keep the file until all have read it
            self._saver.go_on_from(chosen.manifest.name)
        return self._restored(chosen, payload)

    def named(self, name: CheckpointName) -> Restored:
        """Exactly one checkpoint.

        Raises:
            DamagedError: it is not intact.
            StorageError: it is not there, or the store cannot be listed or read.
        """
        with self._chosen(self._saver.look, name) as chosen:
            assert chosen is not None  # it raises if there is none
            payload = self._payload(chosen, "cpu", weights_only=True)
        return self._restored(chosen, payload)[0]

    def _look_anew(self) -> History:
        """The checkpoints that are there now, before this process adds to them under a new attempt."""
        history = self._saver.look()
        self._saver.pruning.know(history)
        return history

    @contextmanager
    def _chosen(self, look: Callable[[], History], wanted: CheckpointName | int | None) -> Iterator[Verified | None]:
        """The checkpoint that rank 0 chooses, for all ranks; its file stays until the block ends.

        Args:
            look: lists the checkpoints, on rank 0.
            wanted: the name or the step of the checkpoint; None for the newest.
        """
        if not self._ranks.writes:
            answer = self._ranks.broadcast(None)
            if isinstance(answer, errors.StorageError):
                raise answer
            yield answer
            return
        with self._saver.spool.read():
            try:
                chosen = self._choose(look, wanted)
            except Exception as error:  # the other ranks wait for an answer
                is_ours = isinstance(error, errors.StorageError)
                self._ranks.broadcast(error if is_ours else errors.CheckpointError(f"rank 0 cannot restore: {error!r}"))
                raise
            try:
                yield self._ranks.broadcast(chosen)
            finally:
                _remove_scratch(chosen)

    def _payload(self, chosen: Verified, map_location: Any, *, weights_only: bool) -> dict[str, Any]:
        """The saved payload."""
        path = chosen.file
        (facts,) = chosen.manifest.files.values()
        if self._ranks.writes or (path.exists() and sha256_of(path) == facts.sha256):
            return _payload(path, map_location, weights_only=weights_only)
        with tempfile.TemporaryDirectory(prefix="ai4os-data-restore-") as folder:  # this is not the machine of rank 0
            own = Path(folder, path.name)
            self._store.read_into(self._store.stat(f"{chosen.manifest.name}/{path.name}"), own, facts.sha256)
            return _payload(own, map_location, weights_only=weights_only)

    def _restored(self, chosen: Verified, payload: dict[str, Any]) -> tuple[Restored, dict[str, Any] | None]:
        """The state as this rank saved it, and its random states; None if there was no such rank."""
        ranks, rank = payload["ranks"], self._ranks.rank
        something_differs = any(own["state"] or own["random"] is not None for own in ranks)
        if len(ranks) != self._ranks.size and something_differs:
            log.warning(
                "the checkpoint was saved by %d processes, and this training has %d: what differs by rank, such as "
                "random states, may begin anew",
                len(ranks),
                self._ranks.size,
            )
        own = ranks[rank] if rank < len(ranks) else {"state": ranks[0]["state"], "random": None}
        state: dict[str, Any] = payload["state"]  # the object itself: it may be a state_dict with its versions
        state.update(own["state"])
        manifest = chosen.manifest
        restored = Restored(manifest.name, dict(manifest.metrics), chosen.skipped, state, manifest.size_bytes)
        return restored, own["random"]

    def _choose(self, look: Callable[[], History], wanted: CheckpointName | int | None) -> Verified | None:
        """The best intact checkpoint; it looks again as long as those found damaged have been removed in between."""
        history = look()
        for looks_left in reversed(range(_LOOKS + 1)):
            chosen, skipped = self._first_intact(history, wanted)
            if not looks_left or _is_clear(history, chosen, skipped):
                break
            before, history = history, look()
            if not _has_moved(before, history, skipped):
                break
            _remove_scratch(chosen)
        for name, reason in skipped.items():
            log.warning("%s: the checkpoint %s is skipped: %s", self._store.location, name, reason)
        reasons = {str(name): reason for name, reason in skipped.items()}
        if chosen is not None:
            return replace(chosen, skipped=reasons)
        if wanted is not None:
            raise self._not_found(history, wanted, reasons)
        self._refuse_to_begin_anew(history, reasons)
        return None

    def _first_intact(
        self, history: History, wanted: CheckpointName | int | None
    ) -> tuple[Verified | None, dict[CheckpointName, str]]:
        """The first candidate that is intact, if any, and those before it, each with what is wrong with it."""
        skipped: dict[CheckpointName, str] = {}
        for seen in _candidates(history, wanted):
            try:
                manifest = history.manifest(seen)
                file, scratch = self._fetched(seen, manifest)
            except (errors.IntegrityError, errors.NotFoundError, errors.ChangedError) as error:
                skipped[seen.name] = str(error)
            else:
                return Verified(manifest, file, scratch, {}), skipped
        return None, skipped

    def _fetched(self, seen: Seen, manifest: Manifest) -> tuple[Path, Path | None]:
        """The file of a state on the local disk, verified; and the folder to remove after the reading."""
        if len(manifest.files) != 1:
            raise errors.IntegrityError(f"its manifest names {len(manifest.files)} files, where one is written")
        (file,) = manifest.files
        if seen.spooled is not None and seen.spooled.is_intact():
            return seen.spooled.folder / file, None
        if file not in seen.files:
            where = "is damaged in the spool and not on the store" if seen.spooled else "is not there"
            raise errors.IntegrityError(f"{file} {where}")
        entry, facts = seen.files[file], manifest.files[file]
        if entry.size_bytes != facts.size_bytes:
            entry = self._store.stat(entry.key)  # a mount's listing may be old
        if entry.size_bytes != facts.size_bytes:
            raise errors.IntegrityError(
                f"{file} has {entry.size_bytes:,} bytes, where {facts.size_bytes:,} were written"
            )
        scratch = self._saver.room.for_download(facts.size_bytes)
        try:
            self._store.read_into(entry, scratch / file, facts.sha256)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return scratch / file, scratch

    def _not_found(
        self, history: History, wanted: CheckpointName | int, skipped: dict[str, str]
    ) -> errors.StorageError:
        where = self._store.location
        if skipped:
            step = wanted.step if isinstance(wanted, CheckpointName) else wanted
            return errors.DamagedError(f"{where}: step {step} is damaged: {_listed(skipped)}")
        if isinstance(wanted, CheckpointName):
            there = [str(seen.name) for seen in history.committed()]
            return errors.CheckpointError(f"{where} has no checkpoint {wanted}, but {', '.join(there) or 'none'}")
        steps = sorted({seen.name.step for seen in history.committed()})
        return errors.CheckpointError(f"{where} has no checkpoint of step {wanted}, but of {steps or 'none'}")

    def _refuse_to_begin_anew(self, history: History, skipped: dict[str, str]) -> None:
        """Make sure that a run which has checkpoints never starts from scratch."""
        where = self._store.location
        if history.committed():
            abandoned = [seen.name for seen in history.committed() if str(seen.name) not in skipped]
            advice = f". {abandoned[0]}, of an abandoned branch, comes with restore(step=…)" if abandoned else ""
            raise errors.DamagedError(f"{where} has checkpoints, and none is intact: {_listed(skipped)}{advice}")
        if history.marked:
            raise errors.DamagedError(
                f"{where}/{max(history.marked)} has had checkpoints, and none has a manifest now: "
                f"{_listed(skipped) or 'all are gone'}. Bring them back, or move the folder away to begin anew"
            )
        if skipped:
            log.warning("%s has no checkpoint, only uploads that were cut off: %s", where, _listed(skipped))


def read_named(saver: Saver, name: CheckpointName) -> Restored:
    """Read exactly one checkpoint by its name from `list`, on rank 0 alone; others may have the same step.

    The attempt of this process does not change.

    Raises:
        DamagedError: it is not intact.
        CheckpointError: it is not there.
        StorageError: the store cannot be listed or read.
    """
    saver.check_usable()
    return Restoring(saver, Ranks(0.0, alone=True)).named(name)


def _remove_scratch(chosen: Verified | None) -> None:
    if chosen is not None and chosen.scratch is not None:
        shutil.rmtree(chosen.scratch, ignore_errors=True)


def _committed(history: History) -> set[CheckpointName]:
    return {seen.name for seen in history.committed()}


def _is_clear(history: History, chosen: Verified | None, skipped: Iterable[CheckpointName]) -> bool:
    """Whether one look is enough: a checkpoint was found and none before it is damaged, or there is no checkpoint."""
    if chosen is None:
        return not [*skipped] and not history.marked
    return _committed(history).isdisjoint(skipped)


def _has_moved(before: History, after: History, skipped: Iterable[CheckpointName]) -> bool:
    """Whether another process has added or removed checkpoints between two looks, so that one more look is needed."""
    old, new = _committed(before), _committed(after)
    return bool(new - old) or bool((old - new).intersection(skipped))


def _candidates(history: History, wanted: CheckpointName | int | None) -> list[Seen]:
    """The candidates, best first; for a step, those of the branch that a restore would resume come first."""
    if wanted is None:
        return [*history.candidates()]
    if isinstance(wanted, CheckpointName):
        return [seen for seen in history.committed() if seen.name == wanted]
    line = [seen for seen in history.candidates() if seen.is_committed]
    others = [seen for seen in history.committed() if seen not in line]
    return [seen for seen in (*line, *others) if seen.name.step == wanted]


def _payload(path: Path, map_location: Any, *, weights_only: bool) -> dict[str, Any]:
    payload = load_state(path, map_location=map_location, weights_only=weights_only)
    loaded: dict[str, Any] = with_arrays(payload, payload["arrays"])
    return loaded


def _listed(skipped: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
