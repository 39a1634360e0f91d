"""The walk: it makes plain containers of a state, which `weights_only=True` loads, and takes its tensors out.

Nothing is copied here. The walk comes first, so that a state that cannot be saved costs no copy.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ai4os_data import errors

StatePath = tuple[Any, ...]  # the keys and indices that lead to a value

_PRIMITIVES = frozenset({bool, int, float, complex, str, bytes, type(None)})
_AS_THEY_ARE = (torch.Size, torch.dtype, torch.device)
_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_COPIED_SCHEMES = (torch.per_tensor_affine, torch.per_channel_affine)
_PRIMITIVE_BYTES = 5  # size of a number, and of what precedes a string's characters
_PLAIN_NUMPY_KINDS = "biufcSU"
_INT_BITS = 2039  # larger integers are pickled by an instruction that weights_only=True does not know


class _Leaf(NamedTuple):
    """The place of a tensor in the state."""

    number: int


class _Whole(NamedTuple):
    """A container of primitives alone, copied at once; a walk over a million numbers would hold up the training."""

    value: Any


class Walk:
    """A walk over a state.

    Attributes:
        sources: its tensors, in the order in which they were found.
        arrays: the paths of what were NumPy arrays, and are tensors now.
        plain_bytes: about the size of its strings, and of its containers of primitives alone, in a file.
        converted: the classes of containers that come out as plain ones, each with the path where it was found first.
    """

    def __init__(self) -> None:
        self.sources: list[torch.Tensor] = []
        self.arrays: list[StatePath] = []
        self.plain_bytes = 0
        self.converted: dict[type, StatePath] = {}
        self._above: set[int] = set()  # the containers around the present value

    def visit(self, value: Any, path: StatePath) -> Any:
        """A value with its tensors taken out; `filled` puts others in.

        Raises:
            StateError: it holds something that is neither plain nor has a ``state_dict()``.
        """
        if type(value) in _PRIMITIVES:
            self.plain_bytes += len(value) if isinstance(value, (str, bytes)) else 0
            return _checked_int(value, path) if type(value) is int else value
        if isinstance(value, _AS_THEY_ARE):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.generic):
            return _number(value, path)
        if isinstance(value, np.ndarray):
            return self._array(value, path)
        if isinstance(value, (bool, int, float, str, bytes)):
            return _plain(value, path)
        return self._container(unwrapped(value), path)

    def _container(self, value: Any, path: StatePath) -> Any:
        if id(value) in self._above:
            raise errors.StateError(f"{shown(path)} contains itself, so it cannot be saved")
        self._above.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value, path)
            if isinstance(value, (list, tuple)):
                return self._sequence(value, path)
            if isinstance(value, (set, frozenset)):
                self._note(value, set, path)
                return self._whole(set, value, value) or {self._key(item, path) for item in value}
            if not isinstance(value, type) and callable(getattr(value, "state_dict", None)):
                return self.visit(value.state_dict(), path)
        finally:
            self._above.discard(id(value))
        raise errors.StateError(
            f"{shown(path)} is a {_named(type(value))}, which is neither a tensor, an "
            "array, a number, a string, a container of such, nor an object with a state_dict(): save what it is made of"
        )

    def _sequence(self, value: Sequence[Any], path: StatePath) -> Any:
        kind = self._note(value, list if isinstance(value, list) else tuple, path)
        items = (self.visit(item, (*path, number)) for number, item in enumerate(value))
        return self._whole(kind, value, value) or kind(items)

    def _mapping(self, value: Mapping[Any, Any], path: StatePath) -> Any:
        kind: type[dict[Any, Any]] = dict
        if isinstance(value, OrderedDict):
            kind = OrderedDict
        elif type(value) is Counter and _comes_back(Counter):
            kind = Counter
        self._note(value, kind, path)
        whole = self._whole(kind, value, value.keys(), value.values())
        keys = ((self._key(key, path), item) for key, item in value.items())
        plain = whole.value if whole else kind({key: self.visit(item, (*path, key)) for key, item in keys})
        if isinstance(value, OrderedDict):
            vars(plain).update(_metadata_of(value, path))
        return whole or plain

    def _whole(self, kind: type, value: Any, *parts: Collection[Any]) -> _Whole | None:
        """A copy of a container of primitives alone, which needs no walk; the size of its parts is counted."""
        sizes = [size for part in parts if (size := _flat_bytes(part)) is not None]
        if len(sizes) < len(parts):
            return None
        self.plain_bytes += sum(sizes)
        return _Whole(kind(value))

    def _key(self, key: Any, path: StatePath) -> Any:
        if isinstance(key, np.generic):
            return _number(key, path)
        if isinstance(key, (bool, int, float, complex, str, bytes, type(None))):
            return _plain(key, path)
        if isinstance(key, tuple):
            return tuple(self._key(part, path) for part in key)
        raise errors.StateError(f"{shown(path)} has the key {key!r}: only numbers, strings and tuples of them can be")

    def _note(self, value: object, kind: type, path: StatePath) -> type[Any]:
        """The class that a container becomes; if that is another class, it is noted."""
        if type(value) is not kind:
            self.converted.setdefault(type(value), path)
        return kind

    def _tensor(self, tensor: torch.Tensor, path: StatePath) -> _Leaf:
        _check_tensor(tensor, path)
        plain = tensor.detach()
        if type(plain) is not torch.Tensor:
            plain = plain.as_subclass(torch.Tensor)
        if plain.layout is torch.strided and (plain.is_conj() or plain.is_neg()):
            plain = plain.resolve_conj().resolve_neg()
        self.sources.append(plain)
        return _Leaf(len(self.sources) - 1)

    def _array(self, array: np.ndarray[Any, Any], path: StatePath) -> _Leaf:
        if isinstance(array, np.ma.MaskedArray):
            raise errors.StateError(
                f"{shown(path)} is a masked array, of which no tensor holds the mask: save its .data and its .mask"
            )
        try:
            # A tensor cannot have negative strides, and warns of read-only memory.
            is_like_a_tensor = array.flags.writeable and all(stride >= 0 for stride in array.strides)
            tensor = torch.from_numpy(array if is_like_a_tensor else array.copy())
        except (TypeError, ValueError) as error:
            raise errors.StateError(f"{shown(path)} is an array of {array.dtype}, which no tensor holds") from error
        self.arrays.append(path)
        self.sources.append(tensor)
        return _Leaf(len(self.sources) - 1)


def filled(plan: Any, copies: Sequence[torch.Tensor]) -> Any:
    """The containers of a plan, with copies in the places of the tensors that were taken out."""
    if isinstance(plan, _Leaf):
        return copies[plan.number]
    if isinstance(plan, _Whole):
        return plan.value
    if isinstance(plan, dict):
        full = type(plan)({key: filled(item, copies) for key, item in plan.items()})
        if type(plan) is OrderedDict:
            vars(full).update(vars(plan))
        return full
    if type(plan) in {list, tuple}:
        return type(plan)(filled(item, copies) for item in plan)
    return plan


def unwrapped(value: Any) -> Any:
    """The loader that Fabric has wrapped; anything else as it is."""
    return getattr(value, "_dataloader", value) if type(value).__name__ == "_FabricDataLoader" else value


def shown(path: StatePath) -> str:
    """A path, as the caller of ``save`` would write it: ``state`` is what was given to it."""
    below = path[1:] if path[:1] == ("state",) else path
    return "state" + "".join(f"[{part!r}]" for part in below)


def _flat_bytes(items: Collection[Any]) -> int | None:
    """About the size of primitives in a file; None if there is something else, or a number that is too large."""
    kinds = set(map(type, items))
    if not kinds <= _PRIMITIVES:
        return None
    if int in kinds:
        numbers = items if kinds <= {int, bool} else [item for item in items if type(item) is int]
        if max(max(numbers).bit_length(), min(numbers).bit_length()) > _INT_BITS:
            return None
    texts = items if kinds <= {str, bytes} else [item for item in items if isinstance(item, (str, bytes))]
    return _PRIMITIVE_BYTES * len(items) + sum(map(len, texts))


def _metadata_of(state: OrderedDict[Any, Any], path: StatePath) -> dict[str, Any]:
    """The versions of a module's parts, an attribute that it adds. Without them it takes the state for an old one."""
    metadata = vars(state).get("_metadata")
    if not isinstance(metadata, Mapping):
        return {}
    walk = Walk()
    plain = walk.visit(metadata, (*path, "_metadata"))
    if walk.sources:
        raise errors.StateError(f"{shown((*path, '_metadata'))} holds a tensor: only primitives can be in it")
    return {"_metadata": filled(plain, ())}


def _check_tensor(tensor: torch.Tensor, path: StatePath) -> None:
    """Refuse a tensor without values here, or with values that could not be loaded again."""
    if (reason := _why_not(tensor)) is not None:
        raise errors.StateError(f"{shown(path)} {reason}")


def _why_not(tensor: torch.Tensor) -> str | None:
    if is_lazy(tensor):
        return "has no shape yet: let the module see a first batch before it is saved"
    if tensor.is_nested:
        return "is a nested tensor: save list(x.unbind()), and make it anew from that"
    if bool(is_traceable_wrapper_subclass(tensor)):  # such as a DTensor, which only looks like a tensor
        return f"is a {type(tensor).__name__}, of which this process may hold a part: gather it first"
    if tensor.device.type == "meta":
        return "is on the meta device: it has a shape and no values"
    if tensor.layout not in _LAYOUTS:
        return f"has the layout {tensor.layout}: save x.to_dense()"
    if tensor.is_quantized and tensor.qscheme() not in _COPIED_SCHEMES:
        return (
            f"is quantized by {tensor.qscheme()}, which torch does not copy: save x.dequantize(), or what it was "
            "quantized from"
        )
    if not tensor.is_quantized and not _keeps(tensor.dtype):
        return (
            f"is of the type {tensor.dtype}, which this torch does not copy or save: save x.view(torch.uint8), and "
            f"make it anew with .view({tensor.dtype}) when it is restored"
        )
    return None


def _number(value: np.generic, path: StatePath) -> Any:
    """A number or a string of NumPy as Python's."""
    plain = value.item() if value.dtype.kind in _PLAIN_NUMPY_KINDS else value
    if type(plain) not in _PRIMITIVES:
        raise errors.StateError(
            f"{shown(path)} is a {_named(type(value))}, which no plain number holds: save a float, "
            "an int or a string made of it"
        )
    return plain


def _plain(value: Any, path: StatePath) -> Any:
    """A number or a string of some class of its own (an IntEnum, say) as what it is."""
    kind = next((kind for kind in (bool, int, float, complex, str, bytes) if isinstance(value, kind)), None)
    plain: Any = value if kind is None or type(value) is kind else kind(value)
    return _checked_int(plain, path) if kind is int else plain


def _checked_int(value: int, path: StatePath) -> int:
    if value.bit_length() > _INT_BITS:
        raise errors.StateError(
            f"{shown(path)} is a number of {value.bit_length()} bits, and torch.load takes {_INT_BITS}: save it as a "
            "string"
        )
    return value


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def _keeps(dtype: torch.dtype) -> bool:
    """Whether this torch copies, saves and loads tensors of a type; few of the types below a byte can be."""
    file = io.BytesIO()
    try:
        torch.save(torch.empty(2, dtype=dtype, device="cpu").copy_(torch.empty(2, dtype=dtype, device="cpu")), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
    # Errors of torch for a type that it does not know; no code of ours runs here.
    except (NotImplementedError, RuntimeError, KeyError, AttributeError, pickle.UnpicklingError):
        return False
    return isinstance(loaded, torch.Tensor) and loaded.dtype == dtype


@functools.cache
def _comes_back(kind: type) -> bool:
    """Whether this torch loads objects of a class with ``weights_only=True``."""
    file = io.BytesIO()
    torch.save(kind(), file)
    file.seek(0)
    try:
        return type(torch.load(file, weights_only=True)) is kind
    except pickle.UnpicklingError:
        return False
