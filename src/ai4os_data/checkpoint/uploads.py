"""Uploads behind the training: one in flight, the newest one pending beside what is to stay, and no error forgotten.

While the server is down, or full, it is tried again for as long as the process lives. What it refuses is tried a few
times, and then fails. What was not sent is found in the spool by the next start.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.checkpoint.lifetimes import without_locals
from ai4os_data.checkpoint.manifest import attempt_mark
from ai4os_data.checkpoint.names import MANIFEST
from ai4os_data.checkpoint.serialisation import sha256_of
from ai4os_data.checkpoint.spool import is_intact
from ai4os_data.checkpoint.tries import Tries
from ai4os_data.http import Patience
from ai4os_data.stores import abandon, lower
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.checkpoint.handle import SaveHandle
    from ai4os_data.checkpoint.names import AttemptName
    from ai4os_data.checkpoint.spool import Spooled
    from ai4os_data.stores import Level, Store

_PATIENCE = Patience(first_pause_s=1.0, longest_pause_s=30.0)
_CLOSING_S = 60.0  # how long after the last sign of life a close gives up
_VERIFIED_BYTES_PER_S = 16 * 1024 * 1024  # at least, where all is sent: joined, hashed, or read back


@dataclass
class Upload:
    """A checkpoint that is to be sent.

    Attributes:
        spooled: where its bytes are.
        handle: who waits for it; None for what an earlier process has left.
        owner: what has to live until it is sent.
    """

    spooled: Spooled
    handle: SaveHandle | None
    owner: object = field(default=None, compare=False, repr=False)


class Uploads:
    """A thread that sends checkpoints, and ends when there are none.

    Args:
        store: where to.
        displaced: tells which of some uploads, newest last, need not be sent now that the last one is there.
        sent: told of each that has arrived; it tells whoever waits.
        dropped: told of each that is not sent because a newer one came.
        failed: told of each that is not tried again by this process.
        patience: the pauses between tries.
        closing_s: how long a close waits without any progress.
    """

    def __init__(
        self,
        store: Store,
        displaced: Callable[[Sequence[Upload]], list[Upload]],
        sent: Callable[[Upload, Level], None],
        dropped: Callable[[Upload], None],
        failed: Callable[[Upload, BaseException], None],
        *,
        patience: Patience = _PATIENCE,
        closing_s: float = _CLOSING_S,
    ) -> None:
        self._store = store
        self._marked: dict[AttemptName, Level] = {}
        self._displaced = displaced
        self._sent = sent
        self._dropped = dropped
        self._failed = failed
        self._patience = patience
        self._tries: Tries | None = None
        self._closing_s = closing_s
        self._changed = threading.Condition()
        self._pending: list[Upload] = []  # newest last
        self._in_flight: Upload | None = None
        self._thread: threading.Thread | None = None
        self._closing_at: float | None = None
        self._is_exiting = False  # with the process
        self._is_quiet = False  # whoever ends it logs what is left
        self._is_left = False  # nobody waits any more, and what was not sent has been logged
        self._left: list[Upload] = []  # given up while it was quiet
        self._has_arrived = False  # what is in flight: what follows is going on
        self._last_progress_at = 0.0
        self._sent_bytes = 0  # of the upload in flight, in this try
        self._verifying_s = 0.0  # how long the store may take with it, once all of it is sent
        self._most_sent_bytes = 0  # in any of its tries
        self.bytes_per_s: float | None = None
        self.error: BaseException | None = None  # what the newest try failed with

    def submit(self, upload: Upload) -> None:
        """Send a checkpoint as soon as the one in flight is through; what still waits and need not stay makes way."""
        # In a function of atexit, after the last wait: the interpreter waits for no thread then, and starts none.
        is_last = self._is_exiting and threading.current_thread() is threading.main_thread()
        with self._changed:
            displaced = self._displaced([*self._pending, upload])
            self._pending = [*(older for older in self._pending if older not in displaced), upload]
            if not self._is_exiting:
                self._closing_at = None
            elif not self._is_quiet:  # the bound of those that are waited for is not put off
                self._closing_at = time.monotonic()
            self._is_left = False
            if self._thread is None and not is_last:
                # Once the process ends, its last wait is over, and the interpreter waits for other threads only.
                daemon = not self._is_exiting
                self._thread = threading.Thread(target=self._run, name="ai4os-data-uploads", daemon=daemon)
                self._thread.start()
            thread = self._thread
            self._changed.notify_all()
        for older in displaced:
            self._drop(older, upload)
        if is_last and thread is None:
            self._run()
        elif is_last:
            self.wait_for([upload])

    def unsent(self) -> list[Upload]:
        """What is in flight and what waits, in this order."""
        with self._changed:
            return [*([self._in_flight] if self._in_flight else []), *self._pending]

    def on_the_way(self) -> list[Upload]:
        """What has not arrived, in the same order; what has may still be unsent while older ones are removed for it."""
        with self._changed:
            is_sent = self._in_flight is None or self._has_arrived
            return [*([] if is_sent else [self._in_flight]), *self._pending]  # type: ignore[list-item]  # it is none

    def remaining_bytes(self) -> int:
        """What is still to be sent."""
        sizes = [upload.spooled.manifest.size_bytes for upload in self.unsent()]
        with self._changed:
            return max(0, sum(sizes) - (self._sent_bytes if self._in_flight else 0))

    def close(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is sent, or has failed for good; then the thread ends. False when the time is over."""
        with self._changed:
            self._closing_at = time.monotonic()
            self._changed.notify_all()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until the thread has ended, for want of work; False when the time is over."""
        with self._changed:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def wait_for(self, awaited: Sequence[Upload]) -> None:
        """Wait until some uploads are through, or have failed, or there was no progress for too long since `close`."""
        with self._changed:
            while any(one is other for one in awaited for other in self.unsent()):
                left_s = self.give_up_at - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)  # there may be progress meanwhile

    @property
    def closing_s(self) -> float:
        """How long a close waits without any progress."""
        return self._closing_s

    def begin_exit(self) -> list[Upload]:
        """Give up what makes no progress, as `close` does, and log no failure; what is to be sent."""
        with self._changed:
            self._is_exiting = self._is_quiet = True
            self._closing_at = time.monotonic()
            self._changed.notify_all()
        return self.on_the_way()

    def leave(self) -> tuple[list[Upload], BaseException | None]:
        """Wait for nothing any more; what is not on the store, and why, where that is known."""
        with self._changed:
            given_up = {id(upload) for upload in self._left}
            left = [*self._left, *(upload for upload in self.on_the_way() if id(upload) not in given_up)]
            self._is_left, self._is_quiet = bool(left), False
            self._left = []
            self._changed.notify_all()
        return left, self.error

    def _run(self) -> None:
        while (upload := self._next()) is not None:
            try:
                self._send(upload)
            except BaseException as error:  # noqa: BLE001  it is raised in the thread that asks for it
                self._end(upload, error)
            finally:
                with self._changed:
                    self._in_flight = None
                    self._changed.notify_all()

    def _next(self) -> Upload | None:
        with self._changed:
            if not self._pending or self._is_left:
                self._thread = None
                return None
            self._in_flight = self._pending.pop()
            self._sent_bytes, self._verifying_s, self._has_arrived = 0, 0.0, False
            return self._in_flight

    def _send(self, upload: Upload) -> None:
        self._most_sent_bytes = 0
        if self._tries is None:
            self._tries = Tries(self._patience)
        tries = self._tries
        tries.begin()
        if (full_for_s := tries.full_for_s) and not self._waited(upload, full_for_s, is_tried=False):
            return
        while True:
            try:
                level = self._deliver(upload)
            except errors.StorageError as error:
                self._verifying_s = 0.0
                if not upload.spooled.is_whole or _is_damaged(upload, error):
                    raise
                pause_s = tries.failed(error)
                if pause_s is None:
                    self._abandon(upload)
                    raise
                self.error = error
                step = upload.spooled.name.step
                if not self._is_left:
                    log.warning("step %d is not on the server yet (try %d): %s", step, tries.failures, error)
                if not self._waited(upload, pause_s):
                    return
            else:
                tries.arrived()
                self._arrive(upload, level)
                return

    def _arrive(self, upload: Upload, level: Level) -> None:
        """Record that it has arrived. From here on nobody says that it has not, whatever fails."""
        with self._changed:
            self.error, self._has_arrived, self._verifying_s = None, True, 0.0
            self._last_progress_at = time.monotonic()
        try:
            self._sent(upload, level)
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that asks for it
            log.error("step %d is on the storage; what was to follow has failed: %r", upload.spooled.name.step, error)
            self._failed(upload, error)
            without_locals(error)

    def _abandon(self, upload: Upload) -> None:
        """Leave nothing on the server of what will not be sent: no part of a file counts there."""
        for file, facts in upload.spooled.manifest.files.items():
            abandon(self._store, f"{upload.spooled.name}/{file}", facts.size_bytes, facts.sha256)

    def _deliver(self, upload: Upload) -> Level:
        """Send the data, then the manifest, and mark the attempt; the level that all have reached."""
        spooled = upload.spooled
        level: Level = "confirmed"
        begun = time.monotonic()
        self._sent_bytes = 0
        for file, facts in spooled.manifest.files.items():
            reached = self._store.write_confirmed(
                f"{spooled.name}/{file}", spooled.folder / file, facts.sha256, on_bytes=self._progress
            )
            level = lower(level, reached)
        if self._sent_bytes:
            self.bytes_per_s = self._sent_bytes / max(1e-6, time.monotonic() - begun)
        manifest = spooled.folder / MANIFEST
        reached = self._store.write_confirmed(f"{spooled.name}/{MANIFEST}", manifest, sha256_of(manifest))
        return lower(lower(level, reached), self._mark(spooled.name.attempt))

    def _mark(self, attempt: AttemptName) -> Level:
        """Tell that an attempt has a checkpoint, before anybody relies on it: a lost manifest is then no new run."""
        if attempt not in self._marked:
            mark = attempt_mark(attempt)
            self._marked[attempt] = self._store.write_confirmed(attempt.mark, mark, hashlib.sha256(mark).hexdigest())
        return self._marked[attempt]

    def _progress(self, size_bytes: int) -> None:
        self._sent_bytes += size_bytes
        whole_bytes = self._in_flight.spooled.manifest.size_bytes if self._in_flight is not None else 0
        self._verifying_s = whole_bytes / _VERIFIED_BYTES_PER_S if self._sent_bytes >= whole_bytes else 0.0
        if self._sent_bytes > self._most_sent_bytes:  # what is only sent again is no progress
            self._most_sent_bytes = self._sent_bytes
            self._last_progress_at = time.monotonic()

    def _waited(self, upload: Upload, pause_s: float, *, is_tried: bool = True) -> bool:
        """Wait before a try; False where there is none: a newer one displaces it, or the run is closed.

        Args:
            upload: what is to be sent.
            pause_s: for how long.
            is_tried: whether it was sent before; if not, it is sent once when the run is closed.
        """
        begun = time.monotonic()
        until = begun + pause_s
        with self._changed:
            newer = self._newer_than(upload)
            while (
                newer is None and (is_tried or self._closing_at is None) and (left_s := self._left_s(begun, until)) > 0
            ):
                self._changed.wait(left_s)
                newer = self._newer_than(upload)
            is_over = is_tried and self._gives_up
        if newer is not None:
            self._abandon(upload)
            self._drop(upload, newer)
        elif is_over:
            assert self.error is not None
            self._fail(upload, self.error)
        return newer is None and not is_over

    def _left_s(self, begun_s: float, until_s: float) -> float:
        """How long to wait still: while the run is being closed, no pause is longer than the usual ones."""
        if self._closing_at is None:
            return until_s - time.monotonic()
        if self._gives_up:
            return 0.0
        longest_s = max(begun_s, self._closing_at) + self._patience.longest_pause_s
        until_s = min(until_s, longest_s, self.give_up_at)
        return until_s - time.monotonic()

    @property
    def give_up_at(self) -> float:
        """When a close has waited long enough without any progress, on the monotonic clock."""
        assert self._closing_at is not None
        return max(self._closing_at, self._last_progress_at) + self._verifying_s + self._closing_s

    @property
    def _gives_up(self) -> bool:
        """Whether the run is being closed, and nothing has arrived for long."""
        return self._closing_at is not None and (self._is_left or time.monotonic() >= self.give_up_at)

    def _newer_than(self, upload: Upload) -> Upload | None:
        """One that waits and displaces the one in flight; what is older waits only because it is to stay."""
        name = upload.spooled.name
        newer = [other for other in self._pending if name.is_older_than(other.spooled.name)]
        return newer[-1] if newer and upload in self._displaced([upload, *newer]) else None

    def _drop(self, upload: Upload, newer: Upload) -> None:
        self._dropped(upload)
        log.info("step %d was not sent: step %d took its place", upload.spooled.name.step, newer.spooled.name.step)
        if upload.handle is not None:
            upload.handle.drop(newer.spooled.name.step)

    def _end(self, upload: Upload, error: BaseException) -> None:
        """Give one up for an error: it stays in the spool for the next start, unless that has it no more."""
        if _is_damaged(upload, error):
            how = "its files are damaged in the spool"
        elif not upload.spooled.is_whole and isinstance(error, (OSError, errors.StorageError)):
            how = "somebody has removed its files from the spool"
        else:
            self._fail(upload, error)
            return
        lost = errors.LostError(
            f"step {upload.spooled.name.step} is lost: {how}, {upload.spooled.folder}, before it was on the storage. "
            "Save again; if something cleans or writes to that place, give StorageCheckpoint another, as spool= or "
            "AI4OS_DATA_SPOOL"
        )
        self.error = lost
        log.error("%s", lost)
        self._failed(upload, lost)
        if upload.handle is not None:
            upload.handle.lose(lost)

    def _fail(self, upload: Upload, error: BaseException) -> None:
        self.error = error
        with self._changed:
            is_quiet = self._is_quiet or self._is_left
            if self._is_quiet:
                self._left.append(upload)
        if not is_quiet:
            log.error(
                "step %d is kept in the spool and not on the server, where the next start of the run will send it: %s",
                upload.spooled.name.step,
                error,
            )
        self._failed(upload, error)
        if upload.handle is not None:
            upload.handle.fail(error)
        without_locals(error)


def _is_damaged(upload: Upload, error: BaseException) -> bool:
    """Whether the storage has got other bytes than were meant because the spool has them."""
    return isinstance(error, errors.IntegrityError) and upload.spooled.is_whole and not is_intact(upload.spooled)
