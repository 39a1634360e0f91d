"""Files that list samples, split files and CSV files: all that one lists is there, or an error names the line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.datasets.choosing import Choice, Opened, found
from ai4os_data.datasets.labels import understood
from ai4os_data.datasets.lost import meant
from ai4os_data.datasets.splits import csv_advice, parse_split
from ai4os_data.datasets.tables import ColumnTarget, Table, columns_of, targets_of
from ai4os_data.datasets.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.datasets.labels import Written


class Listed(NamedTuple):
    """What a file lists.

    Attributes:
        file: what errors call it.
        keys: what it lists.
        lines: where each stands.
        how: what its lines look like.
        labels: what stands beside each key, if it may be what was meant.
    """

    file: str
    keys: list[str]
    lines: Sequence[int]
    how: str
    labels: Sequence[Written] | None = None

    def choice(self, targets: Targets | None, opened: Opened) -> Choice:
        """The listed samples.

        Raises:
            NotFoundError: some are not there.
        """
        try:
            return Choice(found(self.keys, opened.listed, opened.location), targets)
        except errors.NotFoundError as error:
            first = next((number for number, key in enumerate(self.keys) if not opened.is_key(key)), None)
            if first is None:
                raise
            label = self.labels[first].text if self.labels is not None else None
            advice = meant(self.keys[first], opened.listed.keys, label)
            message = (
                f"{error}. {self.file!r} lists them, the first in line {self.lines[first]}"
                f"{f': {advice}' if advice else ''}. Paths are below the location, such as {opened.listed.keys[0]!r}; "
                f"{self.how}"
            )
            raise errors.NotFoundError(message) from error


def split_file(file: str | os.PathLike[str], opened: Opened) -> Choice:
    """The samples that a split file lists."""
    name = os.fspath(file)
    keys, labels = parse_split(opened.text_of(file), name, opened.is_key)
    values, classes = understood(labels, name, opened.location, opened.wanted)
    how = "its lines are 'path label', the label after the last space"
    if any("," in label.text or ";" in label.text for label in labels):
        how = f"{how}; {csv_advice(name)}"
    listed = Listed(name, keys, [label.line for label in labels], how, labels)
    return listed.choice(Targets(values, classes=classes), opened)


class Columns(NamedTuple):
    """The columns of a CSV file that say what is a sample: the arguments of ``from_csv``."""

    key: str
    target: ColumnTarget = None
    prefix: str = ""
    suffix: str = ""
    delimiter: str | None = None
    names: Sequence[str] | None = None


def csv_file(file: str | os.PathLike[str], columns: Columns, opened: Opened) -> Choice:
    """The samples that a CSV file lists."""
    name = os.fspath(file)
    needed = columns_of(columns.key, columns.target)
    table = Table(opened.text_of(file), name, needed, columns.delimiter, columns.names)
    keys = table.keys(columns.key, opened.is_key, columns.prefix, columns.suffix)
    targets = targets_of(table, columns.target, keys, opened.location, opened.wanted)
    how = f"a path is prefix=, what is in the column {columns.key!r}, and suffix="
    return Listed(name, keys, table.lines, how).choice(targets, opened)
