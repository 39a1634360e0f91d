"""What this computer gives: processes, mounts, owners of files, open files, memory that processes share."""

from __future__ import annotations

from ai4os_data.machine import descriptors, mounts, ownership
from ai4os_data.machine.descriptors import exhausted
from ai4os_data.machine.mounts import Mount
from ai4os_data.machine.packed import (
    Chosen,
    ChosenTexts,
    Grouped,
    Numbers,
    PackedList,
    Positions,
    Same,
    Texts,
    packed_texts,
    packed_values,
    positions,
)
from ai4os_data.machine.processes import PerProcess, leave_to_parent, no_fork, tell_after_fork, tell_before_fork

__all__ = [
    "Chosen",
    "ChosenTexts",
    "Grouped",
    "Mount",
    "Numbers",
    "PackedList",
    "PerProcess",
    "Positions",
    "Same",
    "Texts",
    "descriptors",
    "exhausted",
    "leave_to_parent",
    "mounts",
    "no_fork",
    "ownership",
    "packed_texts",
    "packed_values",
    "positions",
    "tell_after_fork",
    "tell_before_fork",
]
