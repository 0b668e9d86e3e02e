"""Rows of CSV, piece by piece.

The standard library's reader says what a row is. Where pyarrow is installed and a stretch of a file is as plain as most are,
Arrow reads it, and the result is the same; it never decides what a cell means.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_inference.offline.arrow import plain_rows
from ml_inference.offline.chunks import Broken, Chunk, Dialect, Part, TableError
from ml_inference.offline.files import encoding_of, head_of, stretches, text_lines
from ml_inference.offline.layout import Layout, csv_reader, layout_of

LARGE_BYTES = 2_000_000
"""Smaller files are read before Arrow is imported."""


def csv_chunks(path: Path, dialect: Dialect, part: Part, rows: int) -> Iterator[Chunk]:
    """Read a file of CSV.

    Raises:
        TableError: It cannot be read, or is no CSV; the message names the line.
    """
    encoding = encoding_of(path, head_of(path), dialect)
    layout = layout_of(path, dialect, encoding)
    if encoding != "utf-8-sig" or len(layout.delimiter) != 1 or layout.delimiter == " " or not _is_large(path, part):
        yield from _read(path, dialect, part, rows, layout, encoding)
        return
    empty = True
    for stretch in stretches(path, part, 0 if part.start else layout.skipped):
        columns = plain_rows(stretch, layout.names, layout.delimiter)
        whole = Part(stretch.part.start, part.end, stretch.part.lines)
        if columns is None and not stretch.cuts_rows:
            yield from _read(path, dialect, whole, rows, layout, encoding)
            return
        if columns is None:
            yield from _read(path, dialect, stretch.part, rows, layout, encoding)
        else:
            count = len(next(iter(columns.values())))
            for at in range(0, count, rows):
                piece = slice(at, min(at + rows, count))
                lines = range(stretch.part.lines + 1 + piece.start, stretch.part.lines + 1 + piece.stop)
                cells = {name: column.part(piece) for name, column in columns.items()}
                yield Chunk(path, cells, lines, text=True, units=layout.units)
        empty = False
    if empty and part.start == 0:
        yield _chunk(path, layout, [], [], [])


def _is_large(path: Path, part: Part) -> bool:
    return (path.stat().st_size if part.end is None else part.end) - part.start >= LARGE_BYTES


def _read(  # noqa: PLR0917
    path: Path, dialect: Dialect, part: Part, rows: int, layout: Layout, encoding: str
) -> Iterator[Chunk]:
    """With the standard library's reader."""
    lines = text_lines(path, dialect, part, encoding)
    first = part.lines
    if part.start == 0:
        lines, first = itertools.islice(lines, layout.skipped, None), layout.skipped
    found: list[list[str]] = []
    numbers: list[int] = []
    broken: list[Broken] = []
    for line, row in _rows(path, lines, layout, first):
        if isinstance(row, Broken):
            broken.append(row)
            continue
        found.append(row)
        numbers.append(line)
        if len(found) >= rows:
            yield _chunk(path, layout, found, numbers, broken)
            found, numbers, broken = [], [], []
    if found or broken or part.start == 0:
        yield _chunk(path, layout, found, numbers, broken)


def _rows(path: Path, lines: Iterator[str], layout: Layout, first: int) -> Iterator[tuple[int, list[str] | Broken]]:
    """Rows of as many cells as there are columns, each after the line where it begins; blank ones and comments left out."""
    width = len(layout.names)
    reader = csv_reader(lines, layout.delimiter)
    line = first + 1
    try:
        for row in reader:
            begins, line = line, first + reader.line_num + 1
            if len(row) == width:
                # Mostly the first cell says already that the row is not blank.
                if row[0] or any(cell.strip() for cell in row):
                    yield begins, row
            elif row and not row[0].lstrip().startswith("#"):
                cells = row[:width] + [""] * (width - len(row))
                if any(cell.strip() for cell in row[width:]):
                    yield begins, Broken(begins, f"a row has {len(row)} cells, the header {width}", row)
                elif any(cell.strip() for cell in cells):
                    yield begins, cells
    except csv.Error as error:
        text = str(error)
        if "unexpected end" in text or "field larger" in text:
            text = "a quote opens here and does not close"
        raise TableError(f"{path}: line {line}: is not CSV: {text}") from error


def _chunk(
    path: Path, layout: Layout, rows: Sequence[Sequence[str]], numbers: list[int], broken: Sequence[Broken]
) -> Chunk:
    columns: Sequence[Sequence[str]] = list(zip(*rows, strict=True)) if rows else [()] * len(layout.names)
    return Chunk(
        path, dict(zip(layout.names, columns, strict=True)), numbers, text=True, units=layout.units, broken=broken
    )
