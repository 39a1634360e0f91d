"""A fingerprint of a ``prepare`` function, so that no cached result of another function is taken for its own."""

from __future__ import annotations

import functools
import pickle
import types
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_PLAIN = (str, bytes, int, float, complex, type(None), type(...))


class _Raw(str):
    """A part of a digest that is used as it is; any other text is a value."""

    __slots__ = ()


def fingerprint(function: Callable[..., object]) -> str:
    """A digest of a function's code and of what it holds: defaults, closures, bound arguments, its object's state.

    Plain values and functions of its own module that it refers to by name count too. It is the same in every process.
    An object with a ``prepare_version`` says itself what distinguishes it.

    Raises:
        ValueError: it holds something that cannot be told from another of its kind.
    """
    hasher = blake2b(digest_size=8)
    for part in _labelled(function, set()):
        hasher.update(f"{len(part)} {part}".encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()


def _labelled(value: object, seen: set[int]) -> Iterator[str]:
    """The type of a value, and what distinguishes it from others of the type."""
    if isinstance(value, _Raw):
        yield value
        return
    yield type(value).__qualname__
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, (set, frozenset)):  # their order differs from process to process
        yield from sorted("\0".join(_labelled(item, seen)) for item in value)
    elif isinstance(value, types.FunctionType) and id(value) in seen:
        yield _name(value)  # it refers to itself
    else:
        seen.add(id(value))
        parts = next((parts for kind, parts in _PARTS.items() if isinstance(value, kind)), _parts_of_object)
        for part in parts(value):
            yield from _labelled(part, seen)


def _parts_of_object(value: object) -> Iterable[object]:
    """Its class, and its own ``prepare_version``; without one, what its class defines itself, and its state."""
    if (version := getattr(value, "prepare_version", None)) is not None:
        return [_Raw(_name(type(value))), str(version)]
    try:
        state = pickle.dumps(value, protocol=4).hex()
    except Exception as error:
        raise ValueError(
            f"prepare= holds a {_name(type(value))}, which cannot be told from another one ({error}); "
            "say which it is by prepare_version=…, and change that when prepare changes"
        ) from error
    functions = (part for part in vars(type(value)).values() if isinstance(part, types.FunctionType))
    return [_Raw(_name(type(value))), *functions, _Raw(state)]


def _parts_of_function(value: types.FunctionType) -> Iterable[object]:
    held = [value.__code__, value.__defaults__, value.__kwdefaults__, *map(_content, value.__closure__ or ())]
    return [_Raw(_name(value)), *held, *_globals_used(value)]


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not yet filled


def _globals_used(function: types.FunctionType) -> Iterator[object]:
    """The objects to which the code refers by name, unless only a change of a library can change them."""
    for name in _names_used(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, (*_PLAIN, tuple, frozenset)) or (
            isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        ):
            yield from (name, value)


def _names_used(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_used(constant)


def _name(value: object) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


_PARTS: dict[type, Callable[[Any], Iterable[object]]] = {
    types.FunctionType: _parts_of_function,
    types.CodeType: lambda code: [_Raw(code.co_code.hex()), _Raw(code.co_names), *code.co_consts],
    functools.partial: lambda bound: [bound.func, bound.args, bound.keywords],
    types.MethodType: lambda method: [method.__func__, method.__self__],
    types.BuiltinFunctionType: lambda function: [_Raw(_name(function)), function.__self__],
    types.ModuleType: lambda module: [_Raw(module.__name__)],
    type: lambda kind: [_Raw(_name(kind))],
    tuple: iter,
    list: iter,
    dict: lambda mapping: chain.from_iterable(mapping.items()),
}
