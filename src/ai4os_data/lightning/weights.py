"""The weights and buffers of a model between two moments: whether weights were swapped, and copies of the buffers."""

from __future__ import annotations

import operator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAMPLED = 4  # elements of each weight; averaged weights differ from trained ones in nearly all
_LARGE = 65_536  # elements: a longer buffer is copied only if its version has changed; running means are shorter


@torch.no_grad()
def sample_of(module: torch.nn.Module) -> torch.Tensor:
    """A few elements of each weight, which differ between weights that were swapped and those that were trained."""
    samples = [_few(weight).to(torch.float64) for weight in module.parameters() if weight.numel()]
    if not samples:
        return torch.empty(0, device="cpu")
    device = samples[0].device
    return torch.nan_to_num(torch.cat([sample.to(device) for sample in samples])).cpu()


def _few(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]


class Buffers:
    """A copy of everything that a forward pass changes in a model: buffers, states of metrics, and extra states."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._slots = [
            (owner, name)
            for owner in module.modules()
            for name in owner._buffers
            if name not in owner._non_persistent_buffers_set
        ]
        self._others = [other for other in map(_state_of, module.modules()) if other is not None]
        self._sources: list[torch.Tensor | None] = []
        self._copies: list[torch.Tensor | None] = []
        self._versions: list[int | None] = []
        self._states: list[Any] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Copy them."""
        sources = [owner._buffers.get(name) for owner, name in self._slots]
        versions = [None if one is None or one.is_inference() else one._version for one in sources]
        is_same = len(self._sources) == len(sources) and all(map(operator.is_, sources, self._sources))
        if not is_same or [_shape(one) for one in sources] != [_shape(copy) for copy in self._copies]:
            self._sources, self._copies = sources, [None if one is None else one.detach().clone() for one in sources]
        else:
            both = zip(self._copies, sources, self._versions, versions, strict=True)
            changed = [
                (copy, one)
                for copy, one, before, now in both
                if copy is not None and one is not None and (one.numel() < _LARGE or now is None or now != before)
            ]
            if changed:
                torch._foreach_copy_([copy for copy, _ in changed], [one for _, one in changed])
        self._versions = versions
        self._states = [other.get() for other in self._others]

    @contextmanager
    def of_then(self) -> Iterator[None]:
        """Put the copies into the model during a block, and put the present values back afterwards."""
        now = [owner._buffers.get(name) for owner, name in self._slots], [other.get() for other in self._others]
        self._put(self._copies, self._states)
        try:
            yield
        finally:
            self._put(*now)

    def _put(self, buffers: list[torch.Tensor | None], states: list[Any]) -> None:
        for (owner, name), buffer in zip(self._slots, buffers, strict=False):  # empty if no copy was made yet
            owner._buffers[name] = buffer
        for other, state in zip(self._others, states, strict=False):
            other.set(state)


def _shape(tensor: torch.Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


class _Extra:
    """The extra state of a module, beside its tensors."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def get(self) -> Any:
        return deepcopy(self._module.get_extra_state())

    def set(self, state: Any) -> None:
        self._module.set_extra_state(deepcopy(state))


class _OfMetric:
    """The saved state of a torchmetrics metric."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._names = [name for name, is_saved in metric._persistent.items() if is_saved]

    def get(self) -> dict[str, Any]:
        return {name: _copied(getattr(self._metric, name)) for name in self._names}

    def set(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self._metric, name, _copied(value))


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value.detach().clone()


def _state_of(module: Any) -> _Extra | _OfMetric | None:
    if type(module).get_extra_state is not torch.nn.Module.get_extra_state:
        return _Extra(module)
    if any(getattr(module, "_persistent", {}).values()) and hasattr(module, "_defaults"):
        return _OfMetric(module)
    return None
