"""Waiting for something in this machine: pauses that grow, until a deadline."""

from __future__ import annotations

import time

FULL_FOR_S = 0.25  # an evicted file keeps its room until its reader closes it

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02


class Waiting:
    """Pauses that grow.

    Args:
        deadline_s: for how long.
    """

    def __init__(self, deadline_s: float) -> None:
        self._until = time.monotonic() + deadline_s
        self._pause_s = _FIRST_PAUSE_S

    def pause(self) -> bool:
        """Wait a little; False when the deadline has passed."""
        if time.monotonic() > self._until:
            return False
        time.sleep(self._pause_s)
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        return True
