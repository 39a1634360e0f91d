"""The queue of uploads: one is in flight; the newest and those that must stay wait behind it. Each wait has a bound."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.checkpoint.catalogue import Catalogue
    from ai4os_data.checkpoint.delivery import Delivery
    from ai4os_data.checkpoint.handle import SaveProgress
    from ai4os_data.checkpoint.spool import Spooled

_CLOSING_S = 60.0  # how long after the last progress a close gives up


class Upload(NamedTuple):
    """A checkpoint that is to be sent.

    Attributes:
        spooled: where its bytes are.
        progress: the progress of its save; None for a checkpoint of an earlier process.
    """

    spooled: Spooled
    progress: SaveProgress | None


class Uploads:
    """The uploads that wait, and the waits for them.

    Args:
        catalogue: knows which checkpoints need not be sent any more.
        delivery: knows how far the one in flight is.

    Attributes:
        closing_s: how long a close waits without any progress.
        error: what the newest try failed with.
        is_left: whether nobody waits any more; then unsent checkpoints have been logged.
        thread: sends them; None while there is nothing to send.
    """

    def __init__(self, catalogue: Catalogue, delivery: Delivery) -> None:
        self._catalogue = catalogue
        self._delivery = delivery
        self.closing_s = _CLOSING_S
        self.error: BaseException | None = None
        self.is_left = False
        self.thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._pending: list[Upload] = []  # newest last
        self._in_flight: Upload | None = None
        self._closing_at: float | None = None
        self._is_exiting = False  # whether the process is ending
        self._is_quiet = False  # whether the end of the process logs what is left
        self._left: list[Upload] = []  # given up during the quiet end
        self._has_arrived = False  # whether the upload in flight has arrived, and older ones are being removed

    def add(self, upload: Upload, work: Callable[[], None]) -> list[Upload]:
        """Queue a checkpoint behind the one in flight. Returns those that it displaces.

        Args:
            upload: the checkpoint.
            work: sends what `next` gives, in a thread of its own, until there is nothing.
        """
        with self._changed:
            displaced = self._displaced([*self._pending, upload])
            self._pending = [*(older for older in self._pending if older not in displaced), upload]
            if not self._is_exiting:
                self._closing_at = None
            elif not self._is_quiet:  # a new upload does not extend the last wait
                self._closing_at = time.monotonic()
            self.is_left = False
            if self.thread is None and not self.is_last:
                # After the last wait of the process, the interpreter waits only for threads that are no daemons.
                daemon = not self._is_exiting
                thread = threading.Thread(target=work, name="ai4os-data-uploads", daemon=daemon)
                thread.start()  # it may fail if the number of threads is limited; then the next upload starts one
                self.thread = thread
            self._changed.notify_all()
        return displaced

    @property
    def is_last(self) -> bool:
        """Whether this is a function of atexit after the last wait: the interpreter starts no more threads then."""
        return self._is_exiting and threading.current_thread() is threading.main_thread()

    def next(self) -> Upload | None:
        """The upload to send now, which is in flight until `end`; None if there is none: then the thread ends."""
        with self._changed:
            if not self._pending or self.is_left:
                self.thread = None
                return None
            self._in_flight = self._pending.pop()
            self._has_arrived = False
            return self._in_flight

    def arrived(self) -> None:
        """Record that what is in flight has arrived."""
        with self._changed:
            self.error, self._has_arrived = None, True

    def gave_up(self, upload: Upload, error: BaseException) -> bool:
        """Record that an upload is not tried again. Returns whether to log that now."""
        with self._changed:
            self.error = error
            if self._is_quiet:
                self._left.append(upload)
            return not (self._is_quiet or self.is_left)

    def end(self) -> None:
        """Record that nothing is in flight any more."""
        with self._changed:
            self._in_flight = None
            self._delivery.begin()
            self._changed.notify_all()

    def stop(self, error: BaseException) -> list[Upload]:
        """Record that the thread ends with an error; the next `add` starts another one. Returns the unsent uploads."""
        with self._changed:
            left = self.unsent()
            self.thread = self._in_flight = None
            self.error = error
            self._changed.notify_all()
        return left

    def unsent(self) -> list[Upload]:
        """The upload in flight and those that wait, in this order."""
        with self._changed:
            return [*([self._in_flight] if self._in_flight else []), *self._pending]

    def on_the_way(self) -> list[Upload]:
        """Those of `unsent` that have not arrived; one that has stays in flight while older ones are removed."""
        with self._changed:
            return [upload for upload in self.unsent() if not (upload is self._in_flight and self._has_arrived)]

    def close(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is sent, or has failed for good; then the thread ends. False when the time is over."""
        with self._changed:
            self._closing_at = time.monotonic()
            self._changed.notify_all()
            thread = self.thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def wait_for(self, awaited: Sequence[Upload]) -> None:
        """Wait until some uploads have arrived or failed, or there was no progress for too long after `close`."""
        with self._changed:
            while any(one is other for one in awaited for other in self.unsent()):
                left_s = self._give_up_at - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)  # there may be progress in between

    def begin_exit(self) -> list[Upload]:
        """Give up uploads without progress, as `close` does, and log no failure. Returns the uploads to wait for."""
        with self._changed:
            self._is_exiting = self._is_quiet = True
            self._closing_at = time.monotonic()
            self._changed.notify_all()
        return self.on_the_way()

    def leave(self) -> tuple[list[Upload], BaseException | None]:
        """Stop waiting. Returns the uploads that have not arrived, and why, if that is known."""
        with self._changed:
            given_up = {id(upload) for upload in self._left}
            left = [*self._left, *(upload for upload in self.on_the_way() if id(upload) not in given_up)]
            self.is_left, self._is_quiet = bool(left), False
            self._left = []
            self._changed.notify_all()
        return left, self.error

    def pause(
        self, upload: Upload, pause_s: float, longest_s: float, *, is_tried: bool = True
    ) -> tuple[Upload | None, bool]:
        """Wait before a try. Returns the newer checkpoint that displaces it, if any, and whether the run gives up.

        Args:
            upload: what is to be sent.
            pause_s: for how long.
            longest_s: the longest pause while the run is being closed.
            is_tried: whether it was sent before; if not, it is sent once when the run is closed.
        """
        begun = time.monotonic()
        until = begun + pause_s
        with self._changed:
            while (newer := self._newer_than(upload)) is None and (is_tried or self._closing_at is None):
                if (left_s := self._left_s(begun + longest_s, until, longest_s)) <= 0:
                    break
                self._changed.wait(left_s)
            return newer, is_tried and self._gives_up

    def _left_s(self, begun_s: float, until_s: float, longest_s: float) -> float:
        """How long to wait still: while the run is being closed, pauses are no longer than the usual ones."""
        if self._closing_at is not None:
            if self._gives_up:
                return 0.0
            until_s = min(until_s, max(begun_s, self._closing_at + longest_s), self._give_up_at)
        return until_s - time.monotonic()

    @property
    def _give_up_at(self) -> float:
        """The moment, on the monotonic clock, at which a close gives up if there is no progress."""
        assert self._closing_at is not None
        return max(self._closing_at, self._delivery.last_progress_at) + self._delivery.verifying_s + self.closing_s

    @property
    def _gives_up(self) -> bool:
        """Whether the run is being closed, and nothing has arrived for long."""
        return self._closing_at is not None and (self.is_left or time.monotonic() >= self._give_up_at)

    def _newer_than(self, upload: Upload) -> Upload | None:
        """A waiting upload that displaces the one in flight; older ones wait only because they must stay."""
        name = upload.spooled.name
        newer = [other for other in self._pending if name.is_older_than(other.spooled.name)]
        return newer[-1] if newer and upload in self._displaced([upload, *newer]) else None

    def _displaced(self, uploads: Sequence[Upload]) -> list[Upload]:
        names = self._catalogue.displaced([upload.spooled for upload in uploads])
        return [upload for upload in uploads if upload.spooled.name in names]
