"""Why samples cannot be collated into a batch: which of them differ, and in which part."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

_TEXT = (str, bytes)


class _Difference(NamedTuple):
    """A difference between two samples: the part, as Python writes it, what each has there, and what to do."""

    part: str
    one: str
    other: str
    advice: str = "make them alike"


def explained(samples: Sequence[Any], names: Sequence[str]) -> str | None:
    """Why ``default_collate`` cannot make a batch of samples; None if no reason is seen.

    Args:
        samples: of one batch.
        names: what each is called.
    """
    for sample, name in zip(samples, names, strict=True):
        for part, value in _parts(sample):
            if (what := _foreign(value)) is not None:
                return (
                    f"{name} comes{_in_part(part, sample)} as {what}, of which no batch can be made: let "
                    f"{_function(part, sample)}=… return a tensor or a number, or give collate_fn="
                )
    for sample, name in zip(samples, names, strict=True):
        difference = _difference(samples[0], sample)
        if difference is not None:
            part, one, other, advice = difference
            return (
                f"{names[0]} and {name} differ{_in_part(part, sample)}: {one} and {other}; {advice} in "
                f"{_function(part, sample)}=…, or give collate_fn="
            )
    return None


def _parts(sample: Any, part: str = "") -> Iterator[tuple[str, Any]]:
    """The parts of a sample, each with its path in it."""
    if isinstance(sample, Mapping):
        for key, value in sample.items():
            yield from _parts(value, f"{part}[{key!r}]")
    elif _is_sequence(sample):
        for number, value in enumerate(sample):
            yield from _parts(value, f"{part}[{number}]")
    else:
        yield part, sample


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, _TEXT)


def _foreign(value: Any) -> str | None:
    """The words for a value that ``default_collate`` does not take; None if it takes it."""
    if isinstance(value, (torch.Tensor, int, float, np.number, np.bool_, *_TEXT)):
        return None
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}" if value.dtype.kind not in "biufc" else None
    if type(value).__module__.startswith("PIL."):
        return f"a PIL image (mode {value.mode}, {value.size[0]} x {value.size[1]})"
    return "None" if value is None else f"an object of {type(value).__module__}.{type(value).__qualname__}"


def _difference(one: Any, other: Any, part: str = "") -> _Difference | None:
    if isinstance(one, (torch.Tensor, np.ndarray)) and isinstance(other, (torch.Tensor, np.ndarray)):
        if tuple(one.shape) != tuple(other.shape):
            return _Difference(part, str(tuple(one.shape)), str(tuple(other.shape)), "resize them")
        if isinstance(one, torch.Tensor) != isinstance(other, torch.Tensor):
            return _Difference(part, _kind_of_array(one), _kind_of_array(other))
        return None if one.dtype == other.dtype else _Difference(part, str(one.dtype), str(other.dtype))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return _Difference(part, str(sorted(map(str, one))), str(sorted(map(str, other))))
        return _first_difference([(one[key], other[key], f"{part}[{key!r}]") for key in one])
    if _is_sequence(one) and _is_sequence(other):
        if len(one) != len(other):
            return _Difference(part, f"{len(one)} elements", f"{len(other)} elements")
        pairs = zip(one, other, strict=True)
        return _first_difference([(a, b, f"{part}[{number}]") for number, (a, b) in enumerate(pairs)])
    kinds = _kind(one), _kind(other)
    return None if kinds[0] == kinds[1] else _Difference(part, *kinds)


def _first_difference(pairs: Sequence[tuple[Any, Any, str]]) -> _Difference | None:
    return next((found for one, other, part in pairs if (found := _difference(one, other, part)) is not None), None)


def _kind(value: Any) -> str:
    return "a number" if isinstance(value, (numbers.Number, np.number, np.bool_)) else f"a {type(value).__name__}"


def _kind_of_array(value: Any) -> str:
    return "a tensor" if isinstance(value, torch.Tensor) else "an array of numpy"


def _in_part(part: str, sample: Any) -> str:
    """The words for a part of a sample; empty for the whole, and for the ``x`` of ``(x, y)``."""
    return "" if part in {"", "[0]"} and not (part and _length(sample) != 2) else f" in sample{part}"


def _function(part: str, sample: Any) -> str:
    """The argument whose function made this part."""
    return "target_transform" if part.startswith("[1]") and _length(sample) == 2 else "transform"


def _length(sample: Any) -> int:
    return len(sample) if _is_sequence(sample) else 0
