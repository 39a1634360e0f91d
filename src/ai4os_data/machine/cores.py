"""How many processors this process may use, by its affinity and by the quota of its container."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_GROUPS = "/sys/fs/cgroup"


def usable_cores(groups: str = _GROUPS) -> int:
    """The number of processors that this process may keep busy, at least one; part of one counts as one.

    Args:
        groups: where the system shows the control groups of this container.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _quota(Path(groups))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(groups: Path) -> float | None:
    """How many processors the container may use; None if it has no quota."""
    with suppress(OSError, ValueError):
        used_us, period_us = (groups / "cpu.max").read_text().split()
        return None if used_us == "max" else int(used_us) / int(period_us)
    with suppress(OSError, ValueError):  # version 1
        used, period = (int((groups / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return used / period if used > 0 else None
    return None
