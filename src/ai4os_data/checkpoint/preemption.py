"""A signal to stop becomes a flag that the training loop looks at, and the time that is left is spent well."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType, TracebackType

    from typing_extensions import Self

    from ai4os_data.checkpoint.handle import SaveHandle
    from ai4os_data.checkpoint.manager import StorageCheckpoint

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MARGIN_S = 0.3  # for the manifest, and for the exit


class PreemptionGuard:
    """Takes SIGTERM and SIGINT until the ``with`` ends, or `restore` is called.

    A second SIGINT interrupts as usual. Guards can be in each other: all of them learn of a signal. SIGTERM ends a
    forked child as if there were no guard; the first SIGINT, which a terminal sends to all, it leaves to its parent.

    Args:
        run: what saves.
        budget_s: how long the process lives after the signal; the platform kills after 5 seconds.
    """

    def __init__(self, run: StorageCheckpoint, budget_s: float) -> None:
        self._run = run
        self._budget_s = budget_s
        self._pid = os.getpid()
        self._requested_at: float | None = None
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
        self._has_ended = threading.current_thread() is not threading.main_thread()
        if self._has_ended:
            log.warning("signals come to the main thread alone: make the preemption_guard() there")
            return
        if (outer := self._outer(signal.SIGTERM)) is not None:
            self._requested_at = outer._requested_at  # noqa: SLF001  of this class
        for number in _SIGNALS:
            signal.signal(number, self._note)

    @property
    def requested(self) -> bool:
        """Whether the process has been asked to end."""
        return self._requested_at is not None

    @property
    def remaining_s(self) -> float:
        """What is left of the budget; all of it before the signal."""
        spent_s = 0.0 if self._requested_at is None else time.monotonic() - self._requested_at
        return max(0.0, self._budget_s - spent_s)

    def save(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, Any] | None = None) -> SaveHandle:
        """Save, and wait for as much as the time allows: for the local disk, and for the server if it can be done.

        Whether it can is reckoned from the bandwidth that the uploads before have had. If not, this returns as soon as
        the local disk has it. What is in flight goes on for as long as the process lives, and `close` waits for it;
        what was not sent is sent by the next start, if this disk is still there then.

        Raises:
            StateError: the state cannot be saved.
            StorageError: the local disk did not take it.
        """
        handle = self._run.save_anyhow(state, step, metrics)
        if handle.name is None:
            return handle  # rank 0 writes, and waits
        try:
            handle.wait("local", timeout_s=self.remaining_s)
        except errors.DeadlineError:
            log.error("step %d is not on the local disk yet, and the %g s are over", handle.step, self._budget_s)
            return handle
        needed_s = self._run.time_to_send_s()
        allowed_s = max(0.0, self.remaining_s - _MARGIN_S)
        if needed_s is not None and needed_s > allowed_s:
            log.warning(
                "step %d is on the local disk; to send it takes %.1f s, and %.1f s are left: what has not "
                "arrived by then is sent by the next start",
                step,
                needed_s,
                allowed_s,
            )
        else:
            self._run.wait_for_uploads(allowed_s, handle)
        return handle

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        self._has_ended = True
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may change them; ours hands on what comes
        for number in _SIGNALS:
            if signal.getsignal(number) == self._note:  # whoever has set another one since keeps it
                handler = self._beneath(number)
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._has_ended or (number == signal.SIGTERM and os.getpid() != self._pid):
            self._hand_on(number, frame)
            return
        if self.requested and number == signal.SIGINT:
            self.restore()
            signal.default_int_handler(number, frame)
        guard: PreemptionGuard | None = self
        while guard is not None:
            if not guard.requested:
                guard._requested_at = time.monotonic()  # noqa: SLF001  of this class
            guard = guard._outer(number)  # noqa: SLF001  of this class

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        """Do what would have been done without this guard."""
        handler = self._beneath(number)
        if callable(handler):
            handler(number, frame)
        elif handler != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _beneath(self, number: int) -> Any:
        """The handler of before, but for those of guards that have ended, or that watch over another process."""
        handler = self._before[number]
        guard = getattr(handler, "__self__", None)
        if isinstance(guard, PreemptionGuard) and (guard._has_ended or guard._pid != os.getpid()):  # noqa: SLF001  of this class
            return guard._beneath(number)  # noqa: SLF001  of this class
        return handler

    def _outer(self, number: int) -> PreemptionGuard | None:
        """The guard that this one is in."""
        guard = getattr(self._beneath(number), "__self__", None)
        return guard if isinstance(guard, PreemptionGuard) else None

    def __enter__(self) -> Self:
        """It watches since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put the handlers back."""
        self.restore()


def end_guards() -> None:
    """Put the handlers back that were there before any guard, since nobody looks at them any more."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            while isinstance(guard := getattr(signal.getsignal(number), "__self__", None), PreemptionGuard):
                guard.restore()
