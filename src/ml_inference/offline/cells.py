"""Cells as numbers and as text: what counts as a number, and what stands where one is missing.

A number is what JSON or a plain decimal says, the same for every command. It never guesses at a decimal comma.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.limits import MAX_FLOAT32
from ml_inference.offline.chunks import Cells, Chunk, Column, Dialect, TableError

Float64Array: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.intp]

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "-"})
"""What stands in a column of numbers where there is none, in lower case. In a column of text only an empty cell is missing."""

_PLAIN = "0123456789+-.eE"

NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True, eq=False)
class Coded(Mapping[int, str]):
    """Texts by position, each different one held once.

    Attributes:
        positions: Ascending.
        codes: Of each position the index of its text.
        texts: The different ones; some may stand nowhere.
    """

    positions: Ints
    codes: Ints
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions.tolist())

    def __getitem__(self, position: int) -> str:
        at = int(np.searchsorted(self.positions, position))
        if at == len(self.positions) or self.positions[at] != position:
            raise KeyError(position)
        return self.texts[int(self.codes[at])]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column as numbers.

    Attributes:
        values: Shape (n,), NaN where there is none.
        texts: By position, what stands there that is neither a number nor missing.
    """

    values: Float64Array
    texts: Coded


def numbers_of(chunk: Chunk, name: str, dialect: Dialect) -> Numbers:
    """A column of a chunk as numbers.

    A number is what JSON or a plain decimal says: `2026_01`, `inf` and `1,234` are text.

    Args:
        chunk: The piece.
        name: The column.
        dialect: How the table is written.
    """
    cells = chunk.columns[name]
    values = None
    if isinstance(cells, Column) and (dialect.decimal == "." if chunk.text else not cells.is_text):
        values = cells.numbers()
    if values is not None:
        found = Numbers(values, _nowhere())
    else:
        found = _of_text(cells, dialect.decimal) if chunk.text else _of_json(cells)
    gone = dialect.missing.get("", frozenset()) | dialect.missing.get(name, frozenset())
    if gone:
        found.values[np.isin(found.values, list(gone))] = np.nan
    return found


def texts_of(chunk: Chunk, name: str) -> list[str]:
    """A column of a chunk as text, without the blanks around it; "" where it is missing."""
    return [_as_text(cell) for cell in chunk.columns[name]]


def coded_texts(chunk: Chunk, name: str) -> tuple[list[str], Ints]:
    """The same as different texts, in the order of their first row, and the index of each row's; some may be alike."""
    distinct, codes = _coded(chunk.columns[name])
    return [_as_text(cell) for cell in distinct], codes


def _as_text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell.strip()
    return "" if cell is None else json.dumps(cell, default=str)


def _coded(cells: Cells) -> tuple[list[Any], Ints]:
    if isinstance(cells, Column) and (coded := cells.coded()) is not None:
        return coded
    listed = list(cells)
    if all(type(cell) is str for cell in listed):
        known: dict[str, int] = {}
        codes = np.array([known.setdefault(cell, len(known)) for cell in listed], dtype=np.intp)
        return list(known), codes
    # Values of JSON that count as equal (1 and true) are not alike.
    return listed, np.arange(len(listed))


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
        if name not in wanted:
            continue
        column = list(chunk.columns[name])
        cells = [cell for cell in column if cell.strip()]
        commas = [cell for cell in cells if has_decimal_comma(cell)]
        if commas and 2 * len(commas) >= len(cells):
            line = chunk.lines[column.index(commas[0])]
            raise TableError(
                f"{chunk.file}: line {line}: column {name!r} holds {commas[0].strip()}, a number with a decimal comma: "
                "read it with --decimal ,"
            )


def has_decimal_comma(cell: str) -> bool:
    """Whether a cell looks like a number with a decimal comma, as spreadsheets write them in many countries."""
    return _DECIMAL_COMMA.fullmatch(cell.strip()) is not None


def _nowhere() -> Coded:
    return Coded(np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp), ())


def _of_text(column: Cells, decimal: str) -> Numbers:
    if not isinstance(column, Column) and (plain := _of_plain_text(column, decimal)) is not None:
        return Numbers(plain, _nowhere())
    written, codes = _coded(column)
    values = np.full(len(written), np.nan)
    odd = np.zeros(len(written), dtype=bool)
    for place, cell in enumerate(_with_point(written, decimal)):
        text = cell.strip()
        number = float(text) if NUMBER.fullmatch(text) else None
        if number is not None and abs(number) <= MAX_FLOAT32:
            values[place] = number
        elif text.lower() not in MISSING:
            odd[place] = True
    positions = np.flatnonzero(odd[codes])
    return Numbers(values[codes], Coded(positions, codes[positions], [cell.strip() for cell in written]))


def _of_plain_text(cells: Sequence[str], decimal: str) -> Float64Array | None:
    """The same for a column of nothing but numbers and empty cells, as most are; else None."""
    cells = _with_point(cells, decimal)
    if "".join(cells).strip(_PLAIN):
        return None
    try:
        values = np.fromiter((float(cell or "nan") for cell in cells), dtype=np.float64, count=len(cells))
    except ValueError:
        return None
    return None if (np.abs(values) > MAX_FLOAT32).any() else values


def _with_point(cells: Sequence[str], decimal: str) -> Sequence[str]:
    if decimal == ".":
        return cells
    # With a decimal comma, a point would separate thousands: what it is depends on the writer, so it is no number.
    return ["?" if "." in cell else cell.replace(",", ".") for cell in cells]


def _of_json(cells: Cells) -> Numbers:
    if isinstance(cells, Column) and (coded := cells.coded()) is not None:
        # Text only: a message's string is rejected on the device, so it is no number here either.
        written, codes = coded
        there = np.array([cell is not None and cell != "" for cell in written], dtype=bool)
        positions = np.flatnonzero(there[codes]) if len(codes) else codes
        return Numbers(
            np.full(len(codes), np.nan), Coded(positions, codes[positions], [json.dumps(cell) for cell in written])
        )
    values = np.full(len(cells), np.nan)
    places: list[int] = []
    texts: list[str] = []
    for position, cell in enumerate(cells):
        # So is a bool.
        if type(cell) in (int, float) and abs(cell) <= MAX_FLOAT32:
            values[position] = cell
        elif cell is not None and cell != "":
            places.append(position)
            texts.append(json.dumps(cell, default=str))
    return Numbers(values, Coded(np.array(places, dtype=np.intp), np.arange(len(places)), texts))
