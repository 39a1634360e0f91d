"""Arguments of `save`: each is understood, or refused with words about what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Collection

_NAMES = ((torch.nn.Module, "model"), (torch.optim.Optimizer, "optimizer"))


def checked_state(state: Any) -> Mapping[str, Any]:
    """A state, which is a mapping of objects by their names.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(state, Mapping):
        return state
    name = next((name for kind, name in _NAMES if isinstance(state, kind)), "state")
    raise TypeError(
        f"a state has names, and this is a {type(state).__name__}: write save({{{name!r}: {name}}}, step), and restore "
        f"with restore(into={{{name!r}: {name}}})"
    )


def log_what_lacks(state: Mapping[str, Any], asked: Collection[str]) -> None:
    """Log once which names the next `restore` will not find."""
    if lacking := sorted(str(name) for name in asked if name not in state):
        tell_once(
            f"restore(into=…) was given {', '.join(map(repr, lacking))}, and the state that is saved has "
            f"{', '.join(sorted(map(repr, state))) or 'nothing'}: the next start could not load it. Give both the same "
            "names"
        )


def checked_step(step: int) -> int:
    """A step, which is a whole number from 0 up.

    Raises:
        ValueError: it is not.
    """
    try:
        is_whole = not isinstance(step, bool) and int(step) == step
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole or step < 0:
        raise ValueError(f"a step is a number from 0 up, not {step!r}")
    return int(step)


def checked_metrics(metrics: Mapping[Any, Any] | None) -> dict[str, float]:
    """The numbers in metrics; tensors and arrays of one element are numbers too.

    Raises:
        TypeError: one is no number.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"metrics are numbers by name, as {{'loss': 0.5}}, and not a {type(metrics).__name__}")
    return {str(name): _number(name, value) for name, value in (metrics or {}).items()}


def _number(name: Any, value: Any) -> float:
    message = f"the metric {name!r} is {value!r}, and not a number or a tensor of one element"
    if value is None or isinstance(value, (str, bytes)):  # "3" would pass for a number
        raise TypeError(message)
    try:
        return float(value.item() if callable(getattr(value, "item", None)) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(message) from error
