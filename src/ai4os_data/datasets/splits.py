"""Split files: lines such as ``Class/some image.jpg 0``, a path and its label."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from ai4os_data.datasets.labels import WrittenLabel
from ai4os_data.errors import EmptyDatasetError, LocationError

if TYPE_CHECKING:
    from collections.abc import Callable

_QUOTED_KEY = re.compile(r"""(?:"((?:[^"]|"")*)"|'([^']*)')\s+(\S.*)""", re.DOTALL)
_QUOTED_LABEL = re.compile(r"""(\S.*?)\s+(?:"((?:[^"]|"")*)"|'([^']*)')""", re.DOTALL)
_ODD = re.compile(r"\\|//|/\.{1,2}(?:/|$)")
_COMMENT = re.compile(r"\s#\s.*", re.DOTALL)


def parse_split(text: str, file: str, is_key: Callable[[str], bool]) -> tuple[list[str], list[WrittenLabel]]:
    """Keys and labels from lines such as ``Class/some image.jpg 0``.

    The label is what follows the last tab, else the last space. Path or label may stand in quotes. A line that begins
    with ``#``, and what comes after `` # ``, is a comment.

    Args:
        text: of the file.
        file: what errors call it.
        is_key: whether there is a file of this key.

    Raises:
        LocationError: a line has no label.
        EmptyDatasetError: there is no line.
    """
    keys: list[str] = []
    labels: list[WrittenLabel] = []
    # Not splitlines: it would break names at characters such as U+2028.
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not line.strip():
            continue
        is_comment = line.lstrip().startswith("#")
        parts = _parts(line.strip())
        key = as_key(parts[0].strip(), is_key) if parts is not None else ""
        if is_comment and not is_key(key):
            continue
        where = f"{file}, line {number}"
        if is_comment:
            message = f"{where}: {line!r} is a comment, but there is such a file; write './#…' if it is meant"
            raise LocationError(message)
        if parts is None or not parts[0] or (parts[0].endswith((",", ";")) and not is_key(key)):
            raise LocationError(f"{where}: {line!r} is not 'path label'; {_advice(line, file)}")
        if _are_numbers(parts[1]):
            message = f"{where}: {parts[1]!r} is more than one label; from_csv(…, target=[…]) takes several columns"
            raise LocationError(message)
        keys.append(key)
        labels.append(WrittenLabel(number, parts[1]))
    if not keys:
        raise EmptyDatasetError(f"{file}: no line says 'path label'")
    return keys, labels


def as_key(path: str, is_key: Callable[[str], bool]) -> str:
    """The key that a path below the location means, as Windows may have written it, or with ``./``, ``..`` and ``//``.

    Args:
        path: as it was written.
        is_key: whether there is a file of this key; a path that is one means it.
    """
    if _ODD.search(f"/{path}") is None or is_key(path):
        return path
    return posixpath.normpath(path.replace("\\", "/"))


def csv_advice(file: str) -> str:
    """The advice for a CSV file."""
    return f"if this is CSV, StorageDataset.from_csv(location, {file!r}, key=…, target=…) reads it"


def _advice(line: str, file: str) -> str:
    if _COMMENT.search(line):
        return "what comes after ' # ' is a comment; put a path with ' # ' in it in quotes"
    if any(separator in line for separator in ",;\t|"):
        return csv_advice(file)
    return "for files without labels use StorageDataset.from_keys(location, keys)"


def _parts(line: str) -> tuple[str, str] | None:
    """The path and the label of a line; None if there are not both."""
    if (quoted := _QUOTED_KEY.fullmatch(line)) is not None:
        doubled, single, label = quoted.groups()
        return _plain(doubled, single), _unquoted(_COMMENT.sub("", label).strip())
    line = _COMMENT.sub("", line).rstrip()
    if "\t" in line:
        path, _, label = line.rpartition("\t")
        return path, _unquoted(label.strip())
    if (quoted := _QUOTED_LABEL.fullmatch(line)) is not None:
        path, doubled, single = quoted.groups()
        return path, _plain(doubled, single)
    parts = line.rsplit(None, 1)
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _unquoted(text: str) -> str:
    quoted = _QUOTED_LABEL.fullmatch(f"label {text}")
    return text if quoted is None else _plain(quoted[2], quoted[3])


def _plain(doubled: str | None, single: str | None) -> str:
    """The text in one of two kinds of quotes."""
    return single or "" if doubled is None else doubled.replace('""', '"')


def _are_numbers(label: str) -> bool:
    """Whether a label is several numbers, as in ``3 4``."""
    return re.fullmatch(r"[+-]?[\d.]+(?:\s+[+-]?[\d.]+)+", label, re.ASCII) is not None
