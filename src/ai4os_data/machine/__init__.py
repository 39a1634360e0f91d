"""What this computer gives: processors, processes, locks, files and their owners, mounts, shared memory."""

from __future__ import annotations

from ai4os_data.machine import descriptors, locks, mounts, ownership, shared_memory
from ai4os_data.machine.descriptors import exhausted
from ai4os_data.machine.files import (
    disk_bytes,
    identity,
    is_at,
    replace_whole,
    sha256_of,
    sync_folder,
    write_all,
    write_new,
)
from ai4os_data.machine.modules import loaded_on_use
from ai4os_data.machine.mounts import Mount
from ai4os_data.machine.packed import (
    Chosen,
    ChosenTexts,
    Grouped,
    Numbers,
    PackedList,
    Same,
    Texts,
    packed_texts,
    packed_values,
    positions,
)
from ai4os_data.machine.processes import PerProcess, leave_to_parent, no_fork, tell_after_fork, tell_before_fork
from ai4os_data.machine.processors import in_threads, usable_processors
from ai4os_data.machine.sizes import is_size, parse_size, shown_size

__all__ = [
    "Chosen",
    "ChosenTexts",
    "Grouped",
    "Mount",
    "Numbers",
    "PackedList",
    "PerProcess",
    "Same",
    "Texts",
    "descriptors",
    "disk_bytes",
    "exhausted",
    "identity",
    "in_threads",
    "is_at",
    "is_size",
    "leave_to_parent",
    "loaded_on_use",
    "locks",
    "mounts",
    "no_fork",
    "ownership",
    "packed_texts",
    "packed_values",
    "parse_size",
    "positions",
    "replace_whole",
    "sha256_of",
    "shared_memory",
    "shown_size",
    "sync_folder",
    "tell_after_fork",
    "tell_before_fork",
    "usable_processors",
    "write_all",
    "write_new",
]
