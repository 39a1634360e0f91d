"""Options that are handed on to `StorageCheckpoint`: a wrong one is told where it is typed, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.checkpoint.spool import parse_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

OPTIONS = ("cache", "durability", "rank_timeout_s", "spool", "spool_limit")

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


def check_options(owner: str, options: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Refuse what `StorageCheckpoint` would not take, or what its owner decides.

    Raises:
        TypeError: there is no such option.
        ValueError: its value makes no sense.
    """
    for name in options:
        if name not in allowed:
            instead = _INSTEAD.get(name, f"besides its own arguments it takes {', '.join(sorted(allowed))}")
            raise TypeError(f"{owner} has no {name}: {instead}")
    parse_limit(options.get("spool_limit"))
