"""Checkpoints on network storage.

The way of one: `manager` → `saving` → `staging` (memory) → `spool` (local disk) → `sending` → `delivery` → the store.
The way back: `manager` → `restoring` → `history` (what there is) → the spool or the store → `loading`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ai4os_data.checkpoint.names import MANIFEST, CheckpointName
from ai4os_data.checkpoint.spool_directory import foreseen_directory

if TYPE_CHECKING:
    from ai4os_data.checkpoint.ending import finish_runs
    from ai4os_data.checkpoint.handle import SaveHandle
    from ai4os_data.checkpoint.manager import BUDGET_S, RANK_TIMEOUT_S, StorageCheckpoint
    from ai4os_data.checkpoint.preemption import PreemptionGuard
    from ai4os_data.checkpoint.randomness import random_states, set_random_states
    from ai4os_data.checkpoint.ranks import Ranks
    from ai4os_data.checkpoint.restored import Checkpoint, Restored
    from ai4os_data.checkpoint.restoring import read_named
    from ai4os_data.checkpoint.retention import Mode, Retention, chosen_mode
    from ai4os_data.checkpoint.saving import Saver
    from ai4os_data.checkpoint.space import parse_limit
    from ai4os_data.checkpoint.staging import Staging, with_arrays

__all__ = [
    "BUDGET_S",
    "MANIFEST",
    "RANK_TIMEOUT_S",
    "Checkpoint",
    "CheckpointName",
    "Mode",
    "PreemptionGuard",
    "Ranks",
    "Restored",
    "Retention",
    "SaveHandle",
    "Saver",
    "Staging",
    "StorageCheckpoint",
    "chosen_mode",
    "finish_runs",
    "foreseen_directory",
    "parse_limit",
    "random_states",
    "read_named",
    "set_random_states",
    "with_arrays",
]

# Each of these names loads its module on first use: most of them need torch, and the doctor needs none of them.
_HOMES = {
    "BUDGET_S": "manager",
    "RANK_TIMEOUT_S": "manager",
    "Checkpoint": "restored",
    "Mode": "retention",
    "PreemptionGuard": "preemption",
    "Ranks": "ranks",
    "Restored": "restored",
    "Retention": "retention",
    "SaveHandle": "handle",
    "Saver": "saving",
    "Staging": "staging",
    "StorageCheckpoint": "manager",
    "chosen_mode": "retention",
    "finish_runs": "ending",
    "parse_limit": "space",
    "random_states": "randomness",
    "read_named": "restoring",
    "set_random_states": "randomness",
    "with_arrays": "staging",
}


def __getattr__(name: str) -> object:
    """Load a name from its module."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
