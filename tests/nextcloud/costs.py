"""Waiting: what the real server works for, the double only takes the time for."""

from __future__ import annotations

import time


def wait_until(moment_s: float) -> None:
    """Return at that moment of the monotonic clock; what was done meanwhile counts as a part of the wait."""
    left_s = moment_s - time.monotonic()
    if left_s > 0:
        time.sleep(left_s)
