"""Times as people and machines write them, in tables and in messages: one rule for both.

A leaf: it knows nothing of readings or tables, and reads no clock. It never guesses: what could be two times (a day and a
month in either order, an hour that a clock change repeats) is refused with the rule.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

RULE = (
    "should be ISO 8601 such as 2026-03-28T12:00:00.5+09:00, a date of 8, 12 or 14 digits such as 20260328120000, "
    "or a number of seconds, milliseconds, microseconds or nanoseconds since 1970"
)

TIME_KEYS = ("timestamp", "sDateTime", "timeInSeconds")
"""What a message may bring as its time; of several the first one holds."""
MILLISECONDS = 1e11
"""A number below it is in seconds (until the year 5138). From it on, numbers are finer: the same limit in milliseconds is in
March 1973, and so for each finer unit."""
MICROSECONDS = 1e14
NANOSECONDS = 1e17
TOO_LARGE = 1e20
"""From here on a number is no time in any unit."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
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
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_ZONE = re.compile(r"(?:UTC)?([+-])(\d\d):?(\d\d)?", re.ASCII)


class TimeError(ValueError):
    """What is no time; the message completes "the time ..."."""


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
        if text.isdigit() and (moment := date_of_digits(text, zone)):
            return moment
        if NUMBER.fullmatch(text):
            # `int` keeps all digits of nanoseconds.
            return _of_number(int(text) if text.isdigit() else float(text), zone)
        return _of_text(text, zone)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _of_number(value, zone)
    raise TimeError(RULE)


def forms_date(number: float) -> bool:
    """Whether the digits of a number form a date, such as 20260328 and 20260328120000."""
    return date_of_digits(digits_of(number), timezone.utc) is not None


def parse_timestamp(value: Any, zone: tzinfo = timezone.utc) -> str:
    """One time as results carry it: ISO 8601 in UTC with milliseconds, such as `2026-11-22T03:15:00.120Z`.

    Args:
        value: As for `parse_time`.
        zone: Of times without an offset.

    Raises:
        TimeError: It is no time.
    """
    if isinstance(value, str) and value[11:13] != "24" and value[7:8] == "-" and _of_usual(value) is not None:
        return value
    return parse_time(value, zone).isoformat(timespec="milliseconds")[:-6] + "Z"


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
    if moment := date_of_digits(digits_of(number), zone):
        return moment
    if not abs(number) < TOO_LARGE:
        raise TimeError(RULE)
    unit = unit_of(number)
    try:
        if isinstance(number, int):
            # In whole numbers, since a float holds nanoseconds of today only to a quarter of a microsecond.
            return EPOCH + timedelta(microseconds=number * 1_000_000 // unit)
        return EPOCH + timedelta(seconds=number / unit)
    except OverflowError as error:
        raise TimeError("is outside the years 1 to 9999") from error


def date_of_digits(digits: str, zone: tzinfo) -> datetime | None:
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


def digits_of(number: float) -> str:
    """The digits of a whole number that is not negative; "" of any other."""
    if 0 <= number < TOO_LARGE and number == int(number):
        return str(int(number))
    return ""


def unit_of(number: float) -> int:
    """How many of the number's units a second has."""
    size = abs(number)
    if size < MILLISECONDS:
        return 1
    if size < MICROSECONDS:
        return 1_000
    return 1_000_000 if size < NANOSECONDS else 1_000_000_000
