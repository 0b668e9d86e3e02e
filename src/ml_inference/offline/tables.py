"""Reads tables of readings: CSV, JSON lines or Parquet, one file or many, plain or gzip.

The one reader of every command, so that a file means the same to all of them. It yields bounded pieces, never a table as a
whole, and judges nothing: what a cell should be is for those who read it. Rules that a file breaks are errors with file and
line; a row that breaks them alone is handed on as broken, and its neighbours are read.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import mmap
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from ml_inference.limits import MAX_FLOAT32

Document: TypeAlias = dict[str, Any]
Float64Array: TypeAlias = npt.NDArray[np.float64]

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is not read into memory whole: the file is something else than a table."""
CHUNK_ROWS = 20_000

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "-"})
"""What stands in a column of numbers where there is none, in lower case. In a column of text only an empty cell is missing."""
TEXT_COLUMNS = frozenset({"equipment_id", "correlation_id", "timestamp", "sDateTime", "timeInSeconds"})
"""Columns whose cells stay text: a machine called 007 is not the number 7, and a time has its own rules."""
SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
"""Names of files that are taken from a folder, with .gz behind them, too."""

_HEAD_BYTES = 65_536
_JSON_BYTES = 4_096
_PARQUET = b"PAR1"
_SAMPLE_LINES = 30
_MAX_UNIT = 16
_PLAIN = "0123456789+-.eE"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_LOOKS_LIKE_TIME = re.compile(r"\d{4}[-/]\d\d[-/]\d\d|\d{1,2}[./]\d{1,2}[./]\d{4}|\d\d:\d\d")
_JSON = re.compile(r'\s*(?:\{\s*(?:["}]|$)|\[\s*(?:[\[{"\]0-9-]|$))')
_STATUS = re.compile(r"bad|error|fault|timeout|i/o|no data|n/?a|nan|null|none", re.IGNORECASE)
_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook: save the sheet as CSV",
    b"BZh": "compressed by bzip2: unpack it, or use gzip",
    b"\xfd7zXZ": "compressed by xz: unpack it, or use gzip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"\x89HDF": "an HDF5 file: save the table as CSV or Parquet",
}


class TableError(Exception):
    """A table that cannot be read."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a table is written, as far as the file does not say.

    Attributes:
        encoding: Python's name of it; None for UTF-8, or UTF-16 where the file's byte order mark says so.
        decimal: What stands before the decimals of a number in CSV, "." or ",".
        columns: Names of the columns of a file without a header, in its order.
        missing: By column ("" for all): numbers that stand for a missing value.
        file_column: Name of a column to add, with each row's file; None for none.
    """

    encoding: str | None = None
    decimal: str = "."
    columns: tuple[str, ...] | None = None
    missing: Mapping[str, frozenset[float]] = field(default_factory=dict)
    file_column: str | None = None


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


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that is none.

    Attributes:
        line: Where it begins.
        reason: What is wrong with it.
        received: What stands there.
    """

    line: int
    reason: str
    received: Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one file.

    Attributes:
        file: The file.
        columns: By name, n cells each. In CSV a cell is text, and may have blanks around it; else it is a JSON value. "" and
            None are missing.
        lines: Where each of the n rows begins; in Parquet the number of the row.
        text: Whether numbers stand there as text (CSV).
        units: Units by column, from the row below the header.
        broken: Rows between these that are none.
    """

    file: Path
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    text: bool
    units: Mapping[str, str] = field(default_factory=dict)
    broken: Sequence[Broken] = ()


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column as numbers.

    Attributes:
        values: Shape (n,), NaN where there is none.
        texts: By position, what stands there that is neither a number nor missing.
    """

    values: Float64Array
    texts: Mapping[int, str]


def table_files(paths: Sequence[Path]) -> list[Path]:
    """The files of a table: those that are named, and those in folders that are named, by name (2.csv before 10.csv).

    Raises:
        TableError: There is none.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        held = [
            file
            for file in path.rglob("*")
            if file.is_file()
            and file.name.lower().removesuffix(".gz").endswith(SUFFIXES)
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        if not held:
            raise TableError(f"{path}: holds no table (files that end in {', '.join(SUFFIXES)}, or these with .gz)")
        files += sorted(held, key=lambda file: _natural(str(file.relative_to(path))))
    return files


def is_json_lines(path: Path, dialect: Dialect | None = None) -> bool:
    """Whether a table holds JSON lines rather than CSV or Parquet: by its first characters.

    Raises:
        TableError: It cannot be read.
    """
    head = _head(path)
    if head.startswith(_PARQUET):
        return False
    encoding = _encoding(path, head, dialect or Dialect())
    return _JSON.match(head[:_JSON_BYTES].decode(encoding, "ignore")) is not None


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
        with _guard(file):
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
            with _guard(file):
                for number, line in _json_lines(file, dialect, part or Part()):
                    yield file, number, line
            continue
        for number, chunk in enumerate(read_chunks([file], dialect, part=part, rows=1_000)):
            if number == 0:
                refuse_decimal_commas(chunk, numbers - text, dialect)
            yield from _documents(chunk, dialect, (TEXT_COLUMNS - numbers) | text)


def numbers_of(chunk: Chunk, name: str, dialect: Dialect) -> Numbers:
    """A column of a chunk as numbers.

    A number is what JSON or a plain decimal says: `2026_01`, `inf` and `1,234` are text.

    Args:
        chunk: The piece.
        name: The column.
        dialect: How the table is written.
    """
    cells = chunk.columns[name]
    found = _of_text(cells, dialect.decimal) if chunk.text else _of_json(cells)
    gone = dialect.missing.get("", frozenset()) | dialect.missing.get(name, frozenset())
    if gone:
        found.values[np.isin(found.values, list(gone))] = np.nan
    return found


def texts_of(chunk: Chunk, name: str) -> list[str]:
    """A column of a chunk as text, without the blanks around it; "" where it is missing."""
    cells = chunk.columns[name]
    if chunk.text:
        return [cell.strip() for cell in cells]
    return [
        cell.strip() if isinstance(cell, str) else "" if cell is None else json.dumps(cell, default=str)
        for cell in cells
    ]


def refuse_decimal_commas(chunk: Chunk, names: Iterable[str], dialect: Dialect) -> None:
    """Refuse a table whose numbers have decimal commas, unless it is read so.

    Args:
        chunk: Its beginning.
        names: Columns that should hold numbers.
        dialect: How the table is read.

    Raises:
        TableError: At least half of what a column holds are such numbers; the message says how to read them.
    """
    wanted = frozenset(names)
    for name in chunk.columns if chunk.text and dialect.decimal == "." else ():
        cells = [cell for cell in chunk.columns[name] if name in wanted and cell.strip()]
        commas = [cell for cell in cells if has_decimal_comma(cell)]
        if commas and 2 * len(commas) >= len(cells):
            line = chunk.lines[chunk.columns[name].index(commas[0])]
            raise TableError(
                f"{chunk.file}: line {line}: column {name!r} holds {commas[0].strip()}, a number with a decimal comma: "
                "read it with --decimal ,"
            )


def has_decimal_comma(cell: str) -> bool:
    """Whether a cell looks like a number with a decimal comma, as spreadsheets write them in many countries."""
    return _DECIMAL_COMMA.fullmatch(cell.strip()) is not None


def _documents(chunk: Chunk, dialect: Dialect, text: frozenset[str]) -> Iterator[tuple[Path, int, Document | Broken]]:
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
        if not chunk.text:
            for position in numbers.texts:
                values[position] = chunk.columns[name][position]
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


class _guard:  # noqa: N801 - a context manager
    """Turns the errors of reading a file into `TableError`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise TableError(f"{self._file}: {error.strerror or error}") from error
        if isinstance(error, (EOFError, zlib.error)):
            raise TableError(f"{self._file}: its gzip data is damaged or cut short ({error})") from error


def _of_text(cells: Sequence[str], decimal: str) -> Numbers:
    written = cells
    if decimal == ",":
        # With a decimal comma, a point would separate thousands: what it is depends on the writer, so it is no number.
        cells = ["?" if "." in cell else cell.replace(",", ".") for cell in cells]
    if not "".join(cells).strip(_PLAIN):
        try:
            values = np.array([cell or "nan" for cell in cells], dtype=np.float64)
        except ValueError:
            pass
        else:
            if not (np.abs(values) > MAX_FLOAT32).any():
                return Numbers(values, {})
    values = np.full(len(cells), np.nan)
    texts: dict[int, str] = {}
    for position, cell in enumerate(cells):
        text = cell.strip()
        number = float(text) if _NUMBER.fullmatch(text) else None
        if number is not None and abs(number) <= MAX_FLOAT32:
            values[position] = number
        elif text.lower() not in MISSING:
            texts[position] = written[position].strip()
    return Numbers(values, texts)


def _of_json(cells: Sequence[Any]) -> Numbers:
    values = np.full(len(cells), np.nan)
    texts: dict[int, str] = {}
    for position, cell in enumerate(cells):
        # A message's string or bool is rejected on the device, so it is no number here either.
        if type(cell) in (int, float) and abs(cell) <= MAX_FLOAT32:
            values[position] = cell
        elif cell is not None and cell != "":
            texts[position] = json.dumps(cell, default=str)
    return Numbers(values, texts)


def _file_chunks(file: Path, dialect: Dialect, part: Part, rows: int) -> Iterator[Chunk]:
    head = _head(file)
    if head.startswith(_PARQUET):
        yield from _parquet_chunks(file, rows)
    elif is_json_lines(file, dialect):
        yield from _json_chunks(file, dialect, part, rows)
    else:
        yield from _csv_chunks(file, dialect, part, rows)


def _head(path: Path) -> bytes:
    """The first bytes of a file, unpacked."""
    with _guard(path):
        if path.is_dir():
            raise TableError(f"{path}: is a folder")
        with _open(path) as file:
            head = file.read(_HEAD_BYTES)
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise TableError(f"{path}: is {what}")
    return head


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.read(2) == b"\x1f\x8b":
        file.close()
        return gzip.open(path)  # type: ignore[return-value]
    file.seek(0)
    return file


class _Window(io.RawIOBase):
    """A file from one position to another."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._left = None if part.end is None else part.end - part.start
        if part.start:
            file.seek(part.start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer) if self._left is None else min(len(buffer), self._left)
        data = self._file.read(size)
        buffer[: len(data)] = data
        if self._left is not None:
            self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _encoding(path: Path, head: bytes, dialect: Dialect) -> str:
    if dialect.encoding is not None:
        return "utf-8-sig" if codecs.lookup(dialect.encoding).name == "utf-8" else dialect.encoding
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head[:512]:
        raise TableError(
            f"{path}: is no text in UTF-8 (it holds null bytes): name its encoding, such as --encoding utf-16-le"
        )
    return "utf-8-sig"


def _lines(path: Path, dialect: Dialect, part: Part, encoding: str) -> Iterator[str]:
    """Lines of text with their ends, LF, CR or CRLF."""
    window = io.BufferedReader(_Window(_open(path), part), _HEAD_BYTES)
    number = part.lines
    with io.TextIOWrapper(
        window, encoding="utf-8" if part.start and encoding == "utf-8-sig" else encoding, newline=""
    ) as text:
        try:
            while line := text.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) >= MAX_LINE_BYTES:
                    raise TableError(f"{path}: line {number} is longer than {MAX_LINE_BYTES} bytes; is this a table?")
                yield line
        except UnicodeError as error:
            name = dialect.encoding or "UTF-8"
            hint = (
                "give another --encoding"
                if dialect.encoding
                else "name its encoding, such as --encoding cp949 or latin-1"
            )
            where = _undecodable(path, part, encoding) or number + 1
            raise TableError(f"{path}: line {where}: is not {name}; {hint}") from error


def _undecodable(path: Path, part: Part, encoding: str) -> int | None:
    """The line that cannot be decoded: text is decoded in blocks, so the error itself does not know."""
    if "16" in encoding or "32" in encoding:
        return None
    with _open(path) as file:
        file.seek(part.start)
        for number, line in enumerate(file, start=part.lines + 1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return number
    return None


@dataclass(frozen=True, slots=True)
class _Layout:
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


def _csv_chunks(path: Path, dialect: Dialect, part: Part, rows: int) -> Iterator[Chunk]:
    encoding = _encoding(path, _head(path), dialect)
    layout = _layout(path, dialect, encoding)
    lines = _lines(path, dialect, part, encoding)
    first = part.lines
    if part.start == 0:
        lines, first = itertools.islice(lines, layout.skipped, None), layout.skipped
    found: list[list[str]] = []
    numbers: list[int] = []
    broken: list[Broken] = []
    for line, row in _csv_rows(path, lines, layout, first):
        if isinstance(row, Broken):
            broken.append(row)
            continue
        found.append(row)
        numbers.append(line)
        if len(found) >= rows:
            yield _csv_chunk(path, layout, found, numbers, broken)
            found, numbers, broken = [], [], []
    if found or broken or part.start == 0:
        yield _csv_chunk(path, layout, found, numbers, broken)


def _csv_rows(
    path: Path, lines: Iterator[str], layout: _Layout, first: int
) -> Iterator[tuple[int, list[str] | Broken]]:
    """Rows of as many cells as there are columns, each after the line where it begins; blank ones and comments left out."""
    width = len(layout.names)
    reader = _reader(lines, layout.delimiter)
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


def _csv_chunk(
    path: Path, layout: _Layout, rows: Sequence[Sequence[str]], numbers: list[int], broken: Sequence[Broken]
) -> Chunk:
    columns: Sequence[Sequence[str]] = list(zip(*rows, strict=True)) if rows else [()] * len(layout.names)
    return Chunk(
        path, dict(zip(layout.names, columns, strict=True)), numbers, text=True, units=layout.units, broken=broken
    )


def _reader(lines: Iterator[str] | Sequence[str], delimiter: str) -> Any:
    return csv.reader(iter(lines), delimiter=delimiter, skipinitialspace=True, strict=True)


def _layout(path: Path, dialect: Dialect, encoding: str) -> _Layout:
    """Find the header, the delimiter and the row of units.

    Raises:
        TableError: The file has no header, and none was given; or a column is named twice.
    """
    sample = list(itertools.islice(_lines(path, dialect, Part(), encoding), _SAMPLE_LINES))
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
        _require_distinct(path, names)
        return _Layout(delimiter, tuple(names), {}, start)
    if dialect.columns not in (None, tuple(header)):
        raise TableError(f"{path}: line {start + 1} names the columns ({', '.join(header[:4])}); leave --columns out")
    if not any(header):
        raise TableError(f"{path}: has no header: line {start + 1} is empty")
    _require_distinct(path, header)
    if rest and _is_units(rest, dialect):
        units = {name: cell.strip().strip("[]()") for name, cell in zip(header, rest[0], strict=False) if cell.strip()}
        return _Layout(delimiter, tuple(header), units, next(end for end, row in table[1:] if row))
    return _Layout(delimiter, tuple(header), {}, table[0][0])


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
    reader = _reader(lines, delimiter)
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
            for row in _reader(lines, candidate):
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
    return next(_reader([line.strip()], delimiter), [])


def _is_value(cell: str, dialect: Dialect) -> bool:
    """Whether a cell is a number or a time, which no column is named after."""
    text = cell.strip()
    if dialect.decimal == ",":
        text = text.replace(",", ".")
    return _NUMBER.fullmatch(text) is not None or _LOOKS_LIKE_TIME.match(text) is not None


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


def _require_distinct(path: Path, names: Sequence[str]) -> None:
    twice = next((name for name in names if name and list(names).count(name) > 1), None)
    if twice is not None:
        raise TableError(f"{path}: names the column {twice!r} twice")


def _json_lines(path: Path, dialect: Dialect, part: Part) -> Iterator[tuple[int, bytes]]:
    """The lines of a table in JSON lines, each after its number from 1, blank ones left out."""
    encoding = _encoding(path, _head(path), dialect)
    lines: Iterator[bytes]
    if encoding == "utf-8-sig":
        lines = _bytes(path, part)
    else:
        lines = (line.encode() for line in _lines(path, dialect, part, encoding))
    for number, line in enumerate(lines, start=part.lines + 1):
        if stripped := line.strip():
            if number == 1 and stripped in (b"{", b"["):
                raise TableError(
                    f"{path}: is one JSON document over many lines; JSON lines are wanted: an object on each line"
                )
            yield number, stripped


def _bytes(path: Path, part: Part) -> Iterator[bytes]:
    with io.BufferedReader(_Window(_open(path), part), _HEAD_BYTES) as file:
        for number in itertools.count(part.lines + 1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise TableError(f"{path}: holds a line of more than {MAX_LINE_BYTES} bytes")
            yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _json_chunks(path: Path, dialect: Dialect, part: Part, rows: int) -> Iterator[Chunk]:
    found: list[Document] = []
    numbers: list[int] = []
    broken: list[Broken] = []
    for number, line in _json_lines(path, dialect, part):
        try:
            document = from_json(line, cache_strings="keys")
        except ValueError as error:
            broken.append(Broken(number, f"is not JSON: {error}", line))
            continue
        # As a message: one reading, or a batch of them.
        inner = document.get("readings") if isinstance(document, dict) else document
        for one in inner if isinstance(inner, list) else [document]:
            if isinstance(one, dict):
                found.append(one)
                numbers.append(number)
            else:
                broken.append(Broken(number, "is no JSON object", one))
        if len(found) >= rows:
            yield _json_chunk(path, found, numbers, broken)
            found, numbers, broken = [], [], []
    if found or broken:
        yield _json_chunk(path, found, numbers, broken)


def _json_chunk(path: Path, rows: Sequence[Document], numbers: list[int], broken: Sequence[Broken]) -> Chunk:
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return Chunk(path, {name: [row.get(name) for row in rows] for name in names}, numbers, text=False, broken=broken)


def _parquet_chunks(path: Path, rows: int) -> Iterator[Chunk]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise TableError(f"{path}: is Parquet, which needs pyarrow: pip install 'ml-inference[parquet]'") from error
    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows):
                names = [name.strip() for name in batch.schema.names]
                _require_distinct(path, names)
                columns = {name: _arrow_cells(column, pa) for name, column in zip(names, batch.columns, strict=True)}
                numbers = range(line + 1, line + 1 + batch.num_rows)
                line += batch.num_rows
                yield Chunk(path, columns, numbers, text=False)
    except pa.lib.ArrowException as error:
        raise TableError(f"{path}: is not sound Parquet: {str(error).splitlines()[0][:200]}") from error


def _arrow_cells(column: Any, pa: Any) -> list[Any]:
    """Cells as JSON would hold them; not-a-number is missing."""
    if pa.types.is_timestamp(column.type):
        # Python's standard library has no type for nanoseconds.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return [_plain_value(cell) for cell in column.to_pylist()]


def _plain_value(cell: Any) -> Any:
    if isinstance(cell, float):
        return None if cell != cell else cell  # noqa: PLR0124 - NaN
    if isinstance(cell, (datetime, date)):
        return cell.isoformat()
    return float(cell) if isinstance(cell, Decimal) else cell


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
    head = _head(path)
    encoding = (dialect or Dialect()).encoding or (
        "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    )
    json_lines = is_json_lines(path, dialect)
    with _guard(path):
        if count < 2 or path.stat().st_size == 0 or "16" in encoding or "32" in encoding or head.startswith(_PARQUET):  # noqa: PLR2004
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


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in a name by their value."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
