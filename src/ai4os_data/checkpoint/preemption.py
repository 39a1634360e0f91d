"""A signal to stop sets a flag for the training loop; a last save waits only as long as there is time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.checkpoint.signals import StopSignals
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from ai4os_data.checkpoint.handle import SaveHandle
    from ai4os_data.checkpoint.saving import Saver

_MARGIN_S = 0.3  # kept for the manifest, and for the exit


class PreemptionGuard:
    """Takes SIGTERM and SIGINT until the ``with`` ends, or `restore` is called.

    A second SIGINT interrupts as usual. Guards can be nested: all of them are notified of a signal. In a forked child,
    SIGTERM ends the process as if there were no guard, and the first SIGINT, which a terminal sends to all processes,
    is left to the parent.

    Args:
        saver: of the run.
        budget_s: how long the process lives after the signal; the platform kills after 5 seconds.
    """

    def __init__(self, saver: Saver, budget_s: float) -> None:
        self._saver = saver
        self._budget_s = budget_s
        self._signals = StopSignals()

    @property
    def requested(self) -> bool:
        """Whether the process has been asked to end."""
        return self._signals.requested_at is not None

    @property
    def remaining_s(self) -> float:
        """The rest of the budget; all of it before the signal."""
        requested_at = self._signals.requested_at
        spent_s = 0.0 if requested_at is None else time.monotonic() - requested_at
        return max(0.0, self._budget_s - spent_s)

    def save(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, Any] | None = None) -> SaveHandle:
        """Save, and wait as long as there is time: for the local disk, and for the server if that can be done.

        Whether there is time is estimated from the bandwidth of earlier uploads. If there is none, this returns as soon
        as the checkpoint is on the local disk. The upload continues as long as the process lives, and `close` waits for
        it; the next start sends what was not sent, if this disk still exists then.

        Raises:
            StateError: the state cannot be saved.
            StorageError: the local disk did not take it.
        """
        handle = self._saver.save(state, step, metrics)
        if handle.name is None:
            return handle  # rank 0 writes, and waits
        try:
            handle.wait("local", timeout_s=self.remaining_s)
        except errors.DeadlineError:
            log.error("step %d is not on the local disk yet, and the %g s are over", handle.step, self._budget_s)
            return handle
        needed_s = self._saver.time_to_send_s()
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
            try:
                handle.wait(timeout_s=allowed_s)
            except errors.StorageError as error:
                log.warning("%s", error)
        return handle

    def restore(self) -> None:
        """Put the previous handlers back."""
        self._signals.restore()

    def __enter__(self) -> Self:
        """Itself: it has handled the signals since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put the handlers back."""
        self.restore()
