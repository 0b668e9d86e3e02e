"""A training table by columns, in as little memory as it takes: numbers as float32, text as codes.

It learns from what a device would accept and nothing more: what is no number there is none here. It counts what it cannot
use, with file and line, and chooses nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.offline.cells import Coded, coded_texts, numbers_of, refuse_decimal_commas, texts_of
from ml_inference.offline.chunks import Broken, Chunk, Dialect, TableError
from ml_inference.offline.files import table_files
from ml_inference.offline.tables import read_chunks
from ml_inference.offline.time_column import TimeColumn, Times
from ml_inference.times import TimeError
from ml_inference.workbench.training import TrainingError

FloatArray: TypeAlias = npt.NDArray[np.float64]
NumberArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]

MAX_DISTINCT_TEXTS = 20
"""Words that a historian writes where it has no measurement (Bad, I/O Timeout, ...); a column of more different texts holds
names or codes."""
MAX_BROKEN_SHARE = 0.01
_MIN_ROWS_FOR_BROKEN = 30
_INFINITE = frozenset({"inf", "infinity"})
_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of text.

    Attributes:
        codes: Shape (n,), indices into `values`.
        values: The distinct texts in the order of their first row; "" is missing.
    """

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]

    def at(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.str_]:
        """The texts of some rows."""
        chosen: npt.NDArray[np.str_] = np.array(self.values, dtype=np.str_)[self.codes[rows]]
        return chosen

    def ranked(self) -> Texts:
        """The same with the texts in alphabetical order, so that codes compare as they do."""
        order = sorted(range(len(self.values)), key=self.values.__getitem__)
        ranks = np.empty(len(order), dtype=np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32)
        return Texts(ranks[self.codes], tuple(self.values[at] for at in order))

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Shape (n,): where there is no text."""
        if "" not in self.values:
            return np.zeros(len(self.codes), dtype=bool)
        found: npt.NDArray[np.bool_] = self.codes == self.values.index("")
        return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a file, a line from 1, and what stands there."""

    file: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.text} in line {self.line} of {self.file.name}"


@dataclass(slots=True)
class Odd:
    """What a column of numbers holds that is none.

    Attributes:
        count: How many cells.
        texts: Different ones, at most one more than `MAX_DISTINCT_TEXTS`.
        first: Where the first one stands.
    """

    first: Place
    count: int = 0
    texts: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Table:
    """A table by columns.

    Attributes:
        rows: Number of rows, n.
        names: All columns in the file's order.
        numbers: The columns of numbers, shape (n,) each; NaN where a value is missing, or is no number.
        texts: The columns that were asked for as text.
        times: The columns that were asked for as times.
        odd: Of columns of numbers: what else they hold. Those rows are lost.
        unreadable: Of columns with such cells: shape (n,), where they are.
        gaps: Of columns of numbers: where the first value is missing.
        not_numbers: For each other column what it holds instead.
        units: Units that the table itself gives, by column.
        broken: Rows that are none, at most some.
        broken_count: How many there are.
        files: The file of each row.
        lacking: By column, the files that do not have it, where others do.
    """

    rows: int
    names: tuple[str, ...]
    numbers: Mapping[str, NumberArray]
    texts: Mapping[str, Texts]
    times: Mapping[str, Times]
    odd: Mapping[str, Odd]
    unreadable: Mapping[str, npt.NDArray[np.bool_]]
    gaps: Mapping[str, Place]
    not_numbers: Mapping[str, Odd]
    units: Mapping[str, str]
    broken: Sequence[Place]
    broken_count: int
    files: Texts
    lacking: Mapping[str, Sequence[Path]]


class _Numbers:
    """A column of numbers as it grows."""

    def __init__(self, rows: int) -> None:
        # A column may begin late, in a later file or line of JSON.
        self.parts: list[NumberArray] = [np.full(rows, np.nan, dtype=np.float32)]
        self.known = 0
        self.odd: Odd | None = None
        self.gap: Place | None = None
        self.rows = rows
        self.unreadable: list[npt.NDArray[np.intp]] = []

    def skip(self, rows: int) -> None:
        self.rows += rows
        self.parts.append(np.full(rows, np.nan, dtype=np.float32))

    def add(self, chunk: Chunk, name: str, dialect: Dialect) -> None:
        found = numbers_of(chunk, name, dialect)
        gone = np.isnan(found.values)
        gaps = int(gone.sum()) - len(found.texts)
        self.known += len(gone) - int(gone.sum())
        if found.texts:
            self._add_odd(chunk, found.texts)
        if self.gap is None and gaps:
            gone[found.texts.positions] = False
            position = int(np.flatnonzero(gone)[0])
            cell = next(itertools.islice(chunk.columns[name], position, None))
            self.gap = Place(chunk.file, chunk.lines[position], str(cell or "nothing").strip()[:60])
        # What float32 cannot hold to the unit is a number of something, or a time: nothing that is ever a feature.
        large = len(found.values) and np.nanmax(np.abs(found.values), initial=0.0) >= _EXACT_IN_FLOAT32
        self.rows += len(found.values)
        self.parts.append(found.values if large else found.values.astype(np.float32))

    def _add_odd(self, chunk: Chunk, texts: Coded) -> None:
        first = int(texts.positions[0])
        if self.odd is None:
            self.odd = Odd(Place(chunk.file, chunk.lines[first], repr(texts[first])[:60]))
        self.odd.count += len(texts)
        self.unreadable.append(self.rows + texts.positions)
        counts = np.bincount(texts.codes, minlength=len(texts.texts))
        for text, count in zip(texts.texts, counts.tolist(), strict=True):
            if count and text.lower().lstrip("+-") in _INFINITE:
                self.known += count
            if count and len(self.odd.texts) <= MAX_DISTINCT_TEXTS:
                self.odd.texts.add(text)

    @property
    def is_number(self) -> bool:
        """Whether most of what it holds are numbers, and the rest are a few words."""
        if self.odd is None:
            return True
        few = len(self.odd.texts) <= MAX_DISTINCT_TEXTS or self.odd.count < MAX_BROKEN_SHARE * self.known
        return self.known > self.odd.count and few


class _Texts:
    """A column of text as it grows."""

    def __init__(self, rows: int) -> None:
        self.codes: dict[str, int] = {}
        self.parts: list[npt.NDArray[np.int32]] = []
        self.repeat("", rows)

    def repeat(self, text: str, rows: int) -> None:
        if rows:
            self.parts.append(np.full(rows, self.codes.setdefault(text, len(self.codes)), dtype=np.int32))

    def add(self, texts: Sequence[str], codes: npt.NDArray[np.intp]) -> None:
        known = self.codes
        numbers = np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int32)
        self.parts.append(numbers[codes])

    def texts(self) -> Texts:
        return Texts(np.concatenate([np.empty(0, dtype=np.int32), *self.parts]), tuple(self.codes))


class _Columns:
    """Columns as they grow, chunk by chunk."""

    def __init__(
        self,
        as_text: Collection[str],
        as_time: Collection[str],
        dialect: Dialect,
        zone: tzinfo,
        needed: Callable[[str], bool],
    ) -> None:
        self.needed = needed
        self.names: dict[str, None] = {}
        self.as_text = frozenset(as_text)
        self.as_time = frozenset(as_time)
        self.dialect = dialect
        self.zone = zone
        self.rows = 0
        self.numbers: dict[str, _Numbers] = {}
        self.texts: dict[str, _Texts] = {}
        self.times: dict[str, TimeColumn] = {}
        self.units: dict[str, str] = {}
        self.files = _Texts(0)
        self.of_file: dict[Path, set[str]] = {}
        self.broken: list[Place] = []
        self.broken_count = 0

    def add(self, chunk: Chunk) -> None:
        rows = len(chunk.lines)
        if rows and self.rows == 0:
            refuse_decimal_commas(chunk, [name for name in chunk.columns if name not in self.as_time], self.dialect)
        self.of_file.setdefault(chunk.file, set()).update(chunk.columns)
        for name in chunk.columns:
            self.names[name] = None
            if name not in self.numbers and self.needed(name):
                self.numbers[name] = _Numbers(self.rows)
                if name in self.as_text:
                    self.texts[name] = _Texts(self.rows)
                if name in self.as_time:
                    self.times[name] = TimeColumn(self.zone)
                    self.times[name].add([None] * self.rows)
        for name, numbers in self.numbers.items():
            if name not in chunk.columns:
                self._skip(name, rows)
                continue
            numbers.add(chunk, name, self.dialect)
            if name in self.texts:
                self.texts[name].add(*coded_texts(chunk, name))
            if name in self.times:
                self.times[name].add(texts_of(chunk, name) if chunk.text else list(chunk.columns[name]))
        self.units = {**chunk.units, **self.units}
        self.files.repeat(str(chunk.file), rows)
        self._count_broken(chunk.file, chunk.broken)
        self.rows += rows

    def _skip(self, name: str, rows: int) -> None:
        self.numbers[name].skip(rows)
        if name in self.texts:
            self.texts[name].repeat("", rows)
        if name in self.times:
            self.times[name].add([None] * rows)

    def _count_broken(self, file: Path, broken: Sequence[Broken]) -> None:
        self.broken_count += len(broken)
        if len(self.broken) < MAX_DISTINCT_TEXTS:
            self.broken += [Place(file, row.line, row.reason) for row in broken[:MAX_DISTINCT_TEXTS]]

    def table(self) -> Table:
        names = tuple(self.names)
        numbers: dict[str, NumberArray] = {}
        odd, gaps, not_numbers = {}, {}, {}
        unreadable: dict[str, npt.NDArray[np.bool_]] = {}
        for name in list(self.numbers):
            column = self.numbers.pop(name)
            if column.is_number:
                joined: Any = np.concatenate(column.parts)  # of both widths
                numbers[name] = joined
                if column.odd is not None:
                    odd[name] = column.odd
                    unreadable[name] = np.zeros(self.rows, dtype=bool)
                    unreadable[name][np.concatenate(column.unreadable)] = True
                if column.gap is not None:
                    gaps[name] = column.gap
            elif column.odd is not None:
                not_numbers[name] = column.odd
        times = {}
        for name, column_of_times in self.times.items():
            try:
                times[name] = column_of_times.times()
            except TimeError as error:
                raise TrainingError(f"the column {name!r}: {error}") from error
        lacking = {name: [file for file, held in self.of_file.items() if name not in held] for name in names}
        return Table(
            rows=self.rows,
            names=names,
            numbers=numbers,
            texts={name: column.texts() for name, column in self.texts.items()},
            times=times,
            odd=odd,
            unreadable=unreadable,
            gaps=gaps,
            not_numbers=not_numbers,
            units=self.units,
            broken=self.broken,
            broken_count=self.broken_count,
            files=self.files.texts(),
            lacking={name: files for name, files in lacking.items() if files},
        )


def read_table(
    paths: Path | Sequence[Path],
    as_text: Collection[str] = (),
    as_time: Collection[str] = (),
    *,
    dialect: Dialect | None = None,
    zone: tzinfo = timezone.utc,
    needed: Callable[[str], bool] = lambda _: True,
) -> Table:
    """Read a table.

    Args:
        paths: A file, several, or folders of files, which are read as one table.
        as_text: Columns to keep as text (label, group, categories), where the table has them; of these, too, the numbers are
            known where they are numbers.
        as_time: Columns to read as times.
        dialect: How the files are written.
        zone: Of times without an offset.
        needed: Whether a column is wanted at all; of the others only the names are known.

    Raises:
        TrainingError: A file cannot be read, or too many of its rows are none; the message names file and line.
    """
    dialect = dialect or Dialect()
    columns = _Columns(as_text, as_time, dialect, zone, needed)
    try:
        for chunk in read_chunks(table_files([paths] if isinstance(paths, Path) else paths), dialect):
            columns.add(chunk)
    except TableError as error:
        raise TrainingError(str(error)) from error
    _require_whole(columns.rows, columns.broken, columns.broken_count)
    if columns.rows == 0:
        raise TrainingError(f"{_named(paths)} holds no rows")
    return columns.table()


def _require_whole(rows: int, broken: Sequence[Place], count: int) -> None:
    """A row that breaks off costs itself; a file of such rows is read wrongly."""
    if count and (rows < _MIN_ROWS_FOR_BROKEN or count > max(1, MAX_BROKEN_SHARE * rows)):
        first = broken[0]
        raise TrainingError(
            f"{first.file}: line {first.line}: {first.text}; {count} rows of {rows + count} are so: is it the table that it should be?"
        )


def _named(paths: Path | Sequence[Any]) -> str:
    return str(paths) if isinstance(paths, Path) else ", ".join(map(str, paths))
