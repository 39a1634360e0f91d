"""Hyperparameters in a checkpoint of Lightning: those that would not load unchanged are refused or logged.

A checkpoint holds tensors and primitives, and hyperparameters may be anything. Values with a plain form of the same
content are saved in that form. The callback refuses any others before the training. The plugin saves a pickle of them
beside the plain part, which is opened only for ``weights_only=False``.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import pickle
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import torch

from ai4os_data import errors
from ai4os_data.checkpoint import Staging
from ai4os_data.telemetry import log

# Lightning's names for those of a LightningModule and of a LightningDataModule.
KEYS = ("hyper_parameters", "datamodule_hyper_parameters")
_TYPES = {"hyper_parameters": "hparams_type", "datamodule_hyper_parameters": "datamodule_hparams_type"}
_PICKLED = "ai4os_data_pickled_hyper_parameters"

_EXACT = (bool, int, float, complex, str, bytes, type(None), torch.Tensor, torch.Size, torch.dtype, torch.device)
_PLAIN_NUMPY_KINDS = "biufcSU"
_TENSOR_KINDS = "biufc"
_LEFT_OUT = object()


class _Change(NamedTuple):
    """A value that is not restored as it was.

    Attributes:
        path: the keys and indices that lead to it.
        value: the value.
        form: what it is restored as; None if it cannot be saved.
    """

    path: tuple[Any, ...]
    value: Any
    form: str | None

    def __str__(self) -> str:
        """The path as Python code: ``['sizes'][0]``."""
        return "".join(f"[{part!r}]" for part in self.path)


_Changes = list[_Change]


def check_hyperparameters(*owners: Any) -> None:
    """Refuse hyperparameters that cannot be saved, before anything is trained; log those that change type.

    Args:
        owners: a LightningModule and a LightningDataModule, or None.

    Raises:
        StateError: some cannot be saved.
    """
    for owner in owners:
        hparams = getattr(owner, "hparams", None)
        if not isinstance(hparams, Mapping):
            continue
        key = owner.CHECKPOINT_HYPER_PARAMS_KEY
        changes: _Changes = []
        plain = _plain(hparams, (), changes)
        if refused := [change for change in changes if change.form is None]:
            each = "; ".join(f"{key}{change} is {_described(change.value)}: {_advice(change)}" for change in refused)
            raise errors.StateError(
                f"{type(owner).__name__} has hyperparameters that no checkpoint can hold which loads with "
                f"weights_only=True. {each}"
            )
        _check_rest(owner, {key: plain})
        for change in changes:
            log.warning(
                "%s%s of %s is %s and comes back as a %s of the same content: %s",
                *(key, change, type(owner).__name__, _described(change.value), change.form, _advice(change)),
            )


def _check_rest(owner: Any, checkpoint: dict[str, Any]) -> None:
    """Refuse values that only staging finds: keys that are no primitives, integers that are too long.

    Raises:
        StateError: staging refuses something.
    """
    try:
        Staging().stage(checkpoint)
    except errors.StateError as error:
        raise errors.StateError(
            f"{type(owner).__name__}: {error}; or leave it out, with save_hyperparameters(ignore=[…])"
        ) from error


def plain_hyperparameters(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A checkpoint of Lightning with plain hyperparameters; those without a plain form are left out.

    Returns:
        The checkpoint, and the names of those that are not restored as they were.
    """
    plain, names = dict(checkpoint), []
    for key in KEYS:
        if isinstance(hparams := checkpoint.get(key), Mapping):
            changes: _Changes = []
            plain[key] = _plain(hparams, (), changes)
            names += [f"{key}{change}" for change in changes]
            kind = plain.get(_TYPES[key])
            if isinstance(kind, type) and kind.__module__.partition(".")[0] == "omegaconf":
                del plain[_TYPES[key]]  # the hyperparameters are a plain dict now
    return plain, names


def with_pickled(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint with plain hyperparameters, and a pickle of all of them if some have another form."""
    plain, changes = plain_hyperparameters(checkpoint)
    if not changes:
        return checkpoint
    names = [*KEYS, *_TYPES.values()]
    pickled = io.BytesIO()
    try:
        torch.save({name: checkpoint[name] for name in names if name in checkpoint}, pickled)
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # the errors that Lightning catches
        log.warning("%s cannot be pickled, and is left out of the checkpoint: %s", ", ".join(changes), error)
        return plain
    return {**plain, _PICKLED: {"content": pickled.getvalue(), "names": changes}}


def with_opened(checkpoint: dict[str, Any], location: str, *, weights_only: bool, map_location: Any) -> dict[str, Any]:
    """The checkpoint that was given to `with_pickled`; with ``weights_only`` its plain part, which is logged."""
    pickled = checkpoint.pop(_PICKLED, None)
    if pickled is None:
        return checkpoint
    if weights_only:
        log.warning(
            "%s was loaded without %s, which is not plain: weights_only=False loads it, and can run code from the file",
            *(location, ", ".join(pickled["names"])),
        )
        return checkpoint
    return {**checkpoint, **torch.load(io.BytesIO(pickled["content"]), map_location, weights_only=False)}


def _plain(value: Any, path: tuple[Any, ...], changes: _Changes) -> Any:
    """The restored form of a value, or ``_LEFT_OUT`` if it cannot be saved; each difference is added to ``changes``."""
    if type(value) in _EXACT:
        return value
    if _is_omegaconf(value):
        changes.append(_Change(path, value, "dict" if isinstance(value, Mapping) else "list"))
        return sys.modules["omegaconf"].OmegaConf.to_container(value, resolve=True)
    if isinstance(value, type) or not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        form, plain = _plain_leaf(value)
        changes.append(_Change(path, value, form))
        return plain
    kind = _plain_container(value)
    if path and type(value) is not kind and not _is_attribute_dict(value):
        changes.append(_Change(path, value, kind.__name__))
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    plain = {name: _plain(item, (*path, name), changes) for name, item in items}
    kept = {name: item for name, item in plain.items() if item is not _LEFT_OUT}
    return kind(kept if issubclass(kind, dict) else kept.values())


def _plain_leaf(value: Any) -> tuple[str | None, Any]:
    """The restored form of a number, string or tensor of a special class: the plain class's name, and the value."""
    if isinstance(value, np.generic):
        is_plain = value.dtype.kind in _PLAIN_NUMPY_KINDS
        return (type(value.item()).__name__, value.item()) if is_plain else (None, _LEFT_OUT)
    if type(value) is np.ndarray and value.dtype.kind in _TENSOR_KINDS:
        return "Tensor", torch.from_numpy(value.copy())  # NumPy arrays do not load with weights_only=True
    kinds = {torch.nn.Parameter: "Tensor", bool: "bool", int: "int", float: "float", str: "str", bytes: "bytes"}
    form = next((name for kind, name in kinds.items() if isinstance(value, kind)), None)
    return form, _LEFT_OUT if form is None else value


def _plain_container(value: Any) -> type:
    if isinstance(value, Mapping):
        return Counter if type(value) is Counter else OrderedDict if isinstance(value, OrderedDict) else dict
    return next((kind for kind in (list, tuple) if isinstance(value, kind)), set)


def _is_omegaconf(value: Any) -> bool:
    module = sys.modules.get("omegaconf")
    return module is not None and isinstance(value, module.Container)


def _is_attribute_dict(value: Any) -> bool:
    """Whether it is the ``AttributeDict`` of either Lightning."""
    return isinstance(value, dict) and type(value).__name__ == "AttributeDict"


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__module__}.{value.__qualname__}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _advice(change: _Change) -> str:
    """What to write instead."""
    value = change.value
    if _is_omegaconf(value):
        return "save OmegaConf.to_container(cfg, resolve=True), and let __init__ make OmegaConf.create(cfg) of it"
    for kind, text in _INSTEAD:
        if isinstance(value, kind) and not isinstance(value, type):
            return f"save {text}, or leave it out with {_ignoring(change)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"save dataclasses.asdict(…), or leave it out with {_ignoring(change)}"
    if isinstance(value, torch.nn.Module):
        return (
            f"leave it out with {_ignoring(change)} (what is a part of the model has its weights in the "
            "checkpoint), and give it to load_from_checkpoint(path, …) as an argument"
        )
    if change.form is not None:
        return "write it so, if that matters"
    return f"save a name of it, or leave it out with {_ignoring(change)}"


def _ignoring(change: _Change) -> str:
    return f"save_hyperparameters(ignore=[{change.path[0]!r}])"


_INSTEAD: tuple[tuple[type, str], ...] = (
    (PurePath, "str(path)"),
    (Enum, "its .name"),
    (argparse.Namespace, "vars(namespace)"),
    (timedelta, ".total_seconds()"),
    (deque, "list(…)"),
    (range, "list(…)"),
)
