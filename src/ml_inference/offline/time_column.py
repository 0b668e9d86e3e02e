"""A column of times in a table, read by the rules of `ml_inference.times`, and by what the column as a whole says.

Apart from that leaf, since it needs numpy and a device has no tables of times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.times import EPOCH, NUMBER, RULE, TOO_LARGE, TimeError, date_of_digits, digits_of, parse_time, unit_of

Float64Array: TypeAlias = npt.NDArray[np.float64]

FIRST_EPOCH = 1e8
"""A column of numbers that begins below it counts something else than seconds since 1970 (it would be before March 1973)."""

_UNIFORM = "0123456789-:T. "


@dataclass(frozen=True, slots=True)
class Times:
    """A column of times.

    Attributes:
        values: Shape (n,): seconds since 1970 in UTC, or a count; NaN where there is none.
        in_seconds: Whether the values are seconds. A count (of cycles, of hours in use) is not.
        unreadable: By position, what is wrong with a value that is no time. An empty one is not among them.
    """

    values: Float64Array
    in_seconds: bool
    unreadable: Mapping[int, str] = field(default_factory=dict)


def parse_times(cells: Sequence[Any], zone: tzinfo = timezone.utc) -> Times:
    """A whole column of times at once; see `TimeColumn`.

    Raises:
        TimeError: The numbers are in several units, or only some of them form dates.
    """
    column = TimeColumn(zone)
    column.add(cells)
    return column.times()


class TimeColumn:
    """A column of times, or of a count that grows with time, read piece by piece.

    The same rules as for one time, but for numbers: these are seconds since 1970 only if the smallest is after March 1973,
    else a count; and all of them are in one unit.

    Args:
        zone: Of times without an offset.
    """

    def __init__(self, zone: tzinfo = timezone.utc) -> None:
        self._zone = zone
        self._values: list[Float64Array] = []
        self._numbers: list[npt.NDArray[np.intp]] = []
        self._rows = 0
        self._moments = 0
        self._dates = 0
        self._unreadable: dict[int, str] = {}

    def add(self, cells: Sequence[Any]) -> None:
        """More of the column: text, numbers, or None (and "") where there is no time."""
        values = _uniform(cells, self._zone)
        if values is None:
            values = np.full(len(cells), np.nan)
            numbers: list[int] = []
            for position, cell in enumerate(cells):
                if cell is None or cell == "" or cell != cell:  # noqa: PLR0124 - NaN
                    continue
                try:
                    if self._add(cell, values, position):
                        numbers.append(position)
                except TimeError as error:
                    self._unreadable[self._rows + position] = f"{str(cell)[:40]!r} {error}"
            self._numbers.append(np.array(numbers, dtype=np.intp) + self._rows)
        else:
            self._moments += len(values)
        self._values.append(values)
        self._rows += len(values)

    def _add(self, cell: Any, values: Float64Array, position: int) -> bool:
        """Whether the cell is a number that forms no date: what it counts depends on the others."""
        number = _number(cell)
        if number is None:
            values[position] = (parse_time(cell, self._zone) - EPOCH).total_seconds()
            self._moments += 1
            return False
        if moment := date_of_digits(digits_of(number), self._zone):
            values[position] = (moment - EPOCH).total_seconds()
            self._moments += 1
            self._dates += 1
            return False
        values[position] = number
        return True

    def times(self) -> Times:
        """The column as a whole.

        Raises:
            TimeError: The numbers are in several units, or only some of them form dates.
        """
        values = np.concatenate([np.empty(0), *self._values])
        numbers = np.concatenate([np.empty(0, dtype=np.intp), *self._numbers])
        if not len(numbers):
            return Times(values, in_seconds=True, unreadable=self._unreadable)
        found = values[numbers]
        smallest, largest = float(found.min()), float(found.max())
        if self._dates:
            raise TimeError(f"{smallest:.15g} is no date, though others of the column are dates of 8, 12 or 14 digits")
        if smallest < FIRST_EPOCH and not self._moments:
            return Times(values, in_seconds=False, unreadable=self._unreadable)
        if smallest < FIRST_EPOCH or unit_of(smallest) != unit_of(largest) or largest >= TOO_LARGE:
            raise TimeError(f"{smallest:.15g} and {largest:.15g} are not one kind of time: it {RULE}")
        values[numbers] = found / unit_of(smallest)
        return Times(values, in_seconds=True, unreadable=self._unreadable)


def _uniform(cells: Sequence[Any], zone: tzinfo) -> Float64Array | None:
    moments = uniform_moments(cells, zone)
    return None if moments is None else moments.astype(np.int64) / 1e6


def uniform_moments(cells: Sequence[Any], zone: tzinfo) -> npt.NDArray[np.datetime64] | None:
    """A column of times that is written alike throughout, as most are: twenty times faster, or None.

    Args:
        cells: n cells.
        zone: Of times without an offset.

    Returns:
        n moments to the microsecond, in UTC.
    """
    if not cells or zone is not timezone.utc or not all(isinstance(cell, str) for cell in cells):
        return None
    first = cells[0]
    suffix = next((end for end in ("Z", "+00:00") if first.endswith(end)), "")
    cut = len(first) - len(suffix)
    if not 19 <= cut <= 26 or first[4:5] != "-" or {len(cell) for cell in cells} != {len(first)}:  # noqa: PLR2004 - to the second, to the microsecond
        return None
    if suffix and not all(cell.endswith(suffix) for cell in cells):
        return None
    bare = [cell[:cut] for cell in cells] if suffix else list(cells)
    if "".join(bare).strip(_UNIFORM):
        return None
    try:
        return np.array(bare, dtype="datetime64[us]")
    except ValueError:
        return None


def _number(cell: Any) -> float | int | None:
    """The number that a cell holds, in text or not; None for other text."""
    if isinstance(cell, str):
        text = cell.strip()
        if text.isdecimal() and text.isascii():
            return int(text)
        return float(text) if NUMBER.fullmatch(text) else None
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return cell
    return None
