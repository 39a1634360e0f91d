"""Options that go on to `StorageCheckpoint`: a wrong one is told where it is typed; and metrics that are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ai4os_data.checkpoint import parse_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

# What those who come from ModelCheckpoint write, and what there is for it here.
_INSTEAD = {
    "auto_insert_metric_name": "names are its own, and metrics are in the manifest",
    "dirpath": "the first argument is the location, such as 'rshare:runs/flowers'",
    "enable_version_counter": "each attempt has a folder of its own",
    "filename": "names are its own: ask best_model_path, last_model_path and resume_path()",
    "save_last": "the newest always stay, as many as keep_last says",
    "save_on_train_epoch_end": "it saves after the validation, and at the end of an epoch",
    "save_weights_only": "a checkpoint holds what it takes to go on; Model.load_from_checkpoint() takes the weights",
    "verbose": "it tells what it does in the log 'ai4os_data'",
}


def checked_options(owner: object, unknown: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The options for `StorageCheckpoint`, if there are no others.

    Args:
        owner: who was given them.
        unknown: what it does not take.
        options: what it takes.

    Raises:
        TypeError: there is no such option.
        ValueError: its value makes no sense.
    """
    for name in unknown:
        instead = _INSTEAD.get(name, f"besides its own arguments it takes {', '.join(sorted(options))}")
        raise TypeError(f"{type(owner).__name__} has no {name}: {instead}")
    parse_limit(options.get("spool_limit"))
    return options


def numbers_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers: tensors and arrays of one element, and what somebody has put there as a number."""
    return {name: float(value) for name, value in metrics.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float, np.number, np.bool_)) and not isinstance(value, np.complexfloating)
