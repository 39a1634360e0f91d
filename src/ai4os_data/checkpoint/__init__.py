"""Checkpoints on network storage. The way of one: `manager` → `staging` → `spool` → `uploads` → the store."""

from ai4os_data.checkpoint.handle import SaveHandle
from ai4os_data.checkpoint.manager import StorageCheckpoint
from ai4os_data.checkpoint.preemption import PreemptionGuard
from ai4os_data.checkpoint.restored import Checkpoint, Restored

__all__ = ["Checkpoint", "PreemptionGuard", "Restored", "SaveHandle", "StorageCheckpoint"]
