"""Reads a training table: CSV or JSON lines, column by column into arrays.

It reads what a device would accept as a number and nothing more, since a model must not learn from what its component will
reject: text is never turned into a number, and what is missing stays missing (NaN). It chooses nothing.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.workbench.training import TrainingError

FloatArray: TypeAlias = npt.NDArray[np.float64]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})
"""What tables write where there is no value, in lower case."""

_CHUNK = 20_000
_FIELD_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Table:
    """A table by columns.

    Attributes:
        rows: Number of rows, n.
        names: All columns in the file's order.
        numbers: The columns of numbers, shape (n,) each; NaN where a value is missing or not finite.
        texts: The columns that were asked for as text, n values each; "" where a value is missing.
        not_numbers: For each other column an example of what it holds.
    """

    rows: int
    names: tuple[str, ...]
    numbers: Mapping[str, FloatArray]
    texts: Mapping[str, Sequence[str]]
    not_numbers: Mapping[str, str]


@dataclass(slots=True)
class _Columns:
    """Columns as they grow, chunk by chunk."""

    as_text: frozenset[str]
    rows: int = 0
    names: dict[str, None] = field(default_factory=dict)
    numbers: dict[str, list[FloatArray]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    not_numbers: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, values: Sequence[Any], parse: Callable[[Sequence[Any]], FloatArray]) -> None:
        if name not in self.names:
            self.names[name] = None
            # A JSON line may bring a column that no line before it had.
            self.numbers[name] = [np.full(self.rows, np.nan)]
            self.texts[name] = [""] * self.rows
        if name in self.as_text:
            self.texts[name].extend(_text(value) for value in values)
        elif name not in self.not_numbers:
            try:
                self.numbers[name].append(_finite(parse(values)))
            except _NotANumberError as error:
                self.not_numbers[name] = str(error)
                del self.numbers[name]

    def table(self) -> Table:
        numbers = {
            name: np.concatenate(self.numbers[name])
            for name in self.names
            if name not in self.as_text and name not in self.not_numbers
        }
        return Table(
            rows=self.rows,
            names=tuple(self.names),
            numbers=numbers,
            texts={name: self.texts[name] for name in self.names if name in self.as_text},
            not_numbers=self.not_numbers,
        )


class _NotANumberError(Exception):
    pass


def read_table(path: Path, as_text: Collection[str] = ()) -> Table:
    """Read a table.

    A file whose first character is `{` is JSON lines; any other is CSV with a header, separated by commas, semicolons or
    tabs, whichever the header has most of.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        as_text: Columns to keep as text (label, group, time), where the file has them.

    Raises:
        TrainingError: The file cannot be read, or a line is not what it should be; the message names the line.
    """
    columns = _Columns(frozenset(as_text))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.read(1)
            while first and first.isspace():
                first = file.read(1)
            file.seek(0)
            if first == "{":
                _read_json_lines(file, columns)
            elif first == "[":
                raise TrainingError(f"{path} is a JSON array; JSON lines are wanted: an object on each line")
            else:
                _read_csv(file, columns)
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8 or JSON lines") from error
    except csv.Error as error:
        raise TrainingError(f"{path} is not CSV: {error}") from error
    if columns.rows == 0:
        raise TrainingError(f"{path} holds no rows")
    return columns.table()


def _read_csv(file: TextIO, columns: _Columns) -> None:
    csv.field_size_limit(_FIELD_LIMIT)
    header = file.readline()
    delimiter = max(",;\t", key=header.count)
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter)
    names = next(reader, [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TrainingError(f"the header names {twice[0]!r} twice")
    while rows := [row for row in itertools.islice(reader, _CHUNK) if row]:
        wrong = next((row for row in rows if len(row) != len(names)), None)
        if wrong is not None:
            raise TrainingError(
                f"around line {reader.line_num}: a row has {len(wrong)} values, the header {len(names)}: {wrong[:3]}"
            )
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            columns.add(name, values, _numbers_of_text)
        columns.rows += len(rows)


def _read_json_lines(file: TextIO, columns: _Columns) -> None:
    objects = _objects(file)
    while rows := list(itertools.islice(objects, _CHUNK)):
        for name in dict.fromkeys(itertools.chain(columns.names, *rows)):
            columns.add(name, [row.get(name) for row in rows], _numbers_of_json)
        columns.rows += len(rows)


def _objects(file: TextIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TrainingError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise TrainingError(f"line {number} is no JSON object")
        yield row


def _numbers_of_text(values: Sequence[str]) -> FloatArray:
    """Shape (n,); raises `_NotANumberError` with an example."""
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        return np.array([_number_of_text(value) for value in values], dtype=np.float64)


def _numbers_of_json(values: Sequence[Any]) -> FloatArray:
    """Shape (n,); raises `_NotANumberError` with an example."""
    return np.array([_number_of_json(value) for value in values], dtype=np.float64)


def _number_of_text(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        if text.strip().lower() in MISSING:
            return np.nan
        raise _NotANumberError(text.strip()[:40]) from None


def _number_of_json(value: Any) -> float:
    if value is None:
        return np.nan
    # A message's string or bool is rejected on the device, so it is no number here either.
    if type(value) not in (int, float):
        raise _NotANumberError(json.dumps(value)[:40])
    try:
        return float(value)
    except OverflowError:
        return np.nan


def _finite(values: FloatArray) -> FloatArray:
    values[~np.isfinite(values)] = np.nan
    return values


def _text(value: Any) -> str:
    if isinstance(value, str):
        text = value.strip()
        return "" if text.lower() in MISSING else text
    if value is None:
        return ""
    return json.dumps(value)
