"""Columns that Arrow holds: read, compared and converted by it, handed out as Python values only where somebody asks.

Optional: without pyarrow nothing here is used. It must never read a cell otherwise than the standard library's way does: what
it is not sure of it gives back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.limits import MAX_FLOAT32
from ml_inference.offline.chunks import Column
from ml_inference.offline.files import Stretch

Float64Array = npt.NDArray[np.float64]


def arrow() -> Any:
    """Pyarrow with what is used of it.

    Raises:
        ImportError: It is not installed.
    """
    import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
    import pyarrow.compute  # noqa: PLC0415
    import pyarrow.csv  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    return pa


class TextColumn(Column):
    """A column of text.

    Args:
        cells: An array of strings; null is missing.
        suffix: Behind each cell, beside what Arrow holds.
    """

    is_text = True

    def __init__(self, cells: Any, suffix: str = "") -> None:
        self._cells = cells
        self._suffix = suffix

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[str | None]:
        cells = self._cells.to_pylist()
        return iter([cell and cell + self._suffix for cell in cells] if self._suffix else cells)

    def part(self, place: slice) -> TextColumn:
        """Consecutive cells."""
        return TextColumn(self._cells.slice(place.start, place.stop - place.start), self._suffix)

    def take(self, rows: npt.NDArray[np.intp]) -> TextColumn:
        """Some of the cells."""
        return TextColumn(self._cells.take(_indices(rows)), self._suffix)

    def numbers(self) -> Float64Array | None:
        """All cells as numbers; None where not all of them are."""
        pa = arrow()
        compute = pa.compute
        if self._suffix:
            return None
        cells = compute.if_else(compute.equal(self._cells, ""), pa.scalar(None, self._cells.type), self._cells)
        try:
            found = cells.cast(pa.float64())
        except pa.ArrowInvalid:
            return None
        # A copy: what Arrow holds cannot be written to.
        values: Float64Array = np.array(found.to_numpy(zero_copy_only=False))
        # "inf" and "nan" are text here, and so is what float32 cannot hold.
        wild = ~(np.abs(values) <= MAX_FLOAT32)
        return values if np.count_nonzero(wild) == found.null_count else None

    def coded(self) -> tuple[list[str | None], npt.NDArray[np.intp]]:
        """The different texts, and the index of each cell's."""
        coded = self._cells.dictionary_encode(null_encoding="encode")
        distinct = [cell and cell + self._suffix for cell in coded.dictionary.to_pylist()]
        return distinct, coded.indices.to_numpy(zero_copy_only=False).astype(np.intp)


class NumberColumn(Column):
    """A column of numbers.

    Args:
        cells: Whole numbers, or floating ones; NaN is missing.
    """

    def __init__(self, cells: npt.NDArray[Any]) -> None:
        self._cells = cells

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[float | int | None]:
        if self._cells.dtype.kind != "f":
            return iter(self._cells.tolist())
        return iter([None if cell != cell else cell for cell in self._cells.tolist()])  # noqa: PLR0124 - NaN

    def part(self, place: slice) -> NumberColumn:
        """Consecutive cells."""
        return NumberColumn(self._cells[place])

    def take(self, rows: npt.NDArray[np.intp]) -> NumberColumn:
        """Some of the cells."""
        return NumberColumn(self._cells[rows])

    def numbers(self) -> Float64Array | None:
        """All cells as numbers; None where not all of them are."""
        values = self._cells.astype(np.float64)
        return None if (np.abs(values) > MAX_FLOAT32).any() else values


def column_of(cells: Any) -> Column | None:
    """A column of text or of numbers; None for other kinds, and for whole numbers with gaps."""
    pa = arrow()
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kind = cells.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return TextColumn(cells)
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not cells.null_count):
        return NumberColumn(cells.to_numpy(zero_copy_only=False))
    return None


def plain_rows(stretch: Stretch, names: Sequence[str], delimiter: str) -> Mapping[str, TextColumn] | None:
    """The columns of a stretch of CSV whose rows are a line each, with as many cells as there are columns.

    Args:
        stretch: Whole lines.
        names: Of the columns.
        delimiter: Between cells.

    Returns:
        None where it holds anything else (quotes, comments, blank lines, rows of another length), or without pyarrow.
    """
    content = stretch.content
    if any(mark in content for mark in (b'"', b"#", b"\0")) or _has_odd_ends(content):
        return None
    try:
        pa = arrow()
    except ImportError:
        return None
    compute, csv = pa.compute, pa.csv
    columns = [str(place) for place in range(len(names))]
    content = content.removeprefix(b"\xef\xbb\xbf") if stretch.part.lines == 0 else content
    try:
        table = csv.read_csv(
            pa.py_buffer(content),
            read_options=csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(content) + 1),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, quote_char=False, double_quote=False, ignore_empty_lines=False
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != content.count(b"\n") + (not content.endswith(b"\n")):
        return None
    cells = [column.combine_chunks() for column in table.columns]
    # A row whose first cell is empty may be blank altogether.
    if compute.any(compute.equal(compute.utf8_trim_whitespace(cells[0]), "")).as_py():
        return None
    return {name: TextColumn(column) for name, column in zip(names, cells, strict=True)}


def _has_odd_ends(content: bytes) -> bool:
    """Whether a line ends otherwise than by LF or by CRLF."""
    return b"\r" in content and content.count(b"\r") != content.count(b"\r\n")


def _indices(rows: npt.NDArray[np.intp]) -> Any:
    return arrow().array(rows)
