"""Copies a state into host memory that the next save uses again: training waits only for this copy.

The copy holds tensors on the CPU, primitives and plain containers, so that ``weights_only=True`` loads it. Tensors that
share a storage share one in the copy too; a view into a large storage takes no more than what it spans.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ai4os_data.checkpoint.walk import StatePath, Walk, filled, shown
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Sequence

State = Any  # nested containers of tensors, primitives, and objects with a state_dict()


class StateCopy(NamedTuple):
    """A copy of a state, valid until the staging is used again.

    Attributes:
        state: plain containers, primitives, and tensors on the CPU.
        arrays: the paths of what were NumPy arrays, and are tensors now.
        size_bytes: the size of the tensors, and about that of strings and long lists of numbers.
        waited_s: how long it took until the last copy was released.
    """

    state: Any
    arrays: list[StatePath]
    size_bytes: int
    waited_s: float


class Staging:
    """Host buffers for one state at a time."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []
        self._free = threading.Semaphore(1)
        self._logged: set[type] = set()

    def stage(self, state: State) -> StateCopy:
        """Copy a state, after waiting until the last copy has been released.

        Named tuples, and mappings and sets of other classes, become plain ones, which is logged once. `OrderedDict`,
        with the versions that a module adds to it, and `Counter` stay.

        Raises:
            StateError: it holds something that is neither plain nor has a ``state_dict()``.
        """
        walk = Walk()
        shape = walk.visit(state, ())
        self._log_converted(walk.converted)
        begun = time.perf_counter()
        self._free.acquire()
        try:
            waited_s = time.perf_counter() - begun
            full = filled(shape, self._copied(walk.sources))
            size_bytes = walk.plain_bytes + sum(buffer.size_bytes for buffer in self._buffers)
            return StateCopy(full, walk.arrays, size_bytes, waited_s)
        except BaseException:
            self._free.release()
            raise

    def release(self) -> None:
        """Let the buffers be used again."""
        self._free.release()

    def wait_until_free(self, timeout_s: float | None) -> bool:
        """Wait until the last copy has been released; False when the time is over."""
        is_free = self._free.acquire(timeout=timeout_s)
        if is_free:
            self._free.release()
        return is_free

    def _log_converted(self, converted: dict[type, StatePath]) -> None:
        """Log each class that is lost, once."""
        for kind, path in converted.items():
            if kind not in self._logged:
                self._logged.add(kind)
                log.warning(
                    "%s is a %s, and will be restored as a plain container of the same content: only plain ones load "
                    "with weights_only=True",
                    shown(path),
                    kind.__qualname__,
                )

    # A later save outside of inference mode could not write to a buffer that was made in it.
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def _copied(self, sources: list[torch.Tensor]) -> list[torch.Tensor]:
        """A copy of each tensor, in the buffers of the last time if they fit."""
        groups = _by_storage(sources)
        devices = {source.device for source in sources if source.device.type == "cuda"}
        for device in devices:
            torch.cuda.synchronize(device)  # other streams than the current one may still write to them
        old = self._buffers
        self._buffers = [
            old[number] if number < len(old) and old[number].pattern == group.pattern else _Buffer(group)
            for number, group in enumerate(groups)
        ]
        copies: dict[int, torch.Tensor] = {}
        for buffer, group in zip(self._buffers, groups, strict=True):
            copies.update(zip(group.numbers, buffer.take(group), strict=True))
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return [copies[number] for number in range(len(sources))]


class _Group(NamedTuple):
    """Tensors of one storage and type, or a single one, by their numbers in the walk."""

    numbers: list[int]
    tensors: list[torch.Tensor]

    @property
    def pattern(self) -> tuple[object, ...]:
        """The properties that a buffer must have to take them."""
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
        self.pattern = group.pattern
        self._copies: list[torch.Tensor] = []
        self._span: torch.Tensor | None = None
        first = group.tensors[0]
        is_cuda = first.device.type == "cuda"
        self.size_bytes = 0
        if first.layout is not torch.strided or first.is_quantized:
            return  # they have no single storage, and are cloned each time
        # The device is named; the default is that of torch.set_default_device.
        if len(group.tensors) == 1 and _span_elements([first]) >= first.numel():
            self._copies = [torch.empty_like(first, device="cpu", pin_memory=is_cuda)]
            self.size_bytes = self._copies[0].nbytes
        else:
            begin, elements = _begin(group.tensors), _span_elements(group.tensors)
            self._span = torch.empty(elements, dtype=first.dtype, device="cpu", pin_memory=is_cuda)
            self._copies = [
                self._span.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - begin)
                for tensor in group.tensors
            ]
            self.size_bytes = self._span.nbytes

    def take(self, group: _Group) -> list[torch.Tensor]:
        """Copy the tensors, and return the copies."""
        if not self._copies:
            return [tensor.detach().clone().cpu() for tensor in group.tensors]
        first = group.tensors[0]
        is_cuda = first.device.type == "cuda"  # for other accelerators nothing waits for the copy later
        if self._span is None:
            self._copies[0].copy_(first, non_blocking=is_cuda)
        else:
            source = first.as_strided((self._span.numel(),), (1,), _begin(group.tensors))
            self._span.copy_(source, non_blocking=is_cuda)
        return self._copies


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


def with_arrays(state: Any, arrays: Sequence[StatePath]) -> Any:
    """The state with NumPy arrays in the places of those that were saved; containers are changed in place."""
    for path in arrays:
        state = _with_array(state, path)
    return state


def _with_array(value: Any, path: StatePath) -> Any:
    if not path:
        return value.numpy(force=True)
    first, rest = path[0], path[1:]
    if isinstance(value, tuple):
        items = list(value)
        items[first] = _with_array(items[first], rest)
        return tuple(items)
    value[first] = _with_array(value[first], rest)
    return value
