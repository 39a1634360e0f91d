"""Which Lightning a program trains with: `lightning`, or `pytorch_lightning`, whose classes are other ones.

Each comes with the other, so what is installed tells nothing; what the program has imported does.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__all__ = [
    "FLAVOUR",
    "Checkpoint",
    "CheckpointIO",
    "DDPStrategy",
    "DeepSpeedStrategy",
    "GradientAccumulationScheduler",
    "SIGTERMException",
    "SingleDeviceStrategy",
    "StochasticWeightAveraging",
    "Strategy",
    "TorchCheckpointIO",
    "Trainer",
    "WeightAveraging",
]


def _chosen() -> tuple[str, str]:
    """The names of its two halves."""
    ours, other = ("lightning.pytorch", "lightning.fabric"), ("pytorch_lightning", "lightning_fabric")
    if find_spec("lightning") is None and find_spec(other[0]) is None:
        message = "checkpoints for Lightning need it: pip install 'ai4os-data[lightning]'"
        raise ImportError(message)
    is_other = other[0] in sys.modules and ours[0] not in sys.modules
    return other if is_other or find_spec("lightning") is None else ours


FLAVOUR, _FABRIC = _chosen()

if TYPE_CHECKING:
    from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import (
        Checkpoint,
        GradientAccumulationScheduler,
        StochasticWeightAveraging,
        WeightAveraging,
    )
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy
    from lightning.pytorch.utilities.exceptions import SIGTERMException
else:
    Trainer = import_module(FLAVOUR).Trainer
    Checkpoint = import_module(f"{FLAVOUR}.callbacks").Checkpoint
    _callbacks = import_module(f"{FLAVOUR}.callbacks")
    GradientAccumulationScheduler = _callbacks.GradientAccumulationScheduler
    StochasticWeightAveraging = _callbacks.StochasticWeightAveraging
    WeightAveraging = getattr(_callbacks, "WeightAveraging", ())  # older ones have none
    SIGTERMException = import_module(f"{FLAVOUR}.utilities.exceptions").SIGTERMException
    _strategies = import_module(f"{FLAVOUR}.strategies")
    DDPStrategy, DeepSpeedStrategy = _strategies.DDPStrategy, _strategies.DeepSpeedStrategy
    SingleDeviceStrategy, Strategy = _strategies.SingleDeviceStrategy, _strategies.Strategy
    _plugins = import_module(f"{_FABRIC}.plugins")
    CheckpointIO, TorchCheckpointIO = _plugins.CheckpointIO, _plugins.TorchCheckpointIO
