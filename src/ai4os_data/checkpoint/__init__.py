"""Checkpoints on network storage.

The way of a save: `manager` → `saving` → `staging` (memory) → `spool` (local disk) → `sending` → `delivery` → the
store. The way back: `manager` → `restoring` → `history` (what there is) → the spool or the store → `loading`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.checkpoint.names import MANIFEST, CheckpointName
from ai4os_data.checkpoint.spool_directory import foreseen_directory
from ai4os_data.machine import loaded_on_use

if TYPE_CHECKING:
    from ai4os_data.checkpoint.ending import finish_runs
    from ai4os_data.checkpoint.handle import SaveHandle
    from ai4os_data.checkpoint.looking import Found, RunView
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
    "Found",
    "Mode",
    "PreemptionGuard",
    "Ranks",
    "Restored",
    "Retention",
    "RunView",
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

# Most of these need torch; `ai4os-data doctor` must work without it.
__getattr__ = loaded_on_use(
    __name__,
    {
        "BUDGET_S": "manager",
        "RANK_TIMEOUT_S": "manager",
        "Checkpoint": "restored",
        "Found": "looking",
        "Mode": "retention",
        "PreemptionGuard": "preemption",
        "Ranks": "ranks",
        "Restored": "restored",
        "Retention": "retention",
        "RunView": "looking",
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
    },
)
