"""The queue of uploads: one is in flight, the newest and what is to stay wait behind it; each wait has a bound."""

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

_CLOSING_S = 60.0  # how long after the last sign of life a close gives up


class Upload(NamedTuple):
    """A checkpoint that is to be sent.

    Attributes:
        spooled: where its bytes are.
        progress: what whoever waits looks at; None for what an earlier process has left.
    """

    spooled: Spooled
    progress: SaveProgress | None


class Uploads:
    """What is to be sent, and who waits for it.

    Args:
        catalogue: knows which checkpoints need not be sent any more.
        delivery: knows how far the one in flight is.

    Attributes:
        closing_s: how long a close waits without any progress.
        error: what the newest try failed with.
        is_left: nobody waits any more, and what was not sent has been logged.
        thread: what sends; None while there is nothing to send.
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
        self._is_exiting = False  # with the process
        self._is_quiet = False  # whoever ends it logs what is left
        self._left: list[Upload] = []  # given up while it was quiet
        self._has_arrived = False  # what is in flight: what follows is going on

    def add(self, upload: Upload, work: Callable[[], None]) -> list[Upload]:
        """Let a checkpoint be sent as soon as the one in flight is through; those that make way for it.

        Args:
            upload: the checkpoint.
            work: sends what `next` gives, in a thread of its own, until there is nothing.
        """
        with self._changed:
            displaced = self._displaced([*self._pending, upload])
            self._pending = [*(older for older in self._pending if older not in displaced), upload]
            if not self._is_exiting:
                self._closing_at = None
            elif not self._is_quiet:  # the bound of those that are waited for is not put off
                self._closing_at = time.monotonic()
            self.is_left = False
            if self.thread is None and not self.is_last:
                # Once the process ends, its last wait is over, and the interpreter waits for other threads only.
                daemon = not self._is_exiting
                thread = threading.Thread(target=work, name="ai4os-data-uploads", daemon=daemon)
                thread.start()  # where threads are bounded it may fail; then the next upload starts one
                self.thread = thread
            self._changed.notify_all()
        return displaced

    @property
    def is_last(self) -> bool:
        """Whether this is a function of atexit after the last wait: the interpreter starts no more threads then."""
        return self._is_exiting and threading.current_thread() is threading.main_thread()

    def next(self) -> Upload | None:
        """What is to be sent now, which is in flight until `end`; None if there is nothing, and the thread ends."""
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
        """Record that something is not tried again; whether that is to be logged now."""
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
        """Wait until some uploads are through, or have failed, or there was no progress for too long since `close`."""
        with self._changed:
            while any(one is other for one in awaited for other in self.unsent()):
                left_s = self._give_up_at - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)  # there may be progress meanwhile

    def begin_exit(self) -> list[Upload]:
        """Give up what makes no progress, as `close` does, and log no failure; what is to be sent."""
        with self._changed:
            self._is_exiting = self._is_quiet = True
            self._closing_at = time.monotonic()
            self._changed.notify_all()
        return self.on_the_way()

    def leave(self) -> tuple[list[Upload], BaseException | None]:
        """Wait for nothing any more; what is not on the store, and why, if that is known."""
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
        """Wait before a try; the newer checkpoint that takes its place, if any, and whether the run gives up.

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
        """How long to wait still: while the run is being closed, no pause is longer than the usual ones."""
        if self._closing_at is not None:
            if self._gives_up:
                return 0.0
            until_s = min(until_s, max(begun_s, self._closing_at + longest_s), self._give_up_at)
        return until_s - time.monotonic()

    @property
    def _give_up_at(self) -> float:
        """When a close has waited long enough without any progress, on the monotonic clock."""
        assert self._closing_at is not None
        return max(self._closing_at, self._delivery.last_progress_at) + self._delivery.verifying_s + self.closing_s

    @property
    def _gives_up(self) -> bool:
        """Whether the run is being closed, and nothing has arrived for long."""
        return self._closing_at is not None and (self.is_left or time.monotonic() >= self._give_up_at)

    def _newer_than(self, upload: Upload) -> Upload | None:
        """One that waits and displaces the one in flight; what is older waits only because it is to stay."""
        name = upload.spooled.name
        newer = [other for other in self._pending if name.is_older_than(other.spooled.name)]
        return newer[-1] if newer and upload in self._displaced([upload, *newer]) else None

    def _displaced(self, uploads: Sequence[Upload]) -> list[Upload]:
        names = self._catalogue.displaced([upload.spooled for upload in uploads])
        return [upload for upload in uploads if upload.spooled.name in names]
