"""SIGTERM and SIGINT set a flag instead of ending the process, until the previous handlers are put back."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """SIGTERM and SIGINT of this process, until `restore` is called.

    A second SIGINT interrupts as usual. Several can be nested: all of them are notified of a signal. In a forked child,
    SIGTERM ends the process as if there were none, and the first SIGINT, which a terminal sends to all processes, is
    left to the parent.

    Attributes:
        requested_at: when the first one came, on the monotonic clock; None before.
    """

    def __init__(self) -> None:
        self.requested_at: float | None = None
        self._pid = os.getpid()
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
        self._has_ended = threading.current_thread() is not threading.main_thread()
        if self._has_ended:
            log.warning("signals come to the main thread alone: make the preemption_guard() there")
            return
        if (outer := self._outer(signal.SIGTERM)) is not None:
            self.requested_at = outer.requested_at
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        self._has_ended = True
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may change handlers; ours passes signals on
        for number in _SIGNALS:
            if signal.getsignal(number) == self._note:  # a handler that was set later stays
                handler = self._beneath(number)
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._has_ended or (number == signal.SIGTERM and os.getpid() != self._pid):
            self._hand_on(number, frame)
            return
        if self.requested_at is not None and number == signal.SIGINT:
            self.restore()
            signal.default_int_handler(number, frame)
        one: StopSignals | None = self
        while one is not None:
            one.requested_at = one.requested_at or time.monotonic()
            one = one._outer(number)  # noqa: SLF001  of this class

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        """Do what the handler before this one would do."""
        handler = self._beneath(number)
        if callable(handler):
            handler(number, frame)
        elif handler != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _beneath(self, number: int) -> Any:
        """The previous handler, without those of this class that have ended or belong to another process."""
        handler = self._before[number]
        one = getattr(handler, "__self__", None)
        if isinstance(one, StopSignals) and (one._has_ended or one._pid != os.getpid()):  # noqa: SLF001  of this class
            return one._beneath(number)  # noqa: SLF001  of this class
        return handler

    def _outer(self, number: int) -> StopSignals | None:
        """The objects of this class that this one is nested in."""
        outer = getattr(self._beneath(number), "__self__", None)
        return outer if isinstance(outer, StopSignals) else None


def restore_all() -> None:
    """Put back the handlers from before all of these objects, whose flags nobody reads any more."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            while isinstance(one := getattr(signal.getsignal(number), "__self__", None), StopSignals):
                one.restore()
