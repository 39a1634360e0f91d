"""What tells one ``prepare`` from another, so that what one has made is never given out for what the other makes."""

from __future__ import annotations

import functools
import pickle
import types
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

_PLAIN = (str, bytes, int, float, complex, type(None), type(...))


def fingerprint(function: Callable[..., object]) -> str:
    """A digest of a function's code and of what it holds: defaults, closures, bound arguments, its object's state.

    Plain values and functions of its own module that it refers to by name count too. It is the same in every process.

    Raises:
        ValueError: it holds something that nothing tells from its like.
    """
    hasher = blake2b(digest_size=8)
    for part in _labelled(function, set()):
        hasher.update(f"{len(part)} {part}".encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()


def _labelled(value: object, seen: set[int]) -> Iterator[str]:
    yield type(value).__qualname__
    yield from _parts(value, seen)


def _each(values: Iterable[object], seen: set[int]) -> Iterator[str]:
    for value in values:
        yield from _labelled(value, seen)


@functools.singledispatch
def _parts(value: object, seen: set[int]) -> Iterator[str]:
    """An object: its class with what that defines itself, and its state."""
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    yield _name(type(value))
    yield from _each((part for part in vars(type(value)).values() if isinstance(part, types.FunctionType)), seen)
    try:
        yield pickle.dumps(value, protocol=4).hex()
    except Exception as error:
        message = (
            f"prepare= holds a {_name(type(value))}, which cannot be told from another one ({error}); "
            "say which it is by prepare_version=…, and change that when prepare changes"
        )
        raise ValueError(message) from error


@_parts.register
def _parts_of_function(value: types.FunctionType, seen: set[int]) -> Iterator[str]:
    yield _name(value)
    if id(value) in seen:
        return  # it refers to itself
    seen.add(id(value))
    yield from _each([value.__code__, value.__defaults__, value.__kwdefaults__], seen)
    yield from _each(map(_content, value.__closure__ or ()), seen)
    yield from _each(_globals_used(value), seen)


@_parts.register
def _parts_of_code(value: types.CodeType, seen: set[int]) -> Iterator[str]:
    yield value.co_code.hex()
    yield repr(value.co_names)
    yield from _each(value.co_consts, seen)


@_parts.register
def _parts_of_partial(value: functools.partial, seen: set[int]) -> Iterator[str]:  # type: ignore[type-arg]  # of any
    yield from _each([value.func, value.args, value.keywords], seen)


@_parts.register
def _parts_of_method(value: types.MethodType, seen: set[int]) -> Iterator[str]:
    yield from _each([value.__func__, value.__self__], seen)


@_parts.register
def _parts_of_builtin(value: types.BuiltinFunctionType, seen: set[int]) -> Iterator[str]:
    yield _name(value)
    yield from _labelled(value.__self__, seen)


@_parts.register
def _parts_of_class(value: type, _seen: set[int]) -> Iterator[str]:
    yield _name(value)


@_parts.register
def _parts_of_module(value: types.ModuleType, _seen: set[int]) -> Iterator[str]:
    yield value.__name__


@_parts.register(tuple)
@_parts.register(list)
def _parts_of_sequence(value: tuple[object, ...] | list[object], seen: set[int]) -> Iterator[str]:
    yield from _each(value, seen)


@_parts.register
def _parts_of_mapping(value: dict, seen: set[int]) -> Iterator[str]:  # type: ignore[type-arg]  # of any
    for key, item in value.items():
        yield from _each([key, item], seen)


@_parts.register(set)
@_parts.register(frozenset)
def _parts_of_set(value: set[object] | frozenset[object], seen: set[int]) -> Iterator[str]:
    # Their order differs from process to process.
    yield from sorted("\0".join(_labelled(item, seen)) for item in value)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not yet filled


def _globals_used(function: types.FunctionType) -> Iterator[object]:
    """What the code refers to by name, where that can change without a change of a library."""
    for name in _names_used(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, (*_PLAIN, tuple, frozenset)) or (
            isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        ):
            yield name
            yield value


def _names_used(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_used(constant)


def _name(value: object) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
