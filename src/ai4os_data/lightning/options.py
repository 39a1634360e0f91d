"""Checks the options for `StorageCheckpoint`, so that a wrong one is refused where the user gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.checkpoint import parse_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHARED = "cache, durability, rank_timeout_s, spool, spool_limit"
# Options of ModelCheckpoint, and what to use instead.
_INSTEAD = {
    "auto_insert_metric_name": "names are its own, and metrics are in the manifest",
    "dirpath": "the first argument is the location, such as 'rshare:runs/flowers'",
    "enable_version_counter": "each attempt has a folder of its own",
    "filename": "names are its own: ask best_model_path, last_model_path and resume_path()",
    "save_last": "the newest always stay, as many as keep_last says",
    "save_on_train_epoch_end": "it saves after the validation, and at the end of an epoch",
    "save_weights_only": "a checkpoint holds what it takes to resume; Model.load_from_checkpoint() takes the weights",
    "verbose": "what it does is logged by the logger 'ai4os_data'",
}


def check_options(owner: object, unknown: Mapping[str, Any], spool_limit: int | str | None) -> None:
    """Refuse options that an owner does not have, and a limit that makes no sense.

    Raises:
        TypeError: there is no such option.
        ValueError: the limit makes no sense.
    """
    for name in unknown:
        instead = _INSTEAD.get(name, f"besides its own arguments it takes {_SHARED}")
        raise TypeError(f"{type(owner).__name__} has no {name}: {instead}")
    parse_limit(spool_limit)
