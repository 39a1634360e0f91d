"""A saved state put back into the objects that it came from, after a look at whether all of them fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ai4os_data import errors
from ai4os_data.telemetry import log

_Load = Callable[[], object]


def load_into(into: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Load each object from what was saved under its key. Nothing is loaded unless every key fits.

    Args:
        into: objects with ``load_state_dict()``, tensors (which are filled), and mappings of such.
        state: as it was saved; it may hold more.

    Raises:
        StateMismatchError: something does not fit.
    """
    loads = _plan(into, state, "")
    left = sorted(key for key, value in state.items() if key not in into and isinstance(value, Mapping))
    if left:
        log.info("the checkpoint also holds %s, which nothing was given for", ", ".join(map(repr, left)))
    for load in loads:
        load()


def _plan(into: Mapping[str, Any], state: Mapping[str, Any], above: str) -> list[_Load]:
    missing = sorted(str(key) for key in into if key not in state)
    if missing:
        raise errors.StateMismatchError(
            f"the checkpoint holds no {', '.join(above + key for key in missing)}, but "
            f"{', '.join(sorted(above + str(key) for key in state)) or 'nothing'}"
        )
    return [load for key, target in into.items() for load in _loads(target, state[key], f"{above}{key}")]


def _loads(target: Any, saved: Any, place: str) -> list[_Load]:
    if isinstance(target, torch.nn.Module):
        _check_module(target, saved, place)
    if callable(getattr(target, "load_state_dict", None)):
        if not isinstance(saved, Mapping):
            raise errors.StateMismatchError(f"{place} was saved as a {type(saved).__name__}, not as a state_dict")
        return [lambda: target.load_state_dict(saved)]
    if isinstance(target, torch.Tensor):
        if not isinstance(saved, torch.Tensor) or saved.shape != target.shape:
            raise errors.StateMismatchError(
                f"{place} is a tensor of {tuple(target.shape)}, and was saved as {_described(saved)}"
            )
        return [lambda: _fill(target, saved)]
    if isinstance(target, Mapping) and isinstance(saved, Mapping):
        return _plan(target, saved, f"{place}.")
    raise errors.StateMismatchError(
        f"{place} is a {type(target).__name__}, which nothing can be loaded into: take it from what restore() returns"
    )


def _check_module(module: torch.nn.Module, saved: Any, place: str) -> None:
    """Find out before anything is changed what `load_state_dict` would find half-way."""
    if not isinstance(saved, Mapping):
        return
    own = module.state_dict()
    shapes = [
        f"{place}.{name} is {tuple(own[name].shape)}, and was saved as {_described(saved[name])}"
        for name in own
        if name in saved
        and isinstance(own[name], torch.Tensor)
        and (not isinstance(saved[name], torch.Tensor) or own[name].shape != saved[name].shape)
        and not is_lazy(own[name])
    ]
    missing = [f"{place}.{name} was not saved" for name in own if name not in saved]
    unknown = [f"{place}.{name} was saved, and is not there" for name in saved if name not in own]
    if shapes or missing or unknown:
        raise errors.StateMismatchError("; ".join((shapes + missing + unknown)[:8]))


def _fill(target: torch.Tensor, saved: torch.Tensor) -> None:
    with torch.no_grad():
        target.copy_(saved)


def _described(saved: Any) -> str:
    return str(tuple(saved.shape)) if isinstance(saved, torch.Tensor) else f"a {type(saved).__name__}"
