"""A state copied into host memory that is used again for the next one: the one thing that training waits for.

What comes out holds tensors on the CPU, primitives and plain containers, so that ``weights_only=True`` loads it.
Tensors that share a storage share one afterwards; a view into a large storage takes no more than what it spans.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ai4os_data import errors

State = Any  # nested containers of tensors, primitives, and objects with a state_dict()
Place = tuple[Any, ...]  # the keys and indices that lead to a value

_PRIMITIVES = (bool, int, float, complex, str, bytes, type(None))
_AS_THEY_ARE = (torch.Size, torch.dtype, torch.device)
_ALIGNMENT = 16


class Staged(NamedTuple):
    """A copy of a state, good until the staging is used again.

    Attributes:
        state: plain containers, primitives, and tensors on the CPU.
        arrays: the places of what were NumPy arrays, and are tensors now.
        size_bytes: what the tensors take.
        waited_s: how long it took until the last copy was released.
    """

    state: Any
    arrays: list[Place]
    size_bytes: int
    waited_s: float


class Staging:
    """Host buffers for one state at a time."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []
        self._free = threading.Semaphore(1)

    def stage(self, state: State) -> Staged:
        """Copy a state; waits until the last copy has been released.

        Raises:
            StateError: it holds something that is neither plain nor has a ``state_dict()``.
        """
        plan = _Plan()
        shape = plan.visit(state, ())
        begun = time.perf_counter()
        self._free.acquire()
        waited_s = time.perf_counter() - begun
        try:
            copies = self._copied(plan.sources)
        except BaseException:
            self._free.release()
            raise
        size_bytes = sum(buffer.size_bytes for buffer in self._buffers)
        return Staged(_filled(shape, copies), plan.arrays, size_bytes, waited_s)

    def release(self) -> None:
        """Let the buffers be used again."""
        self._free.release()

    def wait_until_free(self, timeout_s: float | None) -> bool:
        """Wait until the last copy has been released; False when the time is over."""
        is_free = self._free.acquire(timeout=timeout_s)
        if is_free:
            self._free.release()
        return is_free

    def _copied(self, sources: list[torch.Tensor]) -> list[torch.Tensor]:
        """A copy of each tensor, in the buffers of the last time where they fit."""
        groups = _by_storage(sources)
        old = self._buffers
        self._buffers = [
            old[number] if number < len(old) and old[number].fits(group) else _Buffer(group)
            for number, group in enumerate(groups)
        ]
        copies: dict[int, torch.Tensor] = {}
        for buffer, group in zip(self._buffers, groups, strict=True):
            copies.update(zip(group.numbers, buffer.take(group), strict=True))
        for device in {source.device for source in sources if source.device.type == "cuda"}:
            torch.cuda.current_stream(device).synchronize()
        return [copies[number] for number in range(len(sources))]


class _Leaf(NamedTuple):
    """Where a tensor stood in the state."""

    number: int


class _Plan:
    """A walk over a state: its containers with a mark for each tensor, and the tensors."""

    def __init__(self) -> None:
        self.sources: list[torch.Tensor] = []
        self.arrays: list[Place] = []
        self._above: set[int] = set()  # the containers that the walk is inside of

    def visit(self, value: Any, place: Place) -> Any:
        """A value with its tensors taken out."""
        kind = type(value)
        if kind in _PRIMITIVES or isinstance(value, _AS_THEY_ARE):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value, place)
        if isinstance(value, np.generic):
            return self.visit(value.item(), place)
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if isinstance(value, (bool, int, float, str, bytes)):
            return _plain(value)
        return self._container(value, place)

    def _container(self, value: Any, place: Place) -> Any:
        if id(value) in self._above:
            raise errors.StateError(f"{_shown(place)} contains itself, so it cannot be saved")
        self._above.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value, place)
            if isinstance(value, (list, tuple)):
                items = [self.visit(item, (*place, number)) for number, item in enumerate(value)]
                return items if isinstance(value, list) else tuple(items)
            if isinstance(value, (set, frozenset)):
                return {self._key(item, place) for item in value}
            if callable(getattr(value, "state_dict", None)):
                return self.visit(value.state_dict(), place)
        finally:
            self._above.discard(id(value))
        raise errors.StateError(
            f"{_shown(place)} is a {type(value).__module__}.{type(value).__qualname__}, which is neither a tensor, an "
            "array, a number, a string, a container of such, nor an object with a state_dict(): save what it is made of"
        )

    def _mapping(self, value: Mapping[Any, Any], place: Place) -> dict[Any, Any]:
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        plain = ((self._key(key, place), item) for key, item in value.items())
        return kind((key, self.visit(item, (*place, key))) for key, item in plain)

    def _key(self, key: Any, place: Place) -> Any:
        if isinstance(key, np.generic):
            return key.item()
        if type(key) in _PRIMITIVES:
            return key
        if isinstance(key, (bool, int, float, str, bytes)):
            return _plain(key)
        if isinstance(key, tuple):
            return tuple(self._key(part, place) for part in key)
        raise errors.StateError(f"{_shown(place)} has the key {key!r}: only numbers, strings and tuples of them can be")

    def _tensor(self, tensor: torch.Tensor, place: Place) -> _Leaf:
        if _is_wrapper(tensor):
            raise errors.StateError(
                f"{_shown(place)} is a {type(tensor).__name__}, of which this process may hold a part: gather it first"
            )
        if tensor.device.type == "meta":
            raise errors.StateError(f"{_shown(place)} is on the meta device: it has a shape and no values")
        plain = tensor.detach()
        if type(plain) is not torch.Tensor:
            plain = plain.as_subclass(torch.Tensor)
        if plain.layout is torch.strided and (plain.is_conj() or plain.is_neg()):
            plain = plain.resolve_conj().resolve_neg()
        self.sources.append(plain)
        return _Leaf(len(self.sources) - 1)

    def _array(self, array: np.ndarray[Any, Any], place: Place) -> _Leaf:
        try:
            # A tensor has no negative strides, and warns of memory that may not be written.
            tensor = torch.from_numpy(array if _is_tensor_like(array) else array.copy())
        except (TypeError, ValueError) as error:
            raise errors.StateError(f"{_shown(place)} is an array of {array.dtype}, which no tensor holds") from error
        self.arrays.append(place)
        self.sources.append(tensor)
        return _Leaf(len(self.sources) - 1)


class _Group(NamedTuple):
    """Tensors of one storage and type, or a single one; by their numbers in the walk."""

    numbers: list[int]
    tensors: list[torch.Tensor]

    @property
    def pattern(self) -> tuple[object, ...]:
        """What a buffer has to be like to take them."""
        first = self.tensors[0]
        offset = first.storage_offset() if first.layout is torch.strided else 0
        return (
            first.dtype,
            first.device.type == "cuda",
            tuple(
                (tensor.shape, tensor.stride(), tensor.storage_offset() - offset)
                if tensor.layout is torch.strided
                else None
                for tensor in self.tensors
            ),
        )


class _Buffer:
    """Host memory for the tensors of a group."""

    def __init__(self, group: _Group) -> None:
        self._pattern = group.pattern
        self._copies: list[torch.Tensor] = []
        self._span: torch.Tensor | None = None
        pinned = group.tensors[0].device.type == "cuda"
        first = group.tensors[0]
        if first.layout is not torch.strided or first.is_quantized:
            self.size_bytes = 0  # they have no single storage: cloned each time
        elif len(group.tensors) == 1 and _span_elements([first]) >= first.numel():
            strides = first.stride() if _is_dense(first) else None
            copy = (
                torch.empty(first.shape, dtype=first.dtype, pin_memory=pinned)
                if strides is None
                else torch.empty_strided(first.shape, strides, dtype=first.dtype, pin_memory=pinned)
            )
            self._copies = [copy]
            self.size_bytes = copy.numel() * copy.element_size()
        else:
            begin = _begin(group.tensors)
            self._span = torch.empty(_span_elements(group.tensors), dtype=first.dtype, pin_memory=pinned)
            self._copies = [
                self._span.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - begin)
                for tensor in group.tensors
            ]
            self.size_bytes = self._span.numel() * self._span.element_size()

    def fits(self, group: _Group) -> bool:
        """Whether it can take these tensors."""
        return self._pattern == group.pattern

    def take(self, group: _Group) -> list[torch.Tensor]:
        """Copy the tensors; the copies."""
        if not self._copies:
            return [tensor.detach().clone().cpu() for tensor in group.tensors]
        if self._span is None:
            self._copies[0].copy_(group.tensors[0], non_blocking=True)
        else:
            first = group.tensors[0]
            source = first.as_strided((self._span.numel(),), (1,), _begin(group.tensors))
            self._span.copy_(source, non_blocking=True)
        return self._copies


def _is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether it only looks like a tensor, as a DTensor does."""
    return bool(is_traceable_wrapper_subclass(tensor))


def _by_storage(tensors: Sequence[torch.Tensor]) -> list[_Group]:
    """The tensors in groups that share a storage; torch.save takes it for one type only."""
    groups: dict[object, _Group] = {}
    for number, tensor in enumerate(tensors):
        is_plain = tensor.layout is torch.strided and not tensor.is_quantized and tensor.numel()
        key: object = (tensor.untyped_storage()._cdata, tensor.dtype) if is_plain else number  # noqa: SLF001
        group = groups.setdefault(key, _Group([], []))
        group.numbers.append(number)
        group.tensors.append(tensor)
    return list(groups.values())


def _begin(tensors: Sequence[torch.Tensor]) -> int:
    """The first element of their storage that any of them uses."""
    return min(int(tensor.storage_offset()) for tensor in tensors)


def _span_elements(tensors: Sequence[torch.Tensor]) -> int:
    """How many elements of their storage lie from the first to the last that they use."""
    end = max(
        int(tensor.storage_offset())
        + (sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1)
        * (tensor.numel() > 0)
        for tensor in tensors
    )
    return end - _begin(tensors)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether its elements fill their span, in any order of the dimensions."""
    return _span_elements([tensor]) == tensor.numel()


def _is_tensor_like(array: np.ndarray[Any, Any]) -> bool:
    return array.flags.writeable and all(stride >= 0 for stride in array.strides)


def _plain(value: Any) -> Any:
    """A number or a string of some class of its own (an IntEnum, say) as what it is."""
    kind = next(kind for kind in (bool, int, float, str, bytes) if isinstance(value, kind))
    return kind(value)


def _filled(shape: Any, copies: Sequence[torch.Tensor]) -> Any:
    """The containers with the copies in their places."""
    if isinstance(shape, _Leaf):
        return copies[shape.number]
    if isinstance(shape, dict):
        return type(shape)((key, _filled(item, copies)) for key, item in shape.items())
    if type(shape) is list:
        return [_filled(item, copies) for item in shape]
    if type(shape) is tuple:
        return tuple(_filled(item, copies) for item in shape)
    return shape


def with_arrays(state: Any, arrays: Sequence[Place]) -> Any:
    """The state with NumPy arrays where there were some; containers are changed in place."""
    for place in arrays:
        state = _with_array(state, place)
    return state


def _with_array(value: Any, place: Place) -> Any:
    if not place:
        return value.numpy(force=True)
    first, rest = place[0], place[1:]
    if isinstance(value, tuple):
        items = list(value)
        items[first] = _with_array(items[first], rest)
        return tuple(items)
    value[first] = _with_array(value[first], rest)
    return value


def _shown(place: Place) -> str:
    return "state" + "".join(f"[{part!r}]" for part in place)
