"""`StorageCheckpoint`: checkpoints on network storage that no failure takes away.

Training waits for one copy in memory. Behind it the copy goes to the spool on the local disk, from there to the server,
and is verified there; the manifest comes last, and only then may an older checkpoint go.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler

from ai4os_data import errors
from ai4os_data.cache import DiskCache, caches_on_disk_of
from ai4os_data.checkpoint.arguments import checked_metrics, checked_state, checked_step, tell_what_lacks
from ai4os_data.checkpoint.deleted import set_aside_deleted
from ai4os_data.checkpoint.ending import Ending, daemons, is_late, note_thread, rest_if_ending
from ai4os_data.checkpoint.handle import SaveHandle
from ai4os_data.checkpoint.history import History, Seen
from ai4os_data.checkpoint.launchers import check_group
from ai4os_data.checkpoint.lifetimes import weakly, without_locals
from ai4os_data.checkpoint.loading import check_into, load_checkpoint
from ai4os_data.checkpoint.manifest import FileFacts, Manifest, versions
from ai4os_data.checkpoint.names import MANIFEST, AttemptName, CheckpointName
from ai4os_data.checkpoint.plan import unwrapped
from ai4os_data.checkpoint.preemption import PreemptionGuard
from ai4os_data.checkpoint.pruning import Pruning, on_store
from ai4os_data.checkpoint.randomness import random_states, set_random_states
from ai4os_data.checkpoint.ranks import Ranks
from ai4os_data.checkpoint.restored import Checkpoint, Restored
from ai4os_data.checkpoint.restoring import Restoring
from ai4os_data.checkpoint.retention import Mode, Retention
from ai4os_data.checkpoint.spool import Spool, Spooled, is_intact, parse_limit
from ai4os_data.checkpoint.spool_directory import named_directory
from ai4os_data.checkpoint.staging import Staging
from ai4os_data.checkpoint.uploads import Upload, Uploads
from ai4os_data.http import Patience, passes
from ai4os_data.machine import tell_after_fork
from ai4os_data.stores import LEVELS, is_on_the_server, open_store, reaches
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from ai4os_data.checkpoint.plan import Place
    from ai4os_data.locations import Remote
    from ai4os_data.stores import Durability, Level, Store

RANK_TIMEOUT_S = 600.0
BUDGET_S = 5.0  # the platform kills so long after SIGTERM


class _OfRank(NamedTuple):
    """What a rank has to itself, and where arrays are in it."""

    state: dict[str, Any]
    arrays: list[Place]


class StorageCheckpoint:
    """The checkpoints of one run at a location.

    Under torch.distributed every rank makes one, after `init_process_group`, and calls `save` and `restore` together
    with the others; rank 0 writes.

    Args:
        location: the run's own folder: ``rshare:runs/flowers``, a path, or anything else that a dataset takes. It need
            not exist.
        remote: a remote's name, or a `Remote`.
        keep_last: how many of the newest stay.
        keep_best: how many of the best by ``monitor`` stay beside them.
        keep_every: checkpoints whose step is a multiple of it stay too.
        monitor: the metric that says how good one is.
        mode: ``"max"`` if high values of it are good, ``"min"`` if low ones are. It may be left out if the metric's
            name has the word "loss" or "error" in it.
        spool: a directory on the local disk; by default ``$AI4OS_DATA_SPOOL``, or one beside the cache's.
        spool_limit: the most that the spool may take, in bytes or as ``"20GiB"``; by default what the disk has.
        durability: the level that ``wait()`` waits for and `close` insists on; ``"best"`` is the highest that the store
            can reach.
        save_random_states: whether the random states of Python, NumPy, torch and CUDA are saved with each state.
        cache: what gives way when the spool is short of room: ``"auto"`` is each cache of this process on the spool's
            disk; a cache, or None for none.
        rank_timeout_s: how long ranks wait for each other.
        alone: this process saves and restores by itself, whatever other ranks there are.

    Raises:
        CheckpointError: a launcher has started several processes, and there is no process group yet.
        DurabilityError: the store cannot reach the level.
        StorageError: the location cannot be listed.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | Store,
        *,
        remote: str | Remote | None = None,
        keep_last: int = 2,
        keep_best: int = 0,
        keep_every: int | None = None,
        monitor: str | None = None,
        mode: Mode | None = None,
        spool: str | os.PathLike[str] | None = None,
        spool_limit: int | str | None = None,
        durability: Durability = "best",
        save_random_states: bool = True,
        cache: DiskCache | Literal["auto"] | None = "auto",
        rank_timeout_s: float = RANK_TIMEOUT_S,
        alone: bool = False,
    ) -> None:
        self._retention = Retention(keep_last, keep_best, keep_every, monitor, mode)
        if durability != "best" and durability not in LEVELS:
            raise ValueError(f"durability is 'best', 'local', 'mount' or 'confirmed', not {durability!r}")
        if cache is not None and cache != "auto" and not isinstance(cache, DiskCache):
            raise TypeError(f"cache is a DiskCache, 'auto' or None, not {cache!r}")
        limit_bytes = parse_limit(spool_limit)
        if not alone:
            check_group(os.environ)
        self._store = open_store(location, remote, create=True, patience=Patience())
        self._monitor = monitor if keep_best else None
        self._save_random_states = save_random_states
        self._cache = cache
        self._is_alone = alone
        self._ranks = Ranks(rank_timeout_s, alone=alone)
        self._staging = Staging()
        self._manifests: dict[CheckpointName, Manifest] = {}
        self._there: dict[CheckpointName, dict[str, float]] = {}  # the metrics of what the store had at the last look
        self._attempt: AttemptName | None = None
        self._source: CheckpointName | None = None  # what this attempt was resumed from
        self._highest_attempt = 0
        self._had_some = False  # since the last look, or then
        self._newest: SaveHandle | None = None
        self._unraised: list[BaseException] = []
        self._left_error: BaseException | None = None  # why what an earlier process has left could not be sent
        self._counts = {"saves": 0, "stall_s": 0.0, "waited_s": 0.0, "sent": 0, "dropped": 0, "removed": 0}
        self._numbers = itertools.count()  # of the saves, in the order of their copies
        self._is_closed = False
        self._reading = threading.Lock()  # nothing is removed while a checkpoint is read
        self._is_reading = False
        self._asked: frozenset[str] = frozenset()  # the names that `restore` was to load
        self._pid = os.getpid()
        self._wanted: Level = "local"
        self._restoring = Restoring(self._store, self._ranks, weakly(self.room_for))
        if not self._ranks.writes:
            return
        self.best_level = self._store.best_level
        self._wanted = _wanted(durability, self.best_level, self._store)
        self._spool = Spool(named_directory(spool, os.environ), self._store.identity, limit_bytes)
        self._spool.sweep()
        self._pruning = Pruning(self._store, self._retention)
        # Each upload keeps this object for as long as it is sent, and nothing else does.
        told = weakly(self._displaced), weakly(self._sent), weakly(self._dropped), weakly(self._failed)
        self._uploads = Uploads(self._store, *told)
        self._ending = Ending(self._store.location, self._staging, self._uploads)
        note_thread()
        weakref.finalize(self, _unlock, self._spool, self._pid).atexit = False
        tell_after_fork(self)
        self._spool.adopt()
        self._pruning.know(self._look())
        self._send_what_was_left(self._spool.entries())

    # --- saving

    def save(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, Any] | None = None) -> SaveHandle:
        """Save a state. It may be changed as soon as this returns.

        Args:
            state: objects with a ``state_dict()``, tensors, arrays, primitives, and containers of such, by name. Tuples
                with names and other containers of a class of their own come back as plain ones.
            step: of the training; the highest one of the newest attempt is restored.
            metrics: numbers that belong to the step.

        Raises:
            StateError: the state holds something else.
            TypeError: the state has no names, or a metric is no number.
            StorageError: what an earlier save failed with, if that will not pass by itself; this one goes on all the
                same.
        """
        failed = self._unraised[:]
        handle = self.save_anyhow(state, step, metrics)
        self._raise_what_failed(failed)
        return handle

    def save_anyhow(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, Any] | None = None) -> SaveHandle:
        """The same, and what earlier saves failed with is left to the next one, or to `close`."""
        begun = time.perf_counter()
        self._check_usable()
        rest_if_ending()
        note_thread()
        state, step = checked_state(state), checked_step(step)
        tell_what_lacks(state, self._asked)
        ranks = self._gathered(state)  # before anything that may fail on rank 0 alone
        if not self._ranks.writes:
            return SaveHandle(step, None, self._wanted)
        numbers = checked_metrics(metrics)
        if self._monitor is not None and self._monitor not in numbers:
            raise ValueError(f"metrics lacks {self._monitor!r}, which says which checkpoints are the best")
        handle = self._begun(state, ranks, step, numbers)
        handle.stall_s = time.perf_counter() - begun
        self._count(saves=1, stall_s=handle.stall_s, waited_s=handle.waited_s)
        return handle

    def _begun(
        self, state: Mapping[str, Any], ranks: list[_OfRank], step: int, metrics: dict[str, float]
    ) -> SaveHandle:
        """A save of which the copy is made, and the rest goes on behind the training."""
        staged = self._staging.stage({"state": state, "ranks": [own.state for own in ranks]})
        arrays = [("ranks", rank, *place) for rank, own in enumerate(ranks) for place in own.arrays]
        try:
            name = CheckpointName.new(self._open_attempt(), step, next(self._numbers))
            handle = SaveHandle(step, name, self._wanted, self.best_level)
            handle.waited_s = staged.waited_s
            payload = {**staged.state, "arrays": [*staged.arrays, *arrays]}
            writing = threading.Thread(
                target=self._write_out,
                args=(payload, staged.size_bytes, handle, metrics),
                name="ai4os-data-spool",
                daemon=daemons(),
            )
            if not (is_last := is_late()):
                writing.start()
        except BaseException:
            self._staging.release()
            raise
        self._newest = handle
        if is_last:
            writing.run()
        return handle

    def _gathered(self, state: Mapping[str, Any]) -> list[_OfRank]:
        """What differs by rank, of every rank: random states, and where its loader is."""
        own: dict[str, Any] = {"random": random_states() if self._save_random_states else None, "state": {}}
        if not self._ranks.is_distributed:
            return [_OfRank(own, [])]
        own["state"] = {key: value for key, value in state.items() if _differs_by_rank(value)}
        staged = Staging().stage(own)  # the big one belongs to the state
        return self._ranks.gather(_OfRank(staged.state, list(staged.arrays)))

    def _write_out(
        self, payload: dict[str, Any], size_bytes: int, handle: SaveHandle, metrics: dict[str, float]
    ) -> None:
        """Bring a copy to the spool, and hand it to the uploads."""
        assert handle.name is not None
        try:
            spooled = self._spooled(payload, size_bytes, handle.name, metrics)
            handle.reach("local")
            self._uploads.submit(Upload(spooled, handle, self))
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that asks for it
            log.error("step %d could not be saved: %s", handle.step, error)
            without_locals(error)
            self._note_failure(error)
            handle.fail(error)
        finally:
            self._staging.release()  # whoever waits for this finds it among the uploads
            del self, payload, handle, metrics  # whoever keeps the error keeps this frame

    def _spooled(
        self, payload: dict[str, Any], size_bytes: int, name: CheckpointName, metrics: dict[str, float]
    ) -> Spooled:
        source, size = self._source, self._ranks.size

        def manifest(files: dict[str, FileFacts]) -> Manifest:
            return Manifest(name, files, source, metrics, size, versions())

        self._make_room(size_bytes, self._spool.check_room)
        try:
            return self._spool.write(name, payload, manifest)
        except errors.OutOfSpaceError:
            self.drop_sent()
            self._take_from_caches(2 * size_bytes)  # something else is filling the disk
        return self._spool.write(name, payload, manifest)

    def _make_room(self, size_bytes: int, check: Callable[[int], None]) -> None:
        """Let what is on the server already, and then the caches on the disk, give way to a checkpoint.

        Raises:
            OutOfSpaceError: it is not enough.
        """
        try:
            check(size_bytes)
        except errors.OutOfSpaceError:
            self.drop_sent()
            self._spool.drop_sent_of_others()
            self._take_from_caches(size_bytes)
            check(size_bytes)

    def _take_from_caches(self, size_bytes: int) -> None:
        """Let caches give up what is lacking for so much more."""
        if self._cache == "auto":
            caches = caches_on_disk_of(self._spool.folder)
        else:
            caches = [self._cache] if self._cache is not None else []
        for cache in caches:
            if lacking := self._spool.lacking_on_disk(size_bytes):
                log.warning("the spool is short of room: %s gives way by %s bytes", cache.directory, f"{lacking:,}")
                cache.give_way(lacking)

    def _open_attempt(self) -> AttemptName:
        """This process's attempt, which begins with its first save."""
        if self._attempt is None:
            attempt = AttemptName.new(self._highest_attempt + 1)
            self._spool.open_attempt(attempt)
            self._pruning.own(attempt)
            self._highest_attempt, self._attempt = attempt.number, attempt
        return self._attempt

    # --- behind the training

    def _send_what_was_left(self, left: list[Spooled]) -> None:
        """Send the newest of what an earlier process could not, and what is to stay; the rest goes after it."""
        unsent = [
            spooled
            for spooled in left
            if not (is_on_the_server(spooled.level) and reaches(spooled.level, self.best_level))
        ]
        intact = [spooled for spooled in unsent if _is_sound(spooled)]
        uploads = [Upload(spooled, None, self) for spooled in intact]
        displaced = self._displaced(uploads) if uploads else []
        for upload in uploads:
            if upload not in displaced:
                step = upload.spooled.name.step
                log.info("sending step %d, which an earlier process has left in the spool", step)
                self._uploads.submit(upload)

    def _displaced(self, uploads: Sequence[Upload]) -> list[Upload]:
        """Those that need not be sent, since the last one is there, and no rule would keep them beside it."""
        kept = self._kept_for_good(upload.spooled for upload in uploads)
        return [upload for upload in uploads[:-1] if upload.spooled.name not in kept]

    def _kept_for_good(self, spooled: Iterable[Spooled]) -> set[CheckpointName]:
        """The best and the milestones of the whole run: of what the store has, and of some in the spool."""
        metrics = {**self._there, **{one.name: one.manifest.metrics for one in spooled}}
        newest_first = sorted(metrics, key=lambda name: (name.order, name), reverse=True)
        return self._retention.kept_for_good(newest_first, metrics)

    def _sent(self, upload: Upload, level: Level) -> None:
        spooled = upload.spooled
        self._manifests[spooled.name] = spooled.manifest
        self._there = {**self._there, spooled.name: spooled.manifest.metrics}
        self._had_some = True
        self._spool.note(spooled, level)
        self._count(sent=1)
        if upload.handle is not None:
            upload.handle.reach(level)
        with self._reading:
            for older in self._superseded(spooled.name):
                self._spool.remove(older)
            if is_on_the_server(level):  # nothing on the store goes before that
                self._prune(spooled.name)

    def _superseded(self, sent: CheckpointName) -> Iterator[Spooled]:
        """What the spool need not hold any more; what could not be sent and is to stay waits for the next start."""
        entries, busy = self._spool.entries(), self._busy()
        kept = self._kept_for_good(entries)
        for spooled in entries:
            is_unsent = spooled.name not in self._there and not is_on_the_server(spooled.level)
            is_idle = spooled.name not in busy and not (is_unsent and spooled.name in kept)
            if spooled.name.is_older_than(sent) and is_idle:
                yield spooled

    def _prune(self, confirmed: CheckpointName) -> None:
        try:
            history = History(self._store, self._spool, self._manifests)
            self._there = on_store(history)
            removed = self._pruning.prune(history, confirmed, self._source, self._busy)
            self._there = {name: metrics for name, metrics in self._there.items() if name not in removed}
            self._count(removed=len(removed))
        except errors.StorageError as error:
            log.warning("older checkpoints stay for now: %s", error)

    def _busy(self) -> set[CheckpointName]:
        return {upload.spooled.name for upload in self._uploads.unsent()}

    def _dropped(self, upload: Upload) -> None:
        self._count(dropped=1)
        self._spool.remove(upload.spooled)

    def _failed(self, upload: Upload, error: BaseException) -> None:
        if upload.handle is None and (passes(error) or isinstance(error, errors.LostError)):
            self._left_error = error
        self._note_failure(error)

    def _note_failure(self, error: BaseException) -> None:
        """Keep an error for the next save, unless it may pass; then the newest handle has it, and `close` raises it."""
        if not (passes(error) or isinstance(error, errors.LostError)):  # of one that is lost, the log has told
            self._unraised.append(error)

    def _raise_what_failed(self, failed: list[BaseException]) -> None:
        """Raise the first of some errors, and keep none of them."""
        self._unraised = [error for error in self._unraised if error not in failed]
        if failed:
            raise failed[0]

    def time_to_send_s(self) -> float | None:
        """How long what is not on the server yet will take, at the bandwidth of the uploads so far; None if unknown."""
        self.write_out()
        rate = self._uploads.bytes_per_s
        return None if rate is None else self._uploads.remaining_bytes() / rate

    def wait_for_uploads(self, timeout_s: float, handle: SaveHandle) -> None:
        """Wait for a save to reach what is wanted of it, but no longer than that."""
        try:
            handle.wait(timeout_s=timeout_s)
        except errors.StorageError as error:
            log.warning("%s", error)

    # --- restoring

    def restore(
        self,
        into: Mapping[str, Any] | None = None,
        step: int | None = None,
        map_location: Any = "cpu",
        weights_only: bool = True,  # noqa: FBT001, FBT002  as torch.load has it
    ) -> Restored | None:
        """Read the newest intact checkpoint, from the spool or the server; None where there has never been one.

        What is saved afterwards belongs to a new attempt, whose parent this checkpoint is.

        Args:
            into: objects to load, by the names that they were saved under; the random states are set then too.
            step: this step instead of the newest one. Of several with it, the newest of the branch that ``restore()``
                goes on with, before those of abandoned branches.
            map_location: where tensors go, as in `torch.load`.
            weights_only: as in `torch.load`; no code of the file is run.

        Raises:
            DamagedError: there are checkpoints, and none of them is intact.
            StateMismatchError: ``into`` does not fit, or holds what nothing can be loaded into, on a new run too.
            TypeError: ``into`` has no names.
            ValueError: ``step`` is not a whole number from 0 up.
            StorageError: the store cannot be listed or read.
        """
        self._check_usable()
        step = None if step is None else checked_step(step)
        if into is not None:
            check_into(into)
            self._asked = frozenset(into)
        look = self._look_again if self._ranks.writes else None
        with self._read(), self._restoring.chosen(look, step) as chosen:
            if chosen is None:
                return None
            payload = self._restoring.payload(chosen, map_location, weights_only=weights_only)
            self._ranks.gather(None)  # the file stays until all have read it
            manifest = chosen.manifest
            self.go_on_from(manifest.name)
        state, random = self._restoring.of_this_rank(payload)
        restored = Restored(manifest.name, dict(manifest.metrics), chosen.skipped, state, manifest.size_bytes)
        if into is not None:
            load_checkpoint(into, state, manifest.name)
            if random is not None:
                set_random_states(random)
        return restored

    def read_named(self, name: CheckpointName, map_location: Any = "cpu", *, weights_only: bool = True) -> Restored:
        """Read exactly one checkpoint as `list` names it, whatever others have its step; on rank 0 alone.

        What is saved afterwards goes on from where it did.

        Raises:
            DamagedError: it is not intact.
            CheckpointError: it is not there.
            StorageError: the store cannot be listed or read.
        """
        self._check_usable()
        restoring = Restoring(self._store, Ranks(0.0, alone=True), self.room_for)
        with self._read(), restoring.chosen(self._look, name) as chosen:
            assert chosen is not None  # where there is none it raises
            state, _ = restoring.of_this_rank(restoring.payload(chosen, map_location, weights_only=weights_only))
        manifest = chosen.manifest
        return Restored(manifest.name, dict(manifest.metrics), chosen.skipped, state, manifest.size_bytes)

    @contextmanager
    def _read(self) -> Iterator[None]:
        with self._reading:
            self._is_reading = True
            try:
                yield
            finally:
                self._is_reading = False

    def go_on_from(self, name: CheckpointName) -> None:
        """Record that the training goes on from a checkpoint of this run that was restored elsewhere.

        It stays, and what is saved afterwards belongs to a new attempt, whose parent it is.
        """
        self._source, self._attempt = name, None

    # --- looking

    def known(self) -> dict[CheckpointName, dict[str, float]]:
        """The metrics of what is there, as far as this process knows without asking the store."""
        return {**self._there, **{spooled.name: spooled.manifest.metrics for spooled in self._spool.entries()}}

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that `restore` would try first; None where there is none."""
        history = self._look()
        for seen in history.candidates():
            if (found := self._described(history, seen)) is not None:
                return found
        return None

    def list(self) -> list[Checkpoint]:
        """Every checkpoint with a readable manifest, on the store and in the spool, newest first."""
        history = self._look()
        self._there = on_store(history)
        described = (self._described(history, seen) for seen in history.committed())
        return [checkpoint for checkpoint in described if checkpoint is not None]

    def verify(self) -> dict[str, str]:
        """Read every checkpoint and compare its hashes; those that are damaged, each with what is wrong with it."""
        history = self._look()
        wrong: dict[str, str] = {}
        for seen in history.committed():
            try:
                self._verify(history, seen)
            except (errors.IntegrityError, errors.NotFoundError) as error:
                wrong[str(seen.name)] = str(error)
        # What gave way to a newer one while it was read is not damaged.
        there = {str(seen.name) for seen in self._look().committed()} if wrong else set()
        return {name: reason for name, reason in wrong.items() if name in there}

    def _verify(self, history: History, seen: Seen) -> None:
        # Without a manifest it is on its way to the store, and only what is in the spool counts.
        files = history.manifest_on_store(seen).files if MANIFEST in seen.files else {}
        for file, facts in files.items():
            if file not in seen.files:
                raise errors.IntegrityError(f"{file} is not there")
            found = self._store.sha256_of(seen.files[file])
            if found != facts.sha256:
                raise errors.IntegrityError(f"{file} has the sha256 {found}, where {facts.sha256} was written")
        if seen.spooled is not None and not is_intact(seen.spooled) and self._spool.find(seen.name) is not None:
            raise errors.IntegrityError("the copy in the spool is damaged")

    def _described(self, history: History, seen: Seen) -> Checkpoint | None:
        try:
            manifest = history.manifest(seen)
        except errors.IntegrityError:
            return None
        return Checkpoint(
            seen.name,
            dict(manifest.metrics),
            manifest.size_bytes,
            manifest.parent,
            MANIFEST in seen.files,
            seen.spooled is not None,
        )

    def _look_again(self) -> History:
        """What is there now, before this process adds to it under a new attempt."""
        history = self._look()
        self._pruning.know(history)
        return history

    def room_for(self, size_bytes: int) -> Path:
        """A new folder in the spool for a download of this size; the next start removes it if this process dies.

        Raises:
            OutOfSpaceError: there is no room.
        """
        self._make_room(size_bytes, self._spool.check_disk)
        return self._spool.scratch()

    def _look(self) -> History:
        """What is there now."""
        self._check_writes()
        self.write_out()  # what is on its way to the spool counts
        history = History(self._store, self._spool, self._manifests)
        if set_aside_deleted(self._store, self._spool, history, may_begin=not self._had_some):
            history = History(self._store, self._spool, self._manifests)
        if self._had_some and not history.has_some:
            raise errors.DamagedError(
                f"{self._store.location} had checkpoints when this process looked before, and now has none. Bring them "
                "back, or make another StorageCheckpoint to begin anew"
            )
        self._had_some = history.has_some
        self._highest_attempt = max(self._highest_attempt, history.highest_attempt)
        return history

    # --- around it

    def preemption_guard(self, budget_s: float = BUDGET_S) -> PreemptionGuard:
        """Take SIGTERM and SIGINT as a wish to stop: look at ``guard.requested`` in the loop, then ``guard.save()``.

        Args:
            budget_s: how long the process may live after the signal.
        """
        return PreemptionGuard(self, budget_s)

    def stats(self) -> dict[str, float]:
        """How many saves there were, how long training has waited for them, and what became of them."""
        return dict(self._counts)

    def close(self, timeout_s: float | None = None) -> None:
        """Wait for the last upload.

        While the server is down it is tried for another minute. What is not sent then lies in the spool, and the next
        start of the run sends it. A process that ends without this waits as well, and logs what cannot be sent.

        Args:
            timeout_s: the longest wait; for as long as bytes arrive by default.

        Raises:
            StorageError: what failed.
        """
        if self._is_closed or os.getpid() != self._pid:
            return
        if not self._ranks.writes:
            self._is_closed = True
            self._store.close()
            return
        begun = time.monotonic()
        if not self._staging.wait_until_free(timeout_s):
            raise errors.DeadlineError(f"the spool is still being written to after {timeout_s:g} s")
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - begun))
        if not self._uploads.close(left_s):
            raise self._late(timeout_s)
        self._is_closed = True
        self._ending.close()
        self._spool.let_go()
        self._store.close()
        self._raise_what_failed(self._unraised[:])
        if (
            self._newest is not None
            and not reaches(self._newest.level, self._wanted)
            and self._newest.error is not None
        ):
            raise self._newest.error
        if self._newest is None and self._left_error is not None:
            raise self._left_error

    def _late(self, timeout_s: float | None) -> errors.DeadlineError:
        """What a close says that has no more time."""
        after = "" if timeout_s is None else f" after {timeout_s:g} s"
        if not (left := self._uploads.on_the_way()):
            return errors.DeadlineError(f"all is on the storage{after}, and older checkpoints are still being removed")
        steps = ", ".join(str(upload.spooled.name.step) for upload in left)
        return errors.DeadlineError(
            f"{len(left)} checkpoints are not on the server{after} (of step {steps}); they are in the spool, and the "
            "next start sends them"
        )

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; what fails then does not hide what went wrong before."""
        try:
            self.close()
        except (errors.StorageError, OSError) as failure:
            if error is None:
                raise
            log.error("%s", failure)

    def __repr__(self) -> str:
        """Tell where it saves."""
        return f"StorageCheckpoint({self._store.location!r})"

    def __reduce__(self) -> NoReturn:
        """Not to be pickled, nor copied: its threads and locks stay with this process."""
        raise TypeError(
            f"{self!r} belongs to the process that made it, and cannot be pickled or copied: hand the location on, and "
            "make one there"
        )

    def after_fork(self) -> None:
        """Leave the parent's spool and threads alone, in a child."""
        self._spool.after_fork()

    def drop_sent(self) -> None:
        """Remove from the spool what is on the store already: the local copy only makes a restore faster."""
        for spooled in self._spool.entries():
            if is_on_the_server(spooled.level) and not self._is_reading:
                self._spool.remove(spooled)
        self._spool.drop_set_aside()

    def write_out(self) -> None:
        """Wait until what was saved is in the spool."""
        if os.getpid() == self._pid and not self._is_closed:
            self._staging.wait_until_free(None)

    def _count(self, **more: float) -> None:
        for name, number in more.items():
            self._counts[name] += number

    def _check_usable(self) -> None:
        if self._is_closed:
            raise errors.CheckpointError(f"{self!r} is closed: make a new one, or move this into its with block")
        if os.getpid() != self._pid:
            raise errors.CheckpointError(f"{self!r} belongs to the process that made it: save there")
        if (
            not self._is_alone
            and not self._ranks.is_distributed
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        ):
            raise errors.CheckpointError("make StorageCheckpoint after init_process_group, on every rank")

    def _check_writes(self) -> None:
        if not self._ranks.writes:
            raise errors.CheckpointError(f"rank {self._ranks.rank} does not write: ask on rank 0")


def _wanted(durability: Durability, best: Level, store: Store) -> Level:
    """The level to wait for."""
    if durability == "best":
        log.info("%s: checkpoints reach the level %r", store.location, best)
        return best
    if not reaches(best, durability):
        raise errors.DurabilityError(
            f"{store.location} reaches the level {best!r} at most, not {durability!r}: go over WebDAV ('rshare:path') "
            "where credentials are there, or ask for durability='best'"
        )
    return durability


def _is_sound(spooled: Spooled) -> bool:
    if not (is_sound := is_intact(spooled)):
        log.warning("%s is damaged in the spool, and is not sent", spooled.name)
    return is_sound


def _differs_by_rank(value: object) -> bool:
    """Whether an object goes its own way on each rank: what gives samples, or says so of itself."""
    value = unwrapped(value)
    if not callable(getattr(value, "state_dict", None)):
        return False
    return isinstance(value, (DataLoader, Sampler)) or bool(getattr(value, "differs_by_rank", False))


def _unlock(spool: Spool, pid: int) -> None:
    """Let the next start have what is in the spool, when a run is dropped that nobody has closed."""
    if os.getpid() == pid:
        spool.unlock()
