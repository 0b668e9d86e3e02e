"""Times as people and machines write them, in tables and in messages: one rule for both.

A leaf: it knows nothing of readings or tables, and reads no clock. It never guesses: what could be two times (a day and a
month in either order, an hour that a clock change repeats) is refused with the rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Float64Array: TypeAlias = npt.NDArray[np.float64]

RULE = (
    "should be ISO 8601 such as 2026-03-28T12:00:00.5+09:00, a date of 8, 12 or 14 digits such as 20260328120000, "
    "or a number of seconds, milliseconds, microseconds or nanoseconds since 1970"
)

MILLISECONDS = 1e11
"""A number below it is in seconds (until the year 5138). From it on, numbers are finer: the same limit in milliseconds is in
March 1973, and so for each finer unit."""
MICROSECONDS = 1e14
NANOSECONDS = 1e17
_TOO_LARGE = 1e20

FIRST_EPOCH = 1e8
"""A column of numbers that begins below it counts something else than seconds since 1970 (it would be before March 1973)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_USUAL_LENGTH = 24
_YEARS = range(1900, 2101)
"""Digits form a date only within these years."""

_OFFSET = r"(?:\s?(?P<offset>[Zz]|UTC|GMT|[+-]\d\d(?::?\d\d)?))?"
_EXTENDED = re.compile(
    r"(?P<year>\d{4})(?P<separator>[-/])(?P<month>\d\d)(?P=separator)(?P<day>\d\d)"
    r"(?:(?:[Tt]|\s)(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    + _OFFSET
    + ")?",
    re.ASCII,
)
_BASIC = re.compile(
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
    r"(?:(?:[Tt]|\s)?(?P<hour>\d\d)(?:(?P<minute>\d\d)(?:(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    + _OFFSET
    + ")?",
    re.ASCII,
)
_DIGITS = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(?:(\d\d)(\d{3}|\d{6})?)?)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_ZONE = re.compile(r"(?:UTC)?([+-])(\d\d):?(\d\d)?", re.ASCII)
_UNIFORM = "0123456789-:T. "


class TimeError(ValueError):
    """What is no time; the message completes "the time ..."."""


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


def time_zone(name: str) -> tzinfo:
    """A time zone by its name (`Asia/Seoul`) or its offset (`+09:00`).

    Raises:
        TimeError: There is none of that name on this machine.
    """
    if name.upper() in {"UTC", "GMT", "Z"}:
        return timezone.utc
    if fixed := _ZONE.fullmatch(name):
        size = timedelta(hours=int(fixed[2]), minutes=int(fixed[3] or 0))
        if size < timedelta(hours=24):
            return timezone(size if fixed[1] == "+" else -size)
    try:
        return ZoneInfo(name)
    # A name that leads out of the folder of zones is a ValueError, a folder an OSError, an unknown name a KeyError.
    except (ValueError, OSError, KeyError) as error:
        raise TimeError(
            f"zone {name!r} is not known here: give a name such as Asia/Seoul or an offset such as +09:00"
        ) from error


def parse_time(value: Any, zone: tzinfo = timezone.utc) -> datetime:
    """One time.

    Args:
        value: ISO 8601, extended or basic, with 1 to 9 decimals of a second; digits that form a date; or a number since 1970 in
            a unit that its size tells.
        zone: Of times without an offset.

    Returns:
        In UTC, to the microsecond.

    Raises:
        TimeError: It is none of these.
    """
    if isinstance(value, datetime):
        return _in_utc(value, zone)
    if isinstance(value, str):
        if (moment := _of_usual(value)) is not None:
            return moment
        text = value.strip()
        if text.isdigit() and (moment := _of_digits(text, zone)):
            return moment
        if _NUMBER.fullmatch(text):
            # `int` keeps all digits of nanoseconds.
            return _of_number(int(text) if text.isdigit() else float(text), zone)
        return _of_text(text, zone)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _of_number(value, zone)
    raise TimeError(RULE)


def forms_date(number: float) -> bool:
    """Whether the digits of a number form a date, such as 20260328 and 20260328120000."""
    return _of_digits(_digits(number), timezone.utc) is not None


def parse_timestamp(value: Any, zone: tzinfo = timezone.utc) -> str:
    """One time as results carry it: ISO 8601 in UTC with milliseconds, such as `2026-11-22T03:15:00.120Z`.

    Args:
        value: As for `parse_time`.
        zone: Of times without an offset.

    Raises:
        TimeError: It is no time.
    """
    return parse_time(value, zone).isoformat(timespec="milliseconds")[:-6] + "Z"


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
            values[position] = (parse_time(cell, self._zone) - _EPOCH).total_seconds()
            self._moments += 1
            return False
        if moment := _of_digits(_digits(number), self._zone):
            values[position] = (moment - _EPOCH).total_seconds()
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
        if smallest < FIRST_EPOCH or _unit(smallest) != _unit(largest) or largest >= _TOO_LARGE:
            raise TimeError(f"{smallest:.15g} and {largest:.15g} are not one kind of time: it {RULE}")
        values[numbers] = found / _unit(smallest)
        return Times(values, in_seconds=True, unreadable=self._unreadable)


def _of_usual(text: str) -> datetime | None:
    """The form that most machines send, `2026-11-22T03:15:00.120Z`, at a tenth of the cost; None for others."""
    if len(text) != _USUAL_LENGTH or text[23] != "Z" or text[10] != "T" or text[4] != "-" or text[19] != ".":
        return None
    try:
        return datetime.fromisoformat(text[:23] + "+00:00").astimezone(timezone.utc)
    except ValueError:
        return None


def _of_text(text: str, zone: tzinfo) -> datetime:
    found = _EXTENDED.fullmatch(text) or _BASIC.fullmatch(text)
    if found is None:
        raise TimeError(RULE)
    year, month, day, hour, minute, second = (
        int(found[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    fraction = found["fraction"] or ""
    try:
        moment = datetime(year, month, day, hour, minute, second, int(fraction[:6].ljust(6, "0")))  # noqa: DTZ001
    except ValueError as error:
        raise TimeError(f"is not in the calendar ({error})") from error
    return _in_utc(moment.replace(tzinfo=_offset(found["offset"])), zone)


def _offset(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    if text[0] not in "+-":
        return timezone.utc
    digits = text[1:].replace(":", "").ljust(4, "0")
    size = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    if size >= timedelta(hours=24):
        raise TimeError(f"has an offset of {text}, which is a day or more")
    return timezone(size if text[0] == "+" else -size)


def _of_number(number: float, zone: tzinfo) -> datetime:
    if moment := _of_digits(_digits(number), zone):
        return moment
    if not abs(number) < _TOO_LARGE:
        raise TimeError(RULE)
    unit = _unit(number)
    try:
        if isinstance(number, int):
            # In whole numbers, since a float holds nanoseconds of today only to a quarter of a microsecond.
            return _EPOCH + timedelta(microseconds=number * 1_000_000 // unit)
        return _EPOCH + timedelta(seconds=number / unit)
    except OverflowError as error:
        raise TimeError("is outside the years 1 to 9999") from error


def _of_digits(digits: str, zone: tzinfo) -> datetime | None:
    """The date that 8, 12 or 14 digits form (or 17 or 20, down to milliseconds or microseconds); None for other numbers."""
    found = _DIGITS.fullmatch(digits)
    if found is None or int(found[1]) not in _YEARS:
        return None
    try:
        moment = datetime(*(int(part or 0) for part in found.groups()[:6]), int((found[7] or "0").ljust(6, "0")))  # type: ignore[call-arg,arg-type]  # noqa: DTZ001
    except ValueError:
        return None
    return _in_utc(moment, zone)


def _in_utc(moment: datetime, zone: tzinfo) -> datetime:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
        if zone is not timezone.utc and moment.utcoffset() != moment.replace(fold=1 - moment.fold).utcoffset():
            raise TimeError(f"happens twice, or never, in {zone}, whose clocks change then: write it with its offset")
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError as error:
        raise TimeError("is outside the years 1 to 9999") from error


def _number(cell: Any) -> float | int | None:
    """The number that a cell holds, in text or not; None for other text."""
    if isinstance(cell, str):
        text = cell.strip()
        if text.isdecimal() and text.isascii():
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) else None
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return cell
    return None


def _digits(number: float) -> str:
    """The digits of a whole number that is not negative; "" of any other."""
    if 0 <= number < _TOO_LARGE and number == int(number):
        return str(int(number))
    return ""


def _unit(number: float) -> int:
    """How many of the number's units a second has."""
    size = abs(number)
    if size < MILLISECONDS:
        return 1
    if size < MICROSECONDS:
        return 1_000
    return 1_000_000 if size < NANOSECONDS else 1_000_000_000


def _uniform(cells: Sequence[Any], zone: tzinfo) -> Float64Array | None:
    """The same for a column that is written alike throughout, as most are: twenty times faster, or None."""
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
        moments = np.array(bare, dtype="datetime64[us]")
    except ValueError:
        return None
    seconds: Float64Array = moments.astype(np.int64) / 1e6
    return seconds
