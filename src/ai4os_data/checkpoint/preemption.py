"""A signal to stop becomes a flag that the training loop looks at, and the time that is left is spent well."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

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

    A second SIGINT interrupts as usual.

    Args:
        run: what saves.
        budget_s: how long the process lives after the signal; the platform kills after 5 seconds.
    """

    def __init__(self, run: StorageCheckpoint, budget_s: float) -> None:
        self._run = run
        self._budget_s = budget_s
        self._requested_at: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        else:
            log.warning("signals come to the main thread alone: make the preemption_guard() there")

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
        """Save, and wait for as much as the time allows: for the local disk always, for the server if it can be done.

        Whether it can is reckoned from the bandwidth that the uploads before have had. If not, the upload in flight is
        given the time that is left: an older checkpoint on the server is worth more than half of a newer one. What was
        not sent is sent by the next start, if this disk is still there then.
        """
        handle = self._run.save(state, step, metrics)
        if handle.name is None:
            return handle  # rank 0 writes, and waits
        handle.wait("local")
        needed_s = self._run.time_to_send_s()
        allowed_s = self.remaining_s - _MARGIN_S
        if needed_s is not None and needed_s > allowed_s:
            log.warning(
                "step %d is on the local disk; to send it takes %.1f s, and %.1f s are left: the next start sends it",
                step,
                needed_s,
                max(0.0, allowed_s),
            )
        self._run.wait_for_uploads(max(0.0, allowed_s), handle)
        return handle

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # whoever has set another one since keeps it
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            self.restore()
            signal.default_int_handler(number, frame)
        if not self.requested:
            self._requested_at = time.monotonic()

    def __enter__(self) -> Self:
        """It watches since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put the handlers back."""
        self.restore()
