"""Lightning trains with checkpoints that survive the deployment, and resumes from them exactly."""

from __future__ import annotations

from ai4os_data.lightning.callback import StorageCheckpointCallback
from ai4os_data.lightning.io import StorageCheckpointIO

__all__ = ["StorageCheckpointCallback", "StorageCheckpointIO"]
