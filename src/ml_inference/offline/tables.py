"""Reads tables of readings: CSV with a header, or JSON lines.

It turns a table's rows into the documents that a device would receive as messages, and judges none of them: an empty
cell is a key that is missing, and a cell that is no number stays a string, for the validation of messages to refuse.
A table is never in memory as a whole, and can be read in parts, by several processes at once.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

Document: TypeAlias = dict[str, Any]

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is not read into memory whole: the file is something else than a table."""

_TEXT = frozenset({"equipment_id", "correlation_id"})
"""Columns whose cells stay strings: a machine called 7 is not the number 7."""
_HEAD_BYTES = 4_096


DECIMAL_POINT = "write numbers with a decimal point, not with a comma"
"""What to tell the user of a cell that `has_decimal_comma`; it is not read as a number, since 1,234 is a thousand to others."""

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_ROWS_LOOKED_AT = 100


class TableError(Exception):
    """A table that cannot be read."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run of whole lines of a file.

    Attributes:
        start: Position of its first byte.
        end: Position after its last byte; None for the end of the file.
        lines: Lines before it.
    """

    start: int = 0
    end: int | None = None
    lines: int = 0


def is_json_lines(path: Path) -> bool:
    """Whether a table holds JSON lines rather than CSV: by its first character.

    Raises:
        TableError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    return head[:1] in (b"{", b"[")


def split_table(path: Path, count: int) -> list[Part]:
    """Cut a table into parts of about equal size.

    Args:
        path: The table.
        count: Most parts. A CSV file with quotes stays whole, since a quoted cell can hold the end of a line.

    Raises:
        TableError: It cannot be read.
    """
    json_lines = is_json_lines(path)
    try:
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            return [Part()]
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not json_lines and content.find(b'"') >= 0:
                return [Part()]
            cuts = [0]
            for number in range(1, count):
                newline = content.find(b"\n", len(content) * number // count)
                if newline < 0 or newline + 1 == len(content):
                    break
                if newline + 1 > cuts[-1]:
                    cuts.append(newline + 1)
            lines = [0]
            for start, end in itertools.pairwise(cuts):
                lines.append(lines[-1] + content[start:end].count(b"\n"))
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    ends: list[int | None] = [*cuts[1:], None]
    return [Part(*bounds) for bounds in zip(cuts, ends, lines, strict=True)]


def read_json_lines(path: Path, part: Part | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a table in JSON lines, each after its number from 1, blank ones left out.

    Raises:
        TableError: It cannot be read, or a line is longer than `MAX_LINE_BYTES`.
    """
    for number, line in _lines(path, part or Part()):
        if stripped := line.strip():
            yield number, stripped


def read_csv(path: Path, part: Part | None = None) -> Iterator[tuple[int, Document | list[str]]]:
    """The rows of a table in CSV as documents, each after the number of its line from 1.

    A row with more cells than there are columns comes as its cells.

    Args:
        path: The first row names the columns; separated by commas, or by semicolons or tabs if the header says so.
        part: What to read of it; the header is known in each part.

    Raises:
        TableError: It cannot be read, has no header, or names a column twice.
    """
    part = part or Part()
    header = next(_lines(path, Part()), (0, b""))[1]
    try:
        delimiter = max(",;\t", key=header.decode().count)
        columns = [name.strip() for name in next(csv.reader([header.decode()], delimiter=delimiter, strict=True), [])]
        if not any(columns):
            raise TableError(f"{path}: has no header")
        if len(set(columns)) < len(columns):
            twice = next(name for name in columns if columns.count(name) > 1)
            raise TableError(f"{path}: names the column {twice!r} twice")
        convert = [_text if name in _TEXT else _number_or_text for name in columns]
        rows = csv.reader((line.decode() for _, line in _lines(path, part)), delimiter=delimiter, strict=True)
        if part.start == 0:
            next(rows)
        for row in rows:
            if len(row) > len(columns):
                yield part.lines + rows.line_num, row
            elif row:
                cells = zip(columns, convert, row, strict=False)
                yield part.lines + rows.line_num, {name: change(cell) for name, change, cell in cells if cell}
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path}: is not CSV in UTF-8: {error}") from error


def has_decimal_comma(cell: str) -> bool:
    """Whether a cell looks like a number with a decimal comma, as spreadsheets write them in many countries."""
    return _DECIMAL_COMMA.fullmatch(cell.strip()) is not None


def decimal_hint(path: Path) -> str:
    """What to append to an error about a table in CSV whose first rows hold numbers with a decimal comma; "" for others.

    Raises:
        TableError: See `read_csv`.
    """
    if is_json_lines(path):
        return ""
    rows = (row for _, row in itertools.islice(read_csv(path), _ROWS_LOOKED_AT))
    cells = itertools.chain.from_iterable(row if isinstance(row, list) else row.values() for row in rows)
    found = any(isinstance(cell, str) and has_decimal_comma(cell) for cell in cells)
    return f": {DECIMAL_POINT}" if found else ""


def _lines(path: Path, part: Part) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            # Some programs put a byte order mark first.
            if part.start == 0 and file.read(3) != codecs.BOM_UTF8:
                file.seek(0)
            elif part.start:
                file.seek(part.start)
            yield from enumerate(_until(file, part.end, path), start=part.lines + 1)
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error


def _until(file: BinaryIO, end: int | None, path: Path) -> Iterator[bytes]:
    position = file.tell()
    while end is None or position < end:
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise TableError(f"{path}: holds a line of more than {MAX_LINE_BYTES} bytes")
        position += len(line)
        yield line


def _text(cell: str) -> str:
    return cell


def _number_or_text(cell: str) -> float | str:
    # `float` also takes underscores, which no table means.
    if "_" in cell:
        return cell
    try:
        return float(cell)
    except ValueError:
        return cell
