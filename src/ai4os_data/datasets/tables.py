"""CSV files of keys and labels: one row a sample, columns by name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.datasets.labels import WrittenLabel, check_present, typed, understood
from ai4os_data.datasets.splits import as_key
from ai4os_data.datasets.targets import Targets
from ai4os_data.errors import EmptyDatasetError, LocationError
from ai4os_data.locations import mistaken_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.datasets.classes import GivenClasses

ColumnTarget = str | Sequence[str] | Callable[[Mapping[str, str]], Any] | None

_DELIMITERS = (",", ";", "\t", "|")
_EXCEL = re.compile(r'("?)sep=(.)\1(?:\r\n|\r|\n)', re.IGNORECASE)  # a first line by which Excel tells the delimiter


class Row(NamedTuple):
    """A row: the number of its line, and the text of each column."""

    line: int
    fields: list[str]


class CsvTable:
    """The rows of a CSV file.

    Args:
        text: of the file.
        file: what errors call it.
        wanted: the names of the columns that must be there.
        delimiter: between columns; None for the one of ``,``, ``;``, tab and ``|`` that makes these columns.
        columns: their names, if the file has no line with them.

    Raises:
        LocationError: a column is missing, or a row has too few or too many.
        EmptyDatasetError: there is no row.
    """

    def __init__(
        self,
        text: str,
        file: str,
        wanted: Sequence[str],
        delimiter: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.file = file
        if (excel := _EXCEL.match(text)) is not None:
            delimiter = delimiter or excel[2]
        self._skipped = 0 if excel is None else 1
        text = text if excel is None else text[excel.end() :]
        delimiters = _DELIMITERS if delimiter is None else (delimiter,)
        with _long_fields(len(text)):
            self._read(text, delimiters, wanted, columns)

    def _read(self, text: str, delimiters: Sequence[str], wanted: Sequence[str], columns: Sequence[str] | None) -> None:
        heads = self._heads(text, delimiters)
        if not any(heads.values()):
            raise EmptyDatasetError(f"{self.file} is empty; it should have a line for each sample")
        likely = max(heads, key=lambda option: (_fits(heads[option], wanted, columns), len(heads[option])))
        self.columns = list(columns) if columns is not None else heads[likely]
        self._check_columns(wanted, len(heads[likely]), likely)
        self.rows = [self._fitted(row) for row in self._rows(text, likely)][0 if columns is not None else 1 :]
        if not self.rows:
            raise EmptyDatasetError(f"{self.file}: there is no row below the line with the columns")

    def keys(self, column: str, is_key: Callable[[str], bool], prefix: str = "", suffix: str = "") -> list[str]:
        """The key in each row.

        Args:
            column: the column that has them.
            is_key: whether there is a file of this key.
            prefix: what comes before them.
            suffix: what comes after them.

        Raises:
            LocationError: there is none in one.
        """
        labels = self.labels(column)
        for label in labels:
            if not label.text:
                raise LocationError(f"{self.file}, line {label.line}: there is nothing in the column {column!r}")
        return [as_key(f"{prefix}{label.text.removeprefix('./')}{suffix}", is_key) for label in labels]

    def labels(self, column: str) -> list[WrittenLabel]:
        """The texts of a column."""
        number = self.columns.index(column)
        return [WrittenLabel(row.line, row.fields[number]) for row in self.rows]

    def mappings(self) -> Iterator[dict[str, str]]:
        """Each row as a mapping from column to text.

        Raises:
            LocationError: two columns have the same name.
        """
        for name in filter(None, self.columns):
            self._check_once(name)
        for row in self.rows:
            yield dict(zip(self.columns, row.fields, strict=True))

    # --- reading

    def _heads(self, text: str, delimiters: Sequence[str]) -> dict[str, list[str]]:
        """The first row, as each delimiter makes it; a wrong delimiter may lead to quotes in the middle of a field."""
        heads: dict[str, list[str]] = {}
        failure: LocationError | None = None
        for delimiter in delimiters:
            try:
                heads[delimiter] = next(self._rows(text, delimiter), Row(0, [])).fields
            except LocationError as error:
                failure = error
        if not heads and failure is not None:
            raise failure
        return heads

    def _rows(self, text: str, delimiter: str) -> Iterator[Row]:
        """The rows, without empty ones."""
        # Strict: a quote that is never closed would swallow the rest of the file.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        line = self._skipped + 1
        while True:
            try:
                fields = [field.strip() for field in next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                message = f"{self.file}, line {line}: {error}; is a quote missing, or one too many?"
                raise LocationError(message) from error
            if any(fields):
                yield Row(line, fields)
            line = self._skipped + reader.line_num + 1

    def _fitted(self, row: Row) -> Row:
        """A row with a field for each column; empty ones after the last do not matter."""
        count = len(self.columns)
        fields = row.fields
        while len(fields) > count and not fields[-1]:
            fields = fields[:-1]
        if len(fields) != count:
            raise LocationError(
                f"{self.file}, line {row.line}: {len(fields)} value{'s' * (len(fields) != 1)} for the {count} columns "
                f"{', '.join(map(repr, self.columns))}; a value with a delimiter in it stands in quotes"
            )
        return Row(row.line, fields)

    def _check_once(self, name: str) -> None:
        if self.columns.count(name) > 1:
            raise LocationError(f"{self.file}: the column {name!r} is there twice; rename one of them")

    def _check_columns(self, wanted: Sequence[str], found: int, delimiter: str) -> None:
        for name in wanted:
            if name in self.columns:
                self._check_once(name)
                continue
            meant = mistaken_for(name, self.columns)
            raise LocationError(
                f"{self.file} has no column {name!r}"
                + (f" (did you mean {meant[0]!r}?)" if meant else "")
                + f"; its {found} columns, with {delimiter!r} between them, are {', '.join(map(repr, self.columns))}. "
                "Without a line of names in the file, give columns=[…]; delimiter= sets what separates them"
            )


@contextmanager
def _long_fields(length: int) -> Iterator[None]:
    """Let a field be as long as the file: the module csv takes 131,072 characters, and a mask may have more."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, length))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _fits(head: Sequence[str], wanted: Sequence[str], columns: Sequence[str] | None) -> bool:
    """Whether a first line has the wanted columns."""
    return len(head) == len(columns) if columns is not None else set(wanted) <= set(head)


def targets_of(table: CsvTable, target: ColumnTarget, keys: Sequence[str], wanted: GivenClasses) -> Targets | None:
    """The labels that a ``target=`` argument means for the rows of a table.

    Raises:
        LocationError: a label is missing, numbers and names are mixed, or one is none of the given classes.
        EmptyClassError: a given class has no row.
    """
    if isinstance(target, str):
        values, classes = understood(table.labels(target), table.file, wanted)
        return Targets(values, classes=classes)
    if callable(target):
        return Targets.of_values([target(row) for row in table.mappings()], keys, wanted)
    if wanted.classes is not None:
        raise ValueError("classes= and class_to_idx= say what the labels of one target= column mean")
    if target is None:
        return None
    columns = [table.labels(column) for column in target]
    for labels in columns:
        check_present(labels, table.file)
    return Targets(list(zip(*(typed(labels, table.file) for labels in columns), strict=True)))


def columns_of(key: Any, target: Any) -> list[str]:
    """The columns that these arguments name.

    Raises:
        TypeError: they are no names.
    """
    targets = [] if target is None or callable(target) else [target] if isinstance(target, str) else list(target)
    for name in (key, *targets):
        if not isinstance(name, str):
            message = f"key and target name columns, not {name!r}; columns=[…] gives names where the file has none"
            raise TypeError(message)
    return list(dict.fromkeys([key, *targets]))
