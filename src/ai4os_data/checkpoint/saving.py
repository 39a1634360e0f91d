"""A save copies the state in memory; a thread writes the copy to the spool, and another one sends it to the store.

Every rank has a saver, since a save gathers what differs by rank. Rank 0 alone has a spool and uploads.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch.utils.data import DataLoader, Sampler

from ai4os_data import errors
from ai4os_data.checkpoint import leftovers
from ai4os_data.checkpoint.arguments import checked_metrics, checked_state, checked_step, log_what_lacks
from ai4os_data.checkpoint.catalogue import Catalogue
from ai4os_data.checkpoint.delivery import Delivery
from ai4os_data.checkpoint.ending import RunEnding, daemons, is_late, note_thread, rest_if_ending
from ai4os_data.checkpoint.failures import SaveFailures
from ai4os_data.checkpoint.handle import SaveHandle, SaveProgress
from ai4os_data.checkpoint.manifest import Manifest, versions
from ai4os_data.checkpoint.names import AttemptName, CheckpointName
from ai4os_data.checkpoint.pruning import Pruning
from ai4os_data.checkpoint.randomness import random_states
from ai4os_data.checkpoint.room import Room
from ai4os_data.checkpoint.sending import Sender
from ai4os_data.checkpoint.spool import Spool, Spooled
from ai4os_data.checkpoint.spool_directory import named_directory
from ai4os_data.checkpoint.staging import Staging
from ai4os_data.checkpoint.uploads import Upload, Uploads
from ai4os_data.checkpoint.walk import unwrapped
from ai4os_data.stores import best_level, is_on_the_server, reaches
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from ai4os_data.cache import DiskCache
    from ai4os_data.checkpoint.history import History
    from ai4os_data.checkpoint.ranks import Ranks
    from ai4os_data.checkpoint.retention import Retention
    from ai4os_data.checkpoint.walk import StatePath
    from ai4os_data.stores import Durability, Level, Store

_State = Mapping[str, Any]
_Payload = dict[str, Any]
_Metrics = dict[str, float]

_COUNTED = ("saves", "stall_s", "waited_s", "sent", "dropped", "removed")


class _OfRank(NamedTuple):
    """The state of one rank alone, and the paths of arrays in it."""

    state: dict[str, Any]
    arrays: list[StatePath]


class Saver:
    """Saves the checkpoints of one run. Uploads on their way keep it alive, even if nothing else refers to it.

    Args:
        store: of the run.
        ranks: this process among the others.
        retention: the rules that say what stays.
        spool: the directory of spools; None for the default one.
        limit_bytes: the most that the spools may take; None for what the disk has free.
        cache: the caches that give way when the spool is short of room, as in `Room`.
        durability: the level that is waited for by default.
        save_random_states: whether random states are saved with each state.

    Attributes:
        best_level: the highest level that the store can reach.
        wanted: the level that is waited for by default.
        newest: the handle of the last save; None before.
        asked: the names that the last `restore` was asked to load.
        counts: how many saves there were, how long training has waited for them, and what became of them.

    Raises:
        DurabilityError: the store cannot reach the level.
        StorageError: the store cannot be listed.
    """

    def __init__(
        self,
        store: Store,
        ranks: Ranks,
        retention: Retention,
        *,
        spool: str | os.PathLike[str] | None,
        limit_bytes: int | None,
        cache: DiskCache | Literal["auto"] | None,
        durability: Durability,
        save_random_states: bool,
    ) -> None:
        self.store = store
        self.ranks = ranks
        self.wanted: Level = "local"
        self.newest: SaveHandle | None = None
        self.asked: frozenset[str] = frozenset()
        self.counts = dict.fromkeys(_COUNTED, 0.0)
        self.failures = SaveFailures()
        self._monitor = retention.monitor if retention.keep_best else None
        self._save_random_states = save_random_states
        self._staging = Staging()
        self._attempt: AttemptName | None = None
        self._numbers = itertools.count()  # numbers the saves, in the order of their copies
        self._is_closed = False
        self._pid = os.getpid()
        if not ranks.writes:
            return
        self.best_level = best_level(store)
        self.wanted = _wanted(durability, self.best_level, store)
        self.spool = Spool(named_directory(spool, os.environ), store.identity, limit_bytes)
        leftovers.sweep(self.spool.directory, self.spool.folder, limit_bytes)
        self.room = Room(self.spool, cache)
        self.pruning = Pruning(store, retention)
        self.catalogue = Catalogue(store, self.spool, retention)
        self.delivery = Delivery(store)
        self.uploads = Uploads(self.catalogue, self.delivery)
        self.sender = Sender(
            self.uploads, self.delivery, self.spool, self.catalogue, self.pruning, self.failures, self.counts
        )
        self.ending = RunEnding(store.location, self._staging, self.uploads)
        note_thread()
        weakref.finalize(self, _unlock, self.spool, self._pid).atexit = False
        self.spool.adopt()
        self.pruning.know(self.look())
        self._send_what_was_left()

    def save(self, state: _State, step: int, metrics: _State | None = None) -> SaveHandle:
        """Save a state, and leave the errors of earlier saves in `failures`.

        Raises:
            StateError: the state holds what cannot be saved.
            TypeError: the state has no names, or a metric is no number.
        """
        begun = time.perf_counter()
        self.check_usable()
        rest_if_ending()
        note_thread()
        state, step = checked_state(state), checked_step(step)
        log_what_lacks(state, self.asked)
        ranks = self._gathered(state)  # first, since what follows may fail on rank 0 alone
        if not self.ranks.writes:
            return SaveHandle(step, None, SaveProgress(), self.wanted)
        numbers = checked_metrics(metrics)
        if self._monitor is not None and self._monitor not in numbers:
            raise ValueError(f"metrics lacks {self._monitor!r}, which says which checkpoints are the best")
        handle = self._begun(state, ranks, step, numbers)
        handle.stall_s = time.perf_counter() - begun
        self.counts["saves"] += 1
        self.counts["stall_s"] += handle.stall_s
        self.counts["waited_s"] += handle.waited_s
        return handle

    def go_on_from(self, name: CheckpointName) -> None:
        """Record that the training resumes from a checkpoint of this run, wherever that was restored.

        It stays, and later saves belong to a new attempt, whose parent it is.
        """
        self._attempt = None
        if self.ranks.writes:
            self.pruning.source = name

    def look(self) -> History:
        """The checkpoints that are there now, those on their way to the spool included.

        Raises:
            CheckpointError: another rank writes.
            StorageError: the store cannot be listed.
        """
        if not self.ranks.writes:
            raise errors.CheckpointError(f"rank {self.ranks.rank} does not write: ask on rank 0")
        self.write_out()
        return self.catalogue.look()

    def write_out(self) -> None:
        """Wait until what was saved is in the spool."""
        if os.getpid() == self._pid and not self._is_closed:
            self._staging.wait_until_free(None)

    def time_to_send_s(self) -> float | None:
        """How long the uploads still take, at the bandwidth of those so far; None if that is not known."""
        self.write_out()
        if self.delivery.bytes_per_s is None:
            return None
        whole_bytes = sum(upload.spooled.manifest.size_bytes for upload in self.uploads.unsent())
        return max(0, whole_bytes - self.delivery.sent_bytes) / self.delivery.bytes_per_s

    def check_usable(self) -> None:
        """Make sure that this process may save and restore.

        Raises:
            CheckpointError: it may not.
        """
        run = f"StorageCheckpoint({self.store.location!r})"
        if self._is_closed:
            raise errors.CheckpointError(f"{run} is closed: make a new one, or move this into its with block")
        if os.getpid() != self._pid:
            raise errors.CheckpointError(f"{run} belongs to the process that made it: save there")
        self.ranks.check_group()

    def close(self, timeout_s: float | None) -> None:
        """Wait for the last upload, and raise the first error that was not raised yet.

        Raises:
            DeadlineError: the time is over.
            StorageError: what failed.
        """
        if self._is_closed or os.getpid() != self._pid:
            return
        if self.ranks.writes:
            self._wait_until_sent(timeout_s)
        self._is_closed = True
        if self.ranks.writes:
            self.ending.close()
            self.spool.let_go()
        self.store.close()
        self.failures.raise_first(self.failures.lasting[:])
        newest = self.newest
        if newest is not None and newest.error is not None and not reaches(newest.level, self.wanted):
            raise newest.error
        if newest is None and self.failures.of_left is not None:
            raise self.failures.of_left

    def _wait_until_sent(self, timeout_s: float | None) -> None:
        begun = time.monotonic()
        if not self._staging.wait_until_free(timeout_s):
            raise errors.DeadlineError(f"the spool is still being written to after {timeout_s:g} s")
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - begun))
        if self.uploads.close(left_s):
            return
        after = "" if timeout_s is None else f" after {timeout_s:g} s"
        if not (left := self.uploads.on_the_way()):
            raise errors.DeadlineError(f"all is on the storage{after}, and older checkpoints are still being removed")
        steps = ", ".join(str(upload.spooled.name.step) for upload in left)
        raise errors.DeadlineError(
            f"{len(left)} checkpoints are not on the server{after} (of step {steps}); they are in the spool, and the "
            "next start sends them"
        )

    def _begun(self, state: _State, ranks: list[_OfRank], step: int, metrics: _Metrics) -> SaveHandle:
        """Begin a save: its copy is made here, and the rest follows in the background."""
        staged = self._staging.stage({"state": state, "ranks": [own.state for own in ranks]})
        arrays = [("ranks", rank, *path) for rank, own in enumerate(ranks) for path in own.arrays]
        try:
            name = CheckpointName.new(self._open_attempt(), step, next(self._numbers))
            progress = SaveProgress()
            handle = SaveHandle(step, name, progress, self.wanted, self.best_level)
            handle.waited_s = staged.waited_s
            payload = {**staged.state, "arrays": [*staged.arrays, *arrays]}
            writing = threading.Thread(
                target=self._write_out,
                args=(payload, staged.size_bytes, name, metrics, progress),
                name="ai4os-data-spool",
                daemon=daemons(),
            )
            if not (is_last := is_late()):
                writing.start()
        except BaseException:
            self._staging.release()
            raise
        self.newest = handle
        if is_last:
            writing.run()
        return handle

    def _gathered(self, state: _State) -> list[_OfRank]:
        """The values of every rank that differ by rank: random states, and the position of its loader."""
        own: dict[str, Any] = {"random": random_states() if self._save_random_states else None, "state": {}}
        if not self.ranks.is_distributed:
            return [_OfRank(own, [])]
        own["state"] = {key: value for key, value in state.items() if _differs_by_rank(value)}
        staged = Staging().stage(own)  # the large staging belongs to the state
        return self.ranks.gather(_OfRank(staged.state, list(staged.arrays)))

    def _write_out(
        self, payload: _Payload, size_bytes: int, name: CheckpointName, metrics: _Metrics, progress: SaveProgress
    ) -> None:
        """Write a copy to the spool, and hand it to the uploads."""
        try:
            spooled = self._spooled(payload, size_bytes, name, metrics)
            progress.reach("local")
            self._submit(Upload(spooled, progress))
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that asks for it
            log.error("step %d could not be saved: %s", name.step, error)
            self.failures.note(error)
            progress.end(error)
        finally:
            self._staging.release()  # last: a thread that waits for it then finds it among the uploads
            del self, payload, progress  # an error keeps this frame alive

    def _spooled(self, payload: _Payload, size_bytes: int, name: CheckpointName, metrics: _Metrics) -> Spooled:
        draft = Manifest(name, {}, self.pruning.source, metrics, self.ranks.size, versions())
        self.room.make(size_bytes)
        try:
            return self.spool.write(draft, payload)
        except errors.OutOfSpaceError:  # another program is filling the disk
            self.spool.drop_sent()
            self.room.take_from_caches(2 * size_bytes)
        return self.spool.write(draft, payload)

    def _open_attempt(self) -> AttemptName:
        """This process's attempt; the first save opens it."""
        if self._attempt is None:
            attempt = AttemptName.new(self.catalogue.highest_attempt + 1)
            self.spool.open_attempt(attempt)
            self.pruning.own(attempt)
            self.catalogue.highest_attempt, self._attempt = attempt.number, attempt
        return self._attempt

    def _send_what_was_left(self) -> None:
        """Send the newest checkpoint of an earlier process, and those that stay; the others go once it has arrived."""
        unsent = []
        for spooled in self.spool.entries():
            if is_on_the_server(spooled.level) and reaches(spooled.level, self.best_level):
                continue
            if spooled.is_intact():
                unsent.append(spooled)
            else:
                log.warning("%s is damaged in the spool, and is not sent", spooled.name)
        displaced = self.catalogue.displaced(unsent)
        for spooled in unsent:
            if spooled.name not in displaced:
                log.info("sending step %d, which an earlier process has left in the spool", spooled.name.step)
                self._submit(Upload(spooled, None))

    def _submit(self, upload: Upload) -> None:
        for older in self.uploads.add(upload, self._send_all):
            self.sender.drop(older, upload)
        if self.uploads.is_last and self.uploads.thread is None:
            self._send_all()
        elif self.uploads.is_last:
            self.uploads.wait_for([upload])

    def _send_all(self) -> None:
        """The work of the upload thread, which refers to this object as long as there is something to send."""
        self.sender.send_all()
        del self  # an error keeps this frame alive


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


def _differs_by_rank(value: object) -> bool:
    """Whether an object has another state on each rank: it gives samples, or says so itself."""
    value = unwrapped(value)
    if not callable(getattr(value, "state_dict", None)):
        return False
    return isinstance(value, (DataLoader, Sampler)) or bool(getattr(value, "differs_by_rank", False))


def _unlock(spool: Spool, pid: int) -> None:
    """Let the next start take over the spool of a run that was dropped without `close`."""
    if os.getpid() == pid:
        spool.unlock()
