"""Samples from a split file or a CSV file: each file that it lists is there, or an error names the line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.datasets.choosing import Catalog, Choice, found
from ai4os_data.datasets.labels import understood
from ai4os_data.datasets.splits import csv_advice, parse_split
from ai4os_data.datasets.tables import ColumnTarget, CsvTable, columns_of, targets_of
from ai4os_data.datasets.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.datasets.labels import WrittenLabel


class Listed(NamedTuple):
    """What a file lists.

    Attributes:
        file: what errors call it.
        keys: what it lists.
        lines: the line of each key.
        how: what its lines look like.
        labels: the text beside each key, if that text may have been meant as the key.
    """

    file: str
    keys: list[str]
    lines: Sequence[int]
    how: str
    labels: Sequence[WrittenLabel] | None = None

    def choice(self, targets: Targets | None, catalog: Catalog) -> Choice:
        """The listed samples.

        Raises:
            NotFoundError: some are not there.
        """
        try:
            return Choice(found(self.keys, catalog.listed, catalog.wanted.location), targets)
        except errors.NotFoundError as error:
            first = next((number for number, key in enumerate(self.keys) if not catalog.is_key(key)), None)
            if first is None:
                raise
            label = self.labels[first].text if self.labels is not None else None
            advice = _meant(self.keys[first], catalog.listed.keys, label)
            raise errors.NotFoundError(
                f"{error}. {self.file!r} lists them, the first in line {self.lines[first]}"
                f"{f': {advice}' if advice else ''}. Paths are below the location, such as {catalog.listed.keys[0]!r}; "
                f"{self.how}"
            ) from error


def split_file(file: str | os.PathLike[str], catalog: Catalog) -> Choice:
    """The samples that a split file lists."""
    name = os.fspath(file)
    keys, labels = parse_split(catalog.text_of(file), name, catalog.is_key)
    values, classes = understood(labels, name, catalog.wanted)
    how = "its lines are 'path label', the label after the last space"
    if any("," in label.text or ";" in label.text for label in labels):
        how = f"{how}; {csv_advice(name)}"
    listed = Listed(name, keys, [label.line for label in labels], how, labels)
    return listed.choice(Targets(values, classes=classes), catalog)


class Columns(NamedTuple):
    """The meaning of a CSV file's columns, as the arguments of ``from_csv`` give it."""

    key: str
    target: ColumnTarget
    prefix: str
    suffix: str


def csv_file(
    file: str | os.PathLike[str],
    says: Columns,
    delimiter: str | None,
    columns: Sequence[str] | None,
    catalog: Catalog,
) -> Choice:
    """The samples that a CSV file lists."""
    name = os.fspath(file)
    table = CsvTable(catalog.text_of(file), name, columns_of(says.key, says.target), delimiter, columns)
    keys = table.keys(says.key, catalog.is_key, says.prefix, says.suffix)
    how = f"a path is prefix=, what is in the column {says.key!r}, and suffix="
    listed = Listed(name, keys, [row.line for row in table.rows], how)
    return listed.choice(targets_of(table, says.target, keys, catalog.wanted), catalog)


def _meant(key: str, keys: Sequence[str], label: str | None = None) -> str | None:
    """What to write instead of a key that is not there; None if no key is like it.

    Args:
        key: the key.
        keys: those that there are.
        label: what was written as its label.
    """
    known = set(keys)
    first = key.split(None, 1)[:1]
    if label is not None and label in known:
        return f"{label!r} stands where the label belongs: the path comes first"
    if first != [key] and not known.isdisjoint(first):
        return f"{first[0]!r} is there: a line has one label, and a label with blanks stands in quotes or after a tab"
    if (shorter := _without_folders(key, known)) is not None:
        return f"{shorter!r} is there: the folders before it are too many"
    return next((words for other in keys if (words := _difference(key, other)) is not None), None)


def _without_folders(key: str, known: set[str]) -> str | None:
    """The key that is the end of a path, if there is one."""
    parts = key.split("/")
    return next((end for begin in range(1, len(parts)) if (end := "/".join(parts[begin:])) in known), None)


def _difference(key: str, other: str) -> str | None:
    """The words for a small difference between a missing key and an existing one; None if they differ in more."""
    if other.casefold() == key.casefold():
        return f"{other!r} is there: upper and lower case differ"
    if other == key.strip("\"'"):
        return f"{other!r} is there: quotes are closed before the label"
    before, found, after = f"/{other}".rpartition(f"/{key}")
    if found and (not after or (after.startswith(".") and "/" not in after)):
        lacks = ["its folder"] * bool(before) + ["its suffix"] * bool(after)
        adds = [f"prefix={before[1:] + '/'!r} before it"] * bool(before) + [f"suffix={after!r} after it"] * bool(after)
        return f"{other!r} is there: the path lacks {' and '.join(lacks)}; from_csv puts {' and '.join(adds)}"
    if key in {other.replace("/", ""), other.replace(".", "")}:
        return f"{other!r} is there: a prefix ends with '/', and a suffix begins with '.'"
    return None
