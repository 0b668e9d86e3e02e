"""Reads tables of readings: CSV, JSON lines or Parquet, one file or many, plain or gzip.

The one reader of every command, so that a file means the same to all of them. It yields bounded pieces, never a table as a
whole, and judges nothing: what a cell should be is for those who read it. Rules that a file breaks are errors with file and
line; a row that breaks them alone is handed on as broken, and its neighbours are read.
"""

from __future__ import annotations

import codecs
import itertools
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml_inference.offline.cells import numbers_of, refuse_decimal_commas, texts_of
from ml_inference.offline.chunks import Broken, Chunk, Dialect, Document, Part, TableError
from ml_inference.offline.csv_rows import csv_chunks
from ml_inference.offline.files import PARQUET, head_of, is_json_lines, reading
from ml_inference.offline.json_rows import json_chunks, json_lines
from ml_inference.offline.parquet_rows import parquet_chunks
from ml_inference.times import TIME_KEYS

CHUNK_ROWS = 20_000

TEXT_COLUMNS = frozenset({"equipment_id", "correlation_id", *TIME_KEYS})
"""Columns whose cells stay text: a machine called 007 is not the number 7, and a time has its own rules."""


def read_chunks(
    files: Sequence[Path], dialect: Dialect | None = None, *, part: Part | None = None, rows: int = CHUNK_ROWS
) -> Iterator[Chunk]:
    """Read a table piece by piece.

    Args:
        files: Its files, in order; see `table_files`.
        dialect: How they are written.
        part: What to read of the only file.
        rows: Most rows in a piece.

    Raises:
        TableError: A file cannot be read; the message names it, and the line.
    """
    dialect = dialect or Dialect()
    for file in files:
        with reading(file):
            for chunk in _file_chunks(file, dialect, part or Part(), rows):
                yield _with_file(chunk, dialect) if dialect.file_column else chunk


def read_documents(
    files: Sequence[Path],
    dialect: Dialect | None = None,
    *,
    numbers: frozenset[str] = frozenset(),
    text: frozenset[str] = frozenset(),
    part: Part | None = None,
) -> Iterator[tuple[Path, int, bytes | Document | Broken]]:
    """Read a table as the documents that a device would receive as messages.

    An empty cell is a key that is missing, and so is a number that stands for a missing value; a cell that is no number is
    text, for the validation of messages to refuse. A line of JSON comes as it is, unless numbers in it stand for missing ones.

    Args:
        files: As for `read_chunks`.
        dialect: How they are written.
        numbers: Columns that should hold numbers.
        text: Columns whose cells stay text, beside the message's own keys.
        part: What to read of the only file.

    Yields:
        The file, the line, and what stands there.

    Raises:
        TableError: A file cannot be read.
    """
    dialect = dialect or Dialect()
    for file in files:
        if not dialect.missing and not dialect.file_column and is_json_lines(file, dialect):
            with reading(file):
                for number, line in json_lines(file, dialect, part or Part()):
                    yield file, number, line
            continue
        for number, chunk in enumerate(read_chunks([file], dialect, part=part, rows=1_000)):
            if number == 0:
                refuse_decimal_commas(chunk, numbers - text, dialect)
            yield from documents_of(chunk, dialect, (TEXT_COLUMNS - numbers) | text)


def documents_of(chunk: Chunk, dialect: Dialect, text: frozenset[str]) -> Iterator[tuple[Path, int, Document | Broken]]:
    """The rows of a piece as documents; see `read_documents`.

    Args:
        chunk: The piece.
        dialect: How the table is written.
        text: Columns whose cells stay text.
    """
    columns: list[list[Any]] = []
    for name in chunk.columns:
        if name in text:
            columns.append(
                [cell or None for cell in texts_of(chunk, name)] if chunk.text else list(chunk.columns[name])
            )
            continue
        numbers = numbers_of(chunk, name, dialect)
        values: list[Any] = numbers.values.tolist()
        for position in np.flatnonzero(np.isnan(numbers.values)).tolist():
            values[position] = numbers.texts.get(position)
        if not chunk.text and numbers.texts:
            cells = list(chunk.columns[name])
            for position in numbers.texts:
                values[position] = cells[position]
        columns.append(values)
    broken = {row.line: row for row in chunk.broken}
    rows: Iterator[tuple[Any, ...]] = zip(*columns, strict=True) if columns else iter([()] * len(chunk.lines))
    for line, row in zip(chunk.lines, rows, strict=True):
        for before in [number for number in broken if number < line] if broken else ():
            yield chunk.file, before, broken.pop(before)
        yield chunk.file, line, {name: cell for name, cell in zip(chunk.columns, row, strict=True) if cell is not None}
    for line, left in broken.items():
        yield chunk.file, line, left


def _with_file(chunk: Chunk, dialect: Dialect) -> Chunk:
    name = dialect.file_column or ""
    if name in chunk.columns:
        raise TableError(f"{chunk.file}: has a column {name!r} already; give --file-column another name")
    column = [str(chunk.file)] * len(chunk.lines)
    return Chunk(chunk.file, {**chunk.columns, name: column}, chunk.lines, chunk.text, chunk.units, chunk.broken)


def _file_chunks(file: Path, dialect: Dialect, part: Part, rows: int) -> Iterator[Chunk]:
    head = head_of(file)
    if head.startswith(PARQUET):
        yield from parquet_chunks(file, rows)
    elif is_json_lines(file, dialect):
        yield from json_chunks(file, dialect, part, rows)
    else:
        yield from csv_chunks(file, dialect, part, rows)


def split_table(path: Path, count: int, dialect: Dialect | None = None) -> list[Part]:
    """Cut a table into parts of about equal size.

    Args:
        path: The table.
        count: Most parts. What cannot be cut at the end of any line stays whole: CSV with quotes, since a quoted cell can hold
            the end of a line; Parquet; what is packed, or in UTF-16.
        dialect: How it is written.

    Raises:
        TableError: It cannot be read.
    """
    head = head_of(path)
    encoding = (dialect or Dialect()).encoding or (
        "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    )
    json_lines = is_json_lines(path, dialect)
    with reading(path):
        if count < 2 or path.stat().st_size == 0 or "16" in encoding or "32" in encoding or head.startswith(PARQUET):  # noqa: PLR2004
            return [Part()]
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:2] == b"\x1f\x8b" or (not json_lines and (content.find(b'"') >= 0 or _lone_return(content))):
                return [Part()]
            cuts = [0]
            for number in range(1, count):
                newline = content.find(b"\n", max(len(content) * number // count, min(len(head), len(content) // 2)))
                if newline < 0 or newline + 1 == len(content):
                    break
                if newline + 1 > cuts[-1]:
                    cuts.append(newline + 1)
            lines = [0]
            for start, end in itertools.pairwise(cuts):
                lines.append(lines[-1] + content[start:end].count(b"\n"))
    ends: list[int | None] = [*cuts[1:], None]
    return [Part(*bounds) for bounds in zip(cuts, ends, lines, strict=True)]


def _lone_return(content: mmap.mmap) -> bool:
    """Whether a CR stands alone somewhere, which ends a line as well."""
    at = content.find(b"\r")
    while at >= 0:
        if content[at + 1 : at + 2] != b"\n":
            return True
        at = content.find(b"\r", at + 1)
    return False
