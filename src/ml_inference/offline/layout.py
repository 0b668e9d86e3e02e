"""What the head of a CSV file says: its delimiter, the names of its columns, their units, and where the rows begin.

It reads a sample and judges it as a person would; where that is not clear, it asks.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_inference.offline.cells import NUMBER, has_decimal_comma
from ml_inference.offline.chunks import Dialect, Part, TableError
from ml_inference.offline.files import text_lines

_SAMPLE_LINES = 30

_MAX_UNIT = 16

_LOOKS_LIKE_TIME = re.compile(r"\d{4}[-/]\d\d[-/]\d\d|\d{1,2}[./]\d{1,2}[./]\d{4}|\d\d:\d\d")

_STATUS = re.compile(r"bad|error|fault|timeout|i/o|no data|n/?a|nan|null|none", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the head of a CSV file says.

    Attributes:
        delimiter: Between cells; " " for runs of blanks.
        names: Of the columns; "" for one that has none.
        units: By column.
        skipped: Lines at the beginning that are no rows.
    """

    delimiter: str
    names: tuple[str, ...]
    units: Mapping[str, str]
    skipped: int


def layout_of(path: Path, dialect: Dialect, encoding: str) -> Layout:
    """Find the header, the delimiter and the row of units.

    Raises:
        TableError: The file has no header, and none was given; or a column is named twice.
    """
    sample = list(itertools.islice(text_lines(path, dialect, Part(), encoding), _SAMPLE_LINES))
    start, comment, delimiter = _preamble(sample)
    if start == len(sample):
        raise TableError(
            f"{path}: has no header" + (f": its first {start} lines are blank or comments" if start else "")
        )
    delimiter = delimiter or _delimiter(sample[start:], dialect)
    table = _rows_of(path, sample[start:], delimiter, start)
    rest = [row for _, row in table[1:] if row]
    header = _header(table[0][1], rest)
    if dialect.columns != tuple(header) and _is_data(header, rest, dialect):
        names = _given_names(path, dialect, _trimmed(_split(comment, delimiter)), header, start + 1)
        require_distinct(path, names)
        return Layout(delimiter, tuple(names), {}, start)
    if dialect.columns not in (None, tuple(header)):
        raise TableError(f"{path}: line {start + 1} names the columns ({', '.join(header[:4])}); leave --columns out")
    if not any(header):
        raise TableError(f"{path}: has no header: line {start + 1} is empty")
    require_distinct(path, header)
    if rest and _is_units(rest, dialect):
        units = {name: cell.strip().strip("[]()") for name, cell in zip(header, rest[0], strict=False) if cell.strip()}
        return Layout(delimiter, tuple(header), units, next(end for end, row in table[1:] if row))
    return Layout(delimiter, tuple(header), {}, table[0][0])


def _header(row: Sequence[str], rest: Sequence[Sequence[str]]) -> list[str]:
    """Names without the empty ones at the end, below which nothing stands."""
    names = _trimmed(row)
    used = max((len(_trimmed(cells)) for cells in rest), default=0)
    return [*names, *[""] * (min(used, len(row)) - len(names))]


def _preamble(sample: Sequence[str]) -> tuple[int, str, str]:
    """How many lines are blank or comments, the last comment, and the delimiter that Excel writes as `sep=;`."""
    comment, delimiter = "", ""
    for number, line in enumerate(sample):
        text = line.strip(" \t\r\n\x0b\x0c")
        if text.startswith("#"):
            comment = text.lstrip("#")
        elif text.startswith("sep="):
            delimiter = text[4:] or "\t"
        elif text:
            return number, comment, delimiter
    return len(sample), comment, delimiter


def _given_names(
    path: Path, dialect: Dialect, comment: Sequence[str], first: Sequence[str], line: int
) -> Sequence[str]:
    """The names of the columns of a file without a header: those given, or those in the comment above the first row."""
    names = dialect.columns or (comment if len(comment) == len(first) else None)
    if names is None:
        raise TableError(
            f"{path}: line {line} holds values ({', '.join(first[:4])}) where the names of columns should stand: "
            f"name its {len(first)} columns with --columns A,B,..."
        )
    if len(names) != len(first):
        raise TableError(f"{path}: --columns names {len(names)} columns, line {line} has {len(first)} cells")
    return names


def _rows_of(path: Path, lines: Sequence[str], delimiter: str, before: int) -> list[tuple[int, list[str]]]:
    """The rows of a sample, each after the number of lines up to its end; a comment is an empty row."""
    reader = csv_reader(lines, delimiter)
    table: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            cells = [] if row and table and row[0].lstrip().startswith("#") and len(row) != len(table[0][1]) else row
            table.append((before + reader.line_num, cells))
    except csv.Error as error:
        # The sample may end within a quoted cell.
        if not table:
            raise TableError(f"{path}: line {before + 1}: is not CSV: {error}") from error
    return table


def _delimiter(lines: Sequence[str], dialect: Dialect) -> str:
    """The delimiter by which the rows are alike, of those by which most cells are numbers."""
    best, delimiter = (0.0, 0.0, 0), ","
    for candidate in (",", ";", "\t", "|", " "):
        rows = []
        try:
            for row in csv_reader(lines, candidate):
                if row and (cells := _trimmed(row)):
                    rows.append(cells)  # noqa: PERF401 - an error within keeps what was read
        except csv.Error:
            pass
        if not rows or len(rows[0]) < 2 or (candidate == " " and len(rows) < 2):  # noqa: PLR2004
            continue
        width = len(rows[0])
        data = [cell for row in rows[1:] for cell in row if cell.strip()]
        alike = sum(abs(len(row) - width) <= (candidate != " ") for row in rows) / len(rows)
        numeric = sum(_is_value(cell, dialect) or has_decimal_comma(cell) for cell in data) / max(1, len(data))
        if candidate == " " and (alike < 1.0 or numeric < 0.5):  # noqa: PLR2004 - names may hold blanks
            continue
        if (score := (round(alike, 1), round(numeric, 1), width)) > best:
            best, delimiter = score, candidate
    return delimiter


def _trimmed(row: Sequence[str]) -> list[str]:
    """Cells without the blanks around them and without the empty ones at the end."""
    cells = [cell.strip() for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv_reader([line.strip()], delimiter), [])


def _is_value(cell: str, dialect: Dialect) -> bool:
    """Whether a cell is a number or a time, which no column is named after."""
    text = cell.strip()
    if dialect.decimal == ",":
        text = text.replace(",", ".")
    return NUMBER.fullmatch(text) is not None or _LOOKS_LIKE_TIME.match(text) is not None


def _is_data(header: Sequence[str], rest: Sequence[Sequence[str]], dialect: Dialect) -> bool:
    """Whether the first row is like the others: values stand where values stand below it."""
    values = [_is_value(cell, dialect) for cell in header]
    if not any(values) or dialect.columns is not None:
        return any(values)
    whole = [cell for cell, value in zip(header, values, strict=True) if value]
    if len(whole) > 1 and all(cell.isdigit() for cell in whole):
        first = int(whole[0])
        if first in (0, 1) and [int(cell) for cell in whole] == list(range(first, first + len(whole))):
            return False  # columns that are called 0, 1, 2
    named = [cell for cell, value in zip(header, values, strict=True) if not value and cell]
    if not named:
        return True
    below = [[_is_value(cell, dialect) for cell in _padded(row, len(header))] for row in rest[:10]]
    if not below:
        return False
    same = sum(row == values for row in below)
    return 2 * same > len(below)


def _padded(row: Sequence[str], width: int) -> list[str]:
    return [*row[:width], *[""] * (width - len(row))]


def _is_units(rest: Sequence[Sequence[str]], dialect: Dialect) -> bool:
    """Whether the row below the header holds units: short words where the next row holds numbers, and no number."""
    if len(rest) < 2:  # noqa: PLR2004 - units alone are no table
        return False
    units, row = rest[0], rest[1]
    if any(_is_value(cell, dialect) or _STATUS.match(cell.strip()) or len(cell.strip()) > _MAX_UNIT for cell in units):
        return False
    below = [unit.strip() for unit, cell in zip(units, row, strict=False) if _is_value(cell, dialect)]
    above = [
        unit.strip() for unit, cell in zip(units, row, strict=False) if not _is_value(cell, dialect) and cell.strip()
    ]
    # Where the next row has words as well, a row of words may be a row like any other.
    return any(below) and not any(unit in {cell.strip() for cell in row} for unit in above if unit)


def require_distinct(path: Path, names: Sequence[str]) -> None:
    """Refuse a table that names a column twice."""
    twice = next((name for name in names if name and list(names).count(name) > 1), None)
    if twice is not None:
        raise TableError(f"{path}: names the column {twice!r} twice")


def csv_reader(lines: Iterator[str] | Sequence[str], delimiter: str) -> Any:
    """The standard library's reader, as every file of CSV is read."""
    return csv.reader(iter(lines), delimiter=delimiter, skipinitialspace=True, strict=True)
