"""Labels written in a text: all integers, or all numbers, or all names of classes; never a mixture."""

from __future__ import annotations

import codecs
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.errors import LocationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.datasets.classes import Classes, GivenClasses

_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# 1,5 and 1.234,5 and -2,5e3; in 1,234.5 the comma groups digits.
_WITH_COMMA = re.compile(r"[+-]?[0-9]{0,3}(?:[0-9]*|(?:[. '][0-9]{3})+),[0-9]+(?:[eE][+-]?[0-9]+)?")
_WITH_COMMAS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]*")
_INTEGERS, _NUMBERS, _NAMES = "an integer", "a number", "a name"


class WrittenLabel(NamedTuple):
    """A label as it is written in a file: the number of its line, and the text."""

    line: int
    text: str


def understood(labels: Sequence[WrittenLabel], file: str, wanted: GivenClasses) -> tuple[Sequence[Any], Classes | None]:
    """The labels that texts mean, and the classes if they are names.

    If all texts are names of given classes, they mean these. If all are integers, they mean these integers, or the
    numbers of given classes. If all are numbers, they mean floats. Otherwise all are names of classes, numbered in
    sorted order.

    Args:
        labels: one for each sample.
        file: the file that has them.
        wanted: what the user says of the classes.

    Raises:
        LocationError: a label is missing, numbers and names are mixed, or one is none of the given classes.
        EmptyClassError: a given class has no sample.
    """

    def where(sample: int) -> str:
        return f"{file}, line {labels[sample].line}"

    check_present(labels, file)
    texts = [label.text for label in labels]
    given = wanted.classes
    if given is not None and all(given.spelt(text) in given.numbers for text in texts):
        return wanted.numbered(texts, where)
    kinds = set(map(_kind, texts))
    if given is not None and kinds != {_INTEGERS}:
        return wanted.numbered(texts, where)  # the error names what is no class
    values = typed(labels, file)
    if kinds == {_INTEGERS}:
        return values, wanted.checked(values, where)
    return (values, None) if kinds <= {_INTEGERS, _NUMBERS} else wanted.numbered(texts, where)


def typed(labels: Sequence[WrittenLabel], file: str) -> list[Any]:
    """Labels as integers, as floats, or as they are.

    Raises:
        LocationError: some are numbers, and some are not.
    """
    kinds = [_kind(label.text) for label in labels]
    if _NAMES in kinds:
        for label in labels:
            if (plain := _with_point(label.text)) is not None:
                raise LocationError(
                    f"{file}, line {label.line}: is the label {label.text!r} a number? Write it with a point, "
                    f"{plain!r}; if it is the name of a class, name all of them with classes="
                )
        if set(kinds) != {_NAMES}:
            raise LocationError(_mixture(labels, kinds, file))
        return [label.text for label in labels]
    return [int(label.text) if set(kinds) == {_INTEGERS} else float(label.text) for label in labels]


def check_present(labels: Sequence[WrittenLabel], file: str) -> None:
    """Check that no label is empty.

    Raises:
        LocationError: one is.
    """
    empty = [label.line for label in labels if not label.text]
    if empty:
        more = f", and in {len(empty) - 1} more lines" if len(empty) > 1 else ""
        raise LocationError(f"{file}, line {empty[0]}: the label is empty{more}; write one, or leave the line out")


def as_text(content: bytes, file: str) -> str:
    """The text of a file that people write: UTF-8, or UTF-16 with the mark that Windows puts first.

    Raises:
        LocationError: it is neither.
    """
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{file}: byte {error.start:,} is not {'UTF-16' if is_wide else 'UTF-8'}; save the file as UTF-8"
        raise LocationError(message) from error
    if "\0" in text:
        raise LocationError(
            f"{file}: there is a zero byte in it, as in UTF-16 without its mark, in UTF-32, and in what is no text; "
            "save the file as UTF-8"
        )
    return text


def _with_point(text: str) -> str | None:
    """A number that is written with a comma, as Python writes it; None if the text is no such number."""
    if _WITH_COMMA.fullmatch(text):
        return re.sub(r"[. ']", "", text).replace(",", ".")
    return text.replace(",", "") if _WITH_COMMAS.fullmatch(text) else None


def _kind(text: str) -> str:
    if _INTEGER.fullmatch(text):
        return _INTEGERS
    return _NUMBERS if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else _NAMES


def _mixture(labels: Sequence[WrittenLabel], kinds: Sequence[str], file: str) -> str:
    """The error's words about mixed numbers and names, with the line of the rarer kind."""
    names = [label for label, kind in zip(labels, kinds, strict=True) if kind == _NAMES]
    numbers = [label for label, kind in zip(labels, kinds, strict=True) if kind != _NAMES]
    (odd, odd_kind), (usual, usual_kind) = sorted(
        [(names, "no finite number"), (numbers, "a number")], key=lambda pair: len(pair[0])
    )
    return (
        f"{file}, line {odd[0].line}: the label {odd[0].text!r} is {odd_kind}, while {usual[0].text!r} in line "
        f"{usual[0].line} is {usual_kind}. Labels are all integers, all numbers, or all names of classes; if they are "
        "names, name all of them with classes=; if the line is a header, remove it"
    )
