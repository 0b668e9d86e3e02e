"""What passes between a file and whoever reads it: how it is written, parts of it, pieces of it.

Values only; it opens nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

Document: TypeAlias = dict[str, Any]


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


class Column:
    """The cells of a column, held in another way than one Python value each.

    Attributes:
        is_text: Whether all that is not missing is text.
    """

    is_text: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """The cells as JSON would hold them; None is missing."""

    @abstractmethod
    def part(self, place: slice) -> Column:
        """Consecutive cells."""

    @abstractmethod
    def take(self, rows: npt.NDArray[np.intp]) -> Column:
        """Some of the cells."""

    @abstractmethod
    def numbers(self) -> npt.NDArray[np.float64] | None:
        """All cells as numbers, NaN where one is missing, in an array to keep; None where not all of them are."""

    def coded(self) -> tuple[list[str | None], npt.NDArray[np.intp]] | None:
        """The different texts in the order of their first row, and the index of each cell's; None where it is no text."""
        return None


Cells: TypeAlias = Sequence[Any] | Column


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one file.

    Attributes:
        file: The file.
        columns: By name, n cells each, a plain sequence or a `Column`. In CSV a cell is text, and may have blanks around it;
            else it is a JSON value. "" and None are missing.
        lines: Where each of the n rows begins; in Parquet the number of the row.
        text: Whether numbers stand there as text (CSV).
        units: Units by column, from the row below the header.
        broken: Rows between these that are none.
    """

    file: Path
    columns: Mapping[str, Cells]
    lines: Sequence[int]
    text: bool
    units: Mapping[str, str] = field(default_factory=dict)
    broken: Sequence[Broken] = ()

    def take(self, rows: npt.NDArray[np.intp]) -> Chunk:
        """Some of the rows, without the broken ones between them."""
        columns = {
            name: cells.take(rows) if isinstance(cells, Column) else [cells[row] for row in rows.tolist()]
            for name, cells in self.columns.items()
        }
        return Chunk(self.file, columns, [self.lines[row] for row in rows.tolist()], self.text, self.units)
