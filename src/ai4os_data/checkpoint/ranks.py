"""The processes of a distributed training, which save together: rank 0 writes, after it has gathered what differs.

A rank that has died is noticed by its closed connection, or when the time is over.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ai4os_data import errors


class Ranks:
    """This process among the others; alone if nothing is distributed.

    Args:
        timeout_s: how long this process waits for the others.
        alone: leave the others out.
    """

    def __init__(self, timeout_s: float, *, alone: bool = False) -> None:
        self._timeout_s = timeout_s
        self._is_alone = alone
        self.is_distributed = not alone and _there_are_others()
        self.rank = dist.get_rank() if self.is_distributed else 0
        self.size = dist.get_world_size() if self.is_distributed else 1
        # A group of its own, over the CPU: NCCL sends no objects without a GPU, and has the timeout of the training.
        self._group = (
            dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if self.is_distributed else None
        )

    @property
    def writes(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def check_group(self) -> None:
        """Make sure that no process group was made after this object.

        Raises:
            CheckpointError: there are other ranks, which this one does not know.
        """
        if not self._is_alone and not self.is_distributed and _there_are_others():
            raise errors.CheckpointError("make StorageCheckpoint after init_process_group, on every rank")

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on rank 0; nothing on the others.

        Raises:
            CheckpointError: a rank did not answer.
        """
        if not self.is_distributed:
            return [value]
        values: list[Any] | None = [None] * self.size if self.writes else None
        try:
            dist.gather_object(value, values, group=self._group, dst=0)
        except RuntimeError as error:
            raise self._lost(error) from error
        return values or []

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank.

        Raises:
            CheckpointError: rank 0 did not answer.
        """
        if not self.is_distributed:
            return value
        values = [value]
        try:
            dist.broadcast_object_list(values, src=0, group=self._group)
        except RuntimeError as error:
            raise self._lost(error) from error
        return values[0]

    def _lost(self, error: RuntimeError) -> errors.CheckpointError:
        return errors.CheckpointError(
            f"rank {self.rank} of {self.size} waited for the others, and at least one is gone or took longer than "
            f"{self._timeout_s:g} s: {error}"
        )


def _there_are_others() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
