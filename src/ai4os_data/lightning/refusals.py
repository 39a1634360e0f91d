"""Refuses states that cannot be saved as one file of rank 0, and says what to use instead."""

from __future__ import annotations

from typing import Any

import torch

from ai4os_data import errors
from ai4os_data.lightning.flavour import FLAVOUR, pytorch

_PARTS_OF_RANKS = ("DTensor", "ShardedTensor")  # by name, since their modules differ between versions of torch


def refuse_strategy(strategy: Any) -> None:
    """Refuse a strategy of the other Lightning package, and one that may spread a state over ranks.

    Raises:
        CheckpointError: it is one.
    """
    known = pytorch.strategies
    if not isinstance(strategy, known.Strategy):
        raise errors.CheckpointError(
            f"this Trainer is of {type(strategy).__module__.partition('.')[0]}, and ai4os_data.lightning has been set "
            f"up for {FLAVOUR}: import the one that you use before ai4os_data.lightning, and not both"
        )
    is_whole = isinstance(strategy, (known.SingleDeviceStrategy, known.DDPStrategy))
    is_sharded = isinstance(strategy, known.DeepSpeedStrategy)  # although it is a subclass of DDPStrategy
    if not is_whole or is_sharded or type(strategy).save_checkpoint is not known.Strategy.save_checkpoint:
        raise errors.CheckpointError(
            f"{type(strategy).__name__} may spread a state over its ranks, and a checkpoint is one file of rank 0: "
            "use strategy='ddp' or a single device; or ModelCheckpoint to a local disk, and copy what it writes"
        )


def refuse_shards(value: Any, path: tuple[str, ...] = ()) -> None:
    """Refuse a state of which this process holds only a part.

    Raises:
        StateError: it is one.
    """
    if isinstance(value, torch.Tensor):
        if any(kind.__name__ in _PARTS_OF_RANKS for kind in type(value).__mro__):
            raise errors.StateError(
                f"{'.'.join(path)} is a {type(value).__name__}, of which each rank holds a part, and a checkpoint is "
                "one file of rank 0: use strategy='ddp', or let the strategy gather the state, as "
                "FSDPStrategy(state_dict_type='full') and ModelParallelStrategy(save_distributed_checkpoint=False) do"
            )
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            refuse_shards(item, (*path, str(key)))
