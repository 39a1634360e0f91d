"""The look-ahead: one thread fetches what the coming batches will miss into the cache, and ends with its owner.

Workers find what it fetched in the cache, and wait for what it is fetching: the cache's claims see to that. Nothing
depends on it: if it fails, or falls behind, workers fetch by themselves, and raise the error at the batch that has it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from ai4os_data import errors, telemetry
from ai4os_data.loader import nesting
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ai4os_data.cache import CachedStore, WantedFile

    Files = list[tuple[CachedStore, list[WantedFile]]]  # the files of a batch, by store
    FilesOf = Callable[[list[int]], Files]

_PARTS_OF_CACHE = 4  # a quarter of the limit may be staged ahead, unless the user says otherwise
_MOST_BYTES = 1024 * 1024 * 1024
_ROUND_BYTES = 64 * 1024 * 1024  # fetched from one store before it is the next one's turn
_HEAD_START_S = 0.25  # until the first batch, only workers fetch, for this time at most
_AGAIN_S = 1.0  # before another try, after there was no room or the network failed
_FAILING_ROUNDS = 5
_LONGEST_END_S = 5.0


def default_bytes(limit_bytes: int) -> int:
    """How much to stage ahead in a cache of this size."""
    return min(limit_bytes // _PARTS_OF_CACHE, _MOST_BYTES)


class Figures(TypedDict):
    """What came over the network ahead, and the CPU time that it took."""

    look_ahead_files: int
    look_ahead_bytes: int
    look_ahead_cpu_s: float


class LookAheads:
    """Makes the look-ahead of each pass over a dataset.

    Args:
        dataset: that of the loader.
        staged_bytes: how much may lie in the cache that no batch has used yet; None for the default, 0 for none.
    """

    def __init__(self, dataset: Any, staged_bytes: int | None) -> None:
        self.staged_bytes = staged_bytes
        self._dataset = dataset
        self._datasets = nesting.storage_datasets(dataset)
        self._last_misses = -1

    def along(self, batches: Any, workers: int) -> LookAhead | None:
        """The look-ahead of a pass through these batches; None if there is nothing to fetch ahead, or no end."""
        files = [dataset.reader.files for dataset in self._datasets]
        limits = [one.cache.size_limit for one in files if one.cache is not None]
        if not limits or not batches or not isinstance(batches, list) or self.staged_bytes == 0:
            return None
        misses = int(sum(dataset.stats()["misses"] for dataset in self._datasets))
        is_quiet, self._last_misses = misses == self._last_misses, misses
        return LookAhead(
            batches,
            partial(nesting.files, self._dataset, trusting=is_quiet),
            self.staged_bytes or default_bytes(min(limits)),
            trusting=is_quiet,
            workers=workers,
            together=any(one.store.asks_together for one in files),
        )


class LookAhead:
    """The thread of one pass: it runs along the order until everything is fetched, or its owner is gone.

    Args:
        batches: the coming batches, with their numbers.
        files_of: what a batch's samples are read from. With the policy ``"lru"``, files that are in the cache already
            count as staged, and are marked as used: otherwise later files could evict them.
        staged_bytes: the limit of what was fetched ahead, or is being fetched, and was not used yet.
        trusting: whether files that were in the cache some time ago are taken to be there still.
        workers: how many processes make batches; 0 if the caller does.
        together: whether one of the stores is faster if it is asked for many files at once. Then workers have no head
            start.

    Attributes:
        figures: the files and bytes that came over the network so far, and the CPU time that it took.
    """

    def __init__(
        self,
        batches: Sequence[tuple[int, list[int]]],
        files_of: FilesOf,
        staged_bytes: int,
        *,
        trusting: bool,
        workers: int,
        together: bool,
    ) -> None:
        self._batches = iter(batches)
        self._files_of = files_of
        self._limit_bytes = staged_bytes
        self._trusting = trusting
        self._workers = workers
        self._together = together
        self._is_over = False
        self._is_through = False  # whether all batches were looked at
        self._handed_out = -1  # the number of the last batch that a worker has, or had
        self._used_up_to = -1  # the number of the last batch that the caller was given
        self._last_of_first = batches[0][0] + max(workers, 1) - 1 if batches else -1
        self._missing: deque[tuple[int, CachedStore, WantedFile]] = deque()
        self._staged: dict[int, int] = {}  # by the number of the batch
        self._staged_bytes = 0
        self._passed_before: dict[CachedStore, int] = {}  # files without room in the cache, at first
        self._tight: set[CachedStore] = set()  # caches in which another one found no room since
        self.figures: Figures = {"look_ahead_files": 0, "look_ahead_bytes": 0, "look_ahead_cpu_s": 0.0}
        self._changed = threading.Condition()
        self._end: Callable[[], object] = self._stop

    def start(self, owner: object) -> None:
        """Begin; end with the owner, at the latest."""
        # A daemon, so that a stalled transfer does not hold up the end of the process.
        thread = threading.Thread(target=self._run, name="ai4os-data-look-ahead", daemon=True)
        self._end = weakref.finalize(owner, _end, self._stop, thread, os.getpid())
        thread.start()

    def handed_out(self, number: int) -> None:
        """Record that a worker has a batch now: the worker fetches the files that are still missing."""
        self._handed_out = max(self._handed_out, number)

    def given(self, number: int) -> None:
        """Record that a batch has been given to the caller."""
        with self._changed:
            self._used_up_to = max(self._used_up_to, number)
            self._staged_bytes -= self._staged.pop(number, 0)
            self._changed.notify_all()

    def end(self) -> None:
        """End the thread, and the requests that it has sent."""
        self._end()

    def _run(self) -> None:
        """Fetch and wait for room, in turn."""
        try:
            self._fetch_all()
        except Exception as error:  # noqa: BLE001  workers fetch by themselves, and meet what is wrong there
            tell_once(f"prefetching stopped; samples are fetched when they are needed: {type(error).__name__}: {error}")
        finally:
            self.figures["look_ahead_cpu_s"] = time.thread_time()

    def _fetch_all(self) -> None:
        if not self._together:
            self._wait(lambda: self._used_up_to >= 0, _HEAD_START_S)
        failing = 0
        while not self._is_over and failing < _FAILING_ROUNDS:
            outcome = "done"
            if self._look_on():
                outcome = self._round(self._missing[0][1])
            elif self._is_through:
                return
            failing = failing + 1 if outcome == "failed" else 0
            if outcome == "done":
                self._wait(lambda: self._staged_bytes <= self._limit_bytes // 2)
            else:
                used_up_to = self._used_up_to  # used batches make room
                self._wait(lambda used_up_to=used_up_to: self._used_up_to > used_up_to, _AGAIN_S)  # type: ignore[misc]

    def _round(self, store: CachedStore) -> str:
        """Fetch from one store until enough is staged: ``"done"``, or that there was no room, or that it failed."""
        taken: deque[tuple[int, CachedStore, WantedFile]] = deque(maxlen=1)
        is_exhausted = False

        def entries() -> Iterator[WantedFile]:
            nonlocal is_exhausted
            for item in self._next_of(store):
                taken.append(item)
                yield item[2]
            is_exhausted = True

        row = store.counters.row
        passed_before = row[telemetry.PASSED_THROUGH]
        has_failed = False

        def is_wanted() -> bool:
            return taken[0][0] > self._left_to_workers(store)

        with closing(store.fetch_ahead(entries(), is_wanted)) as arrivals:  # type: ignore[type-var]  # it is a generator
            for _, result in arrivals:
                if isinstance(result, errors.StorageError):
                    has_failed = has_failed or isinstance(result, _OF_THE_STORE)
                elif result:
                    self.figures["look_ahead_files"] += 1
                    self.figures["look_ahead_bytes"] += result
                self.figures["look_ahead_cpu_s"] = time.thread_time()
                if self._is_over or has_failed:
                    break
        if has_failed:
            return "failed"
        if not is_exhausted and taken and not self._is_over:  # the last one found no room
            number, _, entry = taken[0]
            self._unstage(number, entry.size_bytes)
            self._missing.appendleft(taken[0])
            return "full"
        return "full" if row[telemetry.PASSED_THROUGH] > passed_before else "done"

    def _next_of(self, store: CachedStore) -> Iterator[tuple[int, CachedStore, WantedFile]]:
        """The next file to fetch from one store; files of others wait."""
        passed_over: list[tuple[int, CachedStore, WantedFile]] = []
        waiting_bytes = 0
        try:
            while not self._is_over and waiting_bytes < _ROUND_BYTES and self._look_on():
                item = self._missing.popleft()
                number, its_store, entry = item
                if its_store is not store:
                    passed_over.append(item)
                    waiting_bytes += entry.size_bytes
                    continue
                if self._staged_bytes and self._staged_bytes + entry.size_bytes > self._limit_bytes:
                    self._missing.appendleft(item)
                    return
                self._stage(number, entry.size_bytes)
                yield item
        finally:
            self._missing.extendleft(reversed(passed_over))

    def _look_on(self) -> bool:
        """Go along the order until a file is missing; False at the end of the order, or if enough is staged."""
        while self._missing and self._missing[0][0] <= self._left_to_workers(self._missing[0][1]):
            self._missing.popleft()  # the training has caught up
        while not self._missing and not self._is_over and self._staged_bytes <= self._limit_bytes:
            number, indices = next(self._batches, (None, None))
            if number is None or indices is None:
                self._is_through = True
                return False
            for store, entries in self._files_of(indices):
                if number > self._left_to_workers(store):
                    self._miss(number, store, self._absent(number, store, entries))
        return bool(self._missing)

    def _left_to_workers(self, store: CachedStore) -> int:
        """The number of the last batch whose files are for the workers to fetch.

        These are the batches that a worker may have begun. Files of batches that are not begun arrive sooner if they
        are fetched here, in the order of use; claims keep both from fetching one file twice. In a cache without room,
        these are all batches that were handed out: a file that was fetched here and could not be kept would be fetched
        twice.
        """
        if store in self._tight or not self._workers:
            return max(self._handed_out, self._last_of_first)
        return max(min(self._handed_out, self._used_up_to + self._workers), self._last_of_first)

    def _miss(self, number: int, store: CachedStore, absent: list[WantedFile]) -> None:
        """Queue these files for fetching, unless workers fetch them."""
        if absent and store not in self._tight:
            passed = store.counters.totals()["passed_through"]
            if passed > self._passed_before.setdefault(store, passed):
                self._tight.add(store)
        if number > self._left_to_workers(store):
            self._missing.extend((number, store, entry) for entry in absent)

    def _absent(self, number: int, store: CachedStore, entries: list[WantedFile]) -> list[WantedFile]:
        by_use = store.cache.policy == "lru"
        absent = store.absent(entries, trusting=self._trusting, noting=by_use)
        if by_use:
            self._stage(number, sum(entry.size_bytes for entry in entries) - sum(entry.size_bytes for entry in absent))
        return absent

    def _stage(self, number: int, size_bytes: int) -> None:
        with self._changed:
            if number > self._used_up_to:  # the batch may have been given in between
                self._staged[number] = self._staged.get(number, 0) + size_bytes
                self._staged_bytes += size_bytes

    def _unstage(self, number: int, size_bytes: int) -> None:
        with self._changed:
            if number in self._staged:
                self._staged[number] -= size_bytes
                self._staged_bytes -= size_bytes

    def _stop(self) -> None:
        """Stop the look-ahead."""
        self._is_over = True
        with self._changed:
            self._changed.notify_all()

    def _wait(self, until: Callable[[], bool], timeout_s: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or until(), timeout_s)


_OF_THE_STORE = (
    errors.AuthenticationError,
    errors.ServerUnavailableError,
    errors.ThrottledError,
    errors.DeadlineError,
    errors.StorageGoneError,
    errors.OpenFilesError,
)


def _end(stop: Callable[[], None], thread: threading.Thread, owner: int) -> None:
    if os.getpid() != owner:  # a forked child has no such thread, and the locks may be held for ever
        return
    stop()
    if thread.is_alive() and thread is not threading.current_thread():
        thread.join(_LONGEST_END_S)
