"""Reads tables of readings: CSV with a header, or JSON lines.

It turns a table's rows into the documents that a device would receive as messages, and judges none of them: an empty
cell is a key that is missing, and a cell that is no number stays a string, for the validation of messages to refuse.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is not read into memory whole: the file is something else than a table."""

_TEXT = frozenset({"equipment_id", "correlation_id"})
"""Columns whose cells stay strings: a machine called 7 is not the number 7."""


class TableError(Exception):
    """A table that cannot be read."""


def is_json_lines(path: Path) -> bool:
    """Whether a table holds JSON lines rather than CSV: by its first character.

    Raises:
        TableError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4_096).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    return head[:1] in (b"{", b"[")


def read_json_lines(path: Path) -> Iterator[bytes]:
    """The lines of a table in JSON lines, blank ones left out.

    Raises:
        TableError: It cannot be read, or a line is longer than `MAX_LINE_BYTES`.
    """
    try:
        with path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # the byte order mark that some programs put first
                file.seek(0)
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise TableError(f"{path}: holds a line of more than {MAX_LINE_BYTES} bytes")
                if stripped := line.strip():
                    yield stripped
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error


def read_csv(path: Path) -> Iterator[Document | list[str]]:
    """The rows of a table in CSV, as documents; a row with more cells than there are columns comes as its cells.

    Args:
        path: The first row names the columns; separated by commas, or by semicolons or tabs if the header says so.

    Raises:
        TableError: It cannot be read, has no header, or names a column twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            columns = [name.strip() for name in next(rows, [])]
            if not any(columns):
                raise TableError(f"{path}: has no header")
            if len(set(columns)) < len(columns):
                twice = next(name for name in columns if columns.count(name) > 1)
                raise TableError(f"{path}: names the column {twice!r} twice")
            convert = [_text if name in _TEXT else _number_or_text for name in columns]
            for row in rows:
                if len(row) > len(columns):
                    yield row
                elif row:
                    cells = zip(columns, convert, row, strict=False)
                    yield {name: change(cell) for name, change, cell in cells if cell}
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path}: is not CSV in UTF-8: {error}") from error
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error


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
