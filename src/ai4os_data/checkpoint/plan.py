"""A state as plain containers, with its tensors taken out: what `weights_only=True` loads, or an error by its place.

Nothing is copied here. The walk comes first, so that a state which cannot be saved costs no copy.
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

Place = tuple[Any, ...]  # the keys and indices that lead to a value

_PRIMITIVES = frozenset({bool, int, float, complex, str, bytes, type(None)})
_AS_THEY_ARE = (torch.Size, torch.dtype, torch.device)
_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_COPIED_SCHEMES = (torch.per_tensor_affine, torch.per_channel_affine)
_KEPT_TYPES = frozenset(
    (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
)
_PRIMITIVE_BYTES = 5  # of a number, or before the characters of a string
_PLAIN_NUMPY_KINDS = "biufcSU"
_INT_BITS = 2039  # what takes more is pickled by an instruction that weights_only=True does not know


class _Leaf(NamedTuple):
    """Where a tensor stood in the state."""

    number: int


class _Whole(NamedTuple):
    """A container of primitives alone, copied at once; a walk over a million numbers would hold up the training."""

    value: Any


class Plan:
    """A walk over a state.

    Attributes:
        sources: its tensors, in the order in which they were found.
        arrays: the places of what were NumPy arrays, and are tensors now.
        plain_bytes: about what its strings, and its containers of primitives alone, take in a file.
        converted: the classes of containers that come out as plain ones, each with the place where it was found first.
    """

    def __init__(self) -> None:
        self.sources: list[torch.Tensor] = []
        self.arrays: list[Place] = []
        self.plain_bytes = 0
        self.converted: dict[type, Place] = {}
        self._above: set[int] = set()  # the containers that the walk is inside of

    def visit(self, value: Any, place: Place) -> Any:
        """A value with its tensors taken out; `filled` puts others in.

        Raises:
            StateError: it holds something that is neither plain nor has a ``state_dict()``.
        """
        if type(value) in _PRIMITIVES:
            self.plain_bytes += len(value) if isinstance(value, (str, bytes)) else 0
            return _checked_int(value, place) if type(value) is int else value
        if isinstance(value, _AS_THEY_ARE):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value, place)
        if isinstance(value, np.generic):
            return _number(value, place)
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if isinstance(value, (bool, int, float, str, bytes)):
            return _plain(value, place)
        return self._container(unwrapped(value), place)

    def _container(self, value: Any, place: Place) -> Any:
        if id(value) in self._above:
            raise errors.StateError(f"{shown(place)} contains itself, so it cannot be saved")
        self._above.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value, place)
            if isinstance(value, (list, tuple)):
                return self._sequence(value, place)
            if isinstance(value, (set, frozenset)):
                self._note(value, set, place)
                return _Whole(set(value)) if self._is_flat(value) else {self._key(item, place) for item in value}
            if not isinstance(value, type) and callable(getattr(value, "state_dict", None)):
                return self.visit(value.state_dict(), place)
        finally:
            self._above.discard(id(value))
        raise errors.StateError(
            f"{shown(place)} is a {_named(type(value))}, which is neither a tensor, an "
            "array, a number, a string, a container of such, nor an object with a state_dict(): save what it is made of"
        )

    def _sequence(self, value: Sequence[Any], place: Place) -> Any:
        kind = self._note(value, list if isinstance(value, list) else tuple, place)
        if self._is_flat(value):
            return _Whole(kind(value))
        return kind(self.visit(item, (*place, number)) for number, item in enumerate(value))

    def _mapping(self, value: Mapping[Any, Any], place: Place) -> Any:
        kind: type[dict[Any, Any]] = dict
        if isinstance(value, OrderedDict):
            kind = OrderedDict
        elif type(value) is Counter and _comes_back(Counter):
            kind = Counter
        self._note(value, kind, place)
        is_flat = self._is_flat(value.keys(), value.values())
        if is_flat:
            plain = kind(value)
        else:
            keys = ((self._key(key, place), item) for key, item in value.items())
            plain = kind({key: self.visit(item, (*place, key)) for key, item in keys})
        if isinstance(value, OrderedDict):
            vars(plain).update(_metadata_of(value, place))
        return _Whole(plain) if is_flat else plain

    def _is_flat(self, *parts: Collection[Any]) -> bool:
        """Whether they consist of primitives alone, which need no walk; then what they take is counted."""
        sizes = [size for part in parts if (size := _flat_bytes(part)) is not None]
        if len(sizes) < len(parts):
            return False
        self.plain_bytes += sum(sizes)
        return True

    def _key(self, key: Any, place: Place) -> Any:
        if isinstance(key, np.generic):
            return _number(key, place)
        if isinstance(key, (bool, int, float, complex, str, bytes, type(None))):
            return _plain(key, place)
        if isinstance(key, tuple):
            return tuple(self._key(part, place) for part in key)
        raise errors.StateError(f"{shown(place)} has the key {key!r}: only numbers, strings and tuples of them can be")

    def _note(self, value: object, kind: type, place: Place) -> type[Any]:
        """The class that a container comes out as, after a note where that is another one."""
        if type(value) is not kind:
            self.converted.setdefault(type(value), place)
        return kind

    def _tensor(self, tensor: torch.Tensor, place: Place) -> _Leaf:
        _check_tensor(tensor, place)
        plain = tensor.detach()
        if type(plain) is not torch.Tensor:
            plain = plain.as_subclass(torch.Tensor)
        if plain.layout is torch.strided and (plain.is_conj() or plain.is_neg()):
            plain = plain.resolve_conj().resolve_neg()
        self.sources.append(plain)
        return _Leaf(len(self.sources) - 1)

    def _array(self, array: np.ndarray[Any, Any], place: Place) -> _Leaf:
        if isinstance(array, np.ma.MaskedArray):
            raise errors.StateError(
                f"{shown(place)} is a masked array, of which no tensor holds the mask: save its .data and its .mask"
            )
        try:
            # A tensor has no negative strides, and warns of memory that may not be written.
            tensor = torch.from_numpy(array if _is_tensor_like(array) else array.copy())
        except (TypeError, ValueError) as error:
            raise errors.StateError(f"{shown(place)} is an array of {array.dtype}, which no tensor holds") from error
        self.arrays.append(place)
        self.sources.append(tensor)
        return _Leaf(len(self.sources) - 1)


def filled(plan: Any, copies: Sequence[torch.Tensor]) -> Any:
    """The containers of a plan with tensors in the places of those that were taken out."""
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


def shown(place: Place) -> str:
    """A place, as the caller of ``save`` would write it: ``state`` is what was given to it."""
    below = place[1:] if place[:1] == ("state",) else place
    return "state" + "".join(f"[{part!r}]" for part in below)


def _flat_bytes(items: Collection[Any]) -> int | None:
    """About what primitives take in a file; None where there is something else, or a number that is too large."""
    kinds = set(map(type, items))
    if not kinds <= _PRIMITIVES:
        return None
    if int in kinds:
        numbers = items if kinds <= {int, bool} else [item for item in items if type(item) is int]
        if max(max(numbers).bit_length(), min(numbers).bit_length()) > _INT_BITS:
            return None
    texts = items if kinds <= {str, bytes} else [item for item in items if isinstance(item, (str, bytes))]
    return _PRIMITIVE_BYTES * len(items) + sum(map(len, texts))


def _metadata_of(state: OrderedDict[Any, Any], place: Place) -> dict[str, Any]:
    """The versions of its parts, which a module adds as an attribute; without them it loads what it takes for old."""
    metadata = vars(state).get("_metadata")
    if not isinstance(metadata, Mapping):
        return {}
    plan = Plan()
    plain = plan.visit(metadata, (*place, "_metadata"))
    if plan.sources:
        raise errors.StateError(f"{shown((*place, '_metadata'))} holds a tensor: only primitives can be in it")
    return {"_metadata": filled(plain, ())}


def _check_tensor(tensor: torch.Tensor, place: Place) -> None:
    """Refuse what has no values here, or none that could be loaded again."""
    if is_lazy(tensor):
        raise errors.StateError(f"{shown(place)} has no shape yet: let the module see a first batch before it is saved")
    if tensor.is_nested:
        raise errors.StateError(f"{shown(place)} is a nested tensor: save list(x.unbind()), and make it anew from that")
    if _is_wrapper(tensor):
        raise errors.StateError(
            f"{shown(place)} is a {type(tensor).__name__}, of which this process may hold a part: gather it first"
        )
    if tensor.device.type == "meta":
        raise errors.StateError(f"{shown(place)} is on the meta device: it has a shape and no values")
    if tensor.layout not in _LAYOUTS:
        raise errors.StateError(f"{shown(place)} has the layout {tensor.layout}: save x.to_dense()")
    if tensor.is_quantized and tensor.qscheme() not in _COPIED_SCHEMES:
        raise errors.StateError(
            f"{shown(place)} is quantized by {tensor.qscheme()}, which torch does not copy: save x.dequantize(), or "
            "what it was quantized from"
        )
    if not tensor.is_quantized and tensor.dtype not in _KEPT_TYPES and not _keeps(tensor.dtype):
        raise errors.StateError(
            f"{shown(place)} is of the type {tensor.dtype}, which this torch does not copy or save: save "
            f"x.view(torch.uint8), and make it anew with .view({tensor.dtype}) when it is restored"
        )


def _is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether it only looks like a tensor, as a DTensor does."""
    return bool(is_traceable_wrapper_subclass(tensor))


def _number(value: np.generic, place: Place) -> Any:
    """A number or a string of NumPy as Python's."""
    plain = value.item() if value.dtype.kind in _PLAIN_NUMPY_KINDS else value
    if type(plain) not in _PRIMITIVES:
        raise errors.StateError(
            f"{shown(place)} is a {_named(type(value))}, which no plain number holds: save a float, "
            "an int or a string made of it"
        )
    return plain


def _plain(value: Any, place: Place) -> Any:
    """A number or a string of some class of its own (an IntEnum, say) as what it is."""
    kind = next((kind for kind in (bool, int, float, complex, str, bytes) if isinstance(value, kind)), None)
    plain: Any = value if kind is None or type(value) is kind else kind(value)
    return _checked_int(plain, place) if kind is int else plain


def _checked_int(value: int, place: Place) -> int:
    if value.bit_length() > _INT_BITS:
        raise errors.StateError(
            f"{shown(place)} is a number of {value.bit_length()} bits, and torch.load takes {_INT_BITS}: save it as a "
            "string"
        )
    return value


def _is_tensor_like(array: np.ndarray[Any, Any]) -> bool:
    return array.flags.writeable and all(stride >= 0 for stride in array.strides)


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def _keeps(dtype: torch.dtype) -> bool:
    """Whether this torch copies tensors of a type, and saves and loads them: of the types below a byte, few."""
    file = io.BytesIO()
    try:
        torch.save(torch.empty(2, dtype=dtype, device="cpu").copy_(torch.empty(2, dtype=dtype, device="cpu")), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
    # What torch raises on its way for a type that it does not know; nothing of ours runs here.
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
