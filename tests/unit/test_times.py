from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from ml_inference.offline.time_column import parse_times
from ml_inference.times import TimeError, parse_time, parse_timestamp, time_zone

NOON = "2026-03-28T12:00:00.000Z"


@pytest.mark.parametrize(
    "value",
    [
        "2026-03-28T12:00:00Z",
        "2026-03-28 12:00:00",
        "2026-03-28T12:00",
        "2026-03-28T12",
        "2026/03/28 12:00:00",
        "2026-03-28T21:00:00+09:00",
        "2026-03-28T21:00:00.000000000+0900",
        "2026-03-28 21:00:00 +09",
        "2026-03-28 12:00:00 UTC",
        "20260328T120000Z",
        "20260328T1200",
        "20260328120000Z",
        "20260328120000",
        "202603281200",
        "20260328120000000",
        20260328120000,
        20260328120000.0,
        1774699200,
        "1774699200",
        "1774699200.0",
        1774699200000,
        "1774699200000",
        1774699200000000,
        1774699200000000000,
        "1774699200000000000",
        datetime(2026, 3, 28, 12, tzinfo=timezone.utc),
    ],
)
def test_one_moment_is_read_however_it_is_written_in_a_message_and_in_a_column(value: Any) -> None:
    assert parse_timestamp(value) == NOON
    column = parse_times([value, None])
    assert column.values.tolist() == pytest.approx([1774699200.0, np.nan], nan_ok=True)
    assert column.in_seconds


@pytest.mark.parametrize("decimals", range(1, 10))
def test_a_second_has_one_to_nine_decimals(decimals: int) -> None:
    text = "123456789"[:decimals]
    expected = int(text[:6].ljust(6, "0"))
    assert parse_time(f"2026-03-28T12:00:00.{text}Z").microsecond == expected
    assert parse_time(f"20260328T120000,{text}").microsecond == expected


def test_a_date_alone_is_its_midnight() -> None:
    for value in ("2026-03-28", "20260328", 20260328):
        assert parse_timestamp(value) == "2026-03-28T00:00:00.000Z"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("yesterday", "should be ISO 8601"),
        ("03/04/2026", "should be ISO 8601"),
        ("12:00", "should be ISO 8601"),
        ("1_774_699_200", "should be ISO 8601"),
        ("", "should be ISO 8601"),
        ("2026-13-01", "not in the calendar"),
        ("2026-02-29T00:00:00.000Z", "not in the calendar"),
        ("2026-03-28T12:00:00+25:00", "a day or more"),
        ("0001-01-01T00:00:00+14:00", "outside the years"),
        ("2026-03-28T12:00:00.0123456789Z", "should be ISO 8601"),
        (True, "should be ISO 8601"),
        ([], "should be ISO 8601"),
        (1e300, "should be ISO 8601"),
        (float("nan"), "should be ISO 8601"),
    ],
)
def test_what_is_no_time_is_refused_with_the_rule(value: Any, problem: str) -> None:
    with pytest.raises(TimeError, match=problem):
        parse_time(value)


def test_a_time_without_an_offset_is_of_the_zone_that_is_said() -> None:
    for name, expected in (("Asia/Seoul", "03:00"), ("+09:00", "03:00"), ("UTC", "12:00"), ("-0330", "15:30")):
        zone = time_zone(name)
        assert parse_timestamp("2026-03-28T12:00:00", zone) == f"2026-03-28T{expected}:00.000Z"
        assert parse_timestamp("20260328120000", zone) == f"2026-03-28T{expected}:00.000Z"
        assert parse_timestamp("2026-03-28T12:00:00Z", zone) == NOON
        assert parse_timestamp(1774699200, zone) == NOON
        seconds = parse_times(["2026-03-28 12:00:00"], zone).values[0]
        assert parse_timestamp(seconds) == f"2026-03-28T{expected}:00.000Z"


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "", "+24:00", "Europe"])
def test_a_zone_that_is_not_known_is_refused_by_name(name: str) -> None:
    with pytest.raises(TimeError, match="is not known here"):
        time_zone(name)


@pytest.mark.parametrize("text", ["2026-10-25T02:30:00", "2026-03-29T02:30:00"])
def test_an_hour_that_a_clock_change_repeats_or_skips_needs_its_offset(text: str) -> None:
    berlin = time_zone("Europe/Berlin")
    with pytest.raises(TimeError, match="twice, or never"):
        parse_time(text, berlin)
    assert parse_time(text + "+01:00", berlin).utcoffset() == timedelta(0)


def test_numbers_that_begin_before_1973_are_a_count() -> None:
    for cells in (["3", "17"], [3, 17.5], ["0", "250000000"]):
        column = parse_times(cells)
        assert column.values.tolist() == [float(cell) for cell in cells]
        assert not column.in_seconds


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([20260101, 20260199], "20260199 is no date"),
        ([1774699200, 1774699200000], "not one kind of time"),
        (["2026-01-01", "4"], "not one kind of time"),
    ],
)
def test_a_column_of_several_kinds_of_numbers_is_refused(cells: list[Any], problem: str) -> None:
    with pytest.raises(TimeError, match=problem):
        parse_times(cells)


def test_a_cell_that_is_no_time_is_named_and_the_others_are_read() -> None:
    column = parse_times(["2026-03-28T12:00:00.000Z", "noon", "", "2026-03-28 13:00"])
    assert column.values.tolist() == pytest.approx([1774699200.0, np.nan, np.nan, 1774702800.0], nan_ok=True)
    assert list(column.unreadable) == [1]
    assert column.unreadable[1].startswith("'noon' should be ISO 8601")


@pytest.mark.parametrize("suffix", ["", "Z", "+00:00"])
@pytest.mark.parametrize("decimals", ["", ".5", ".123", ".123456"])
def test_a_column_that_is_written_alike_throughout_is_read_as_its_cells_one_by_one(suffix: str, decimals: str) -> None:
    cells = [f"2026-03-{day:02d}T12:{day:02d}:00{decimals}{suffix}" for day in range(1, 29)]
    one_by_one = [parse_time(cell).timestamp() for cell in cells]
    assert parse_times(cells).values.tolist() == pytest.approx(one_by_one, abs=1e-6)
    assert not parse_times([*cells, "2026-02-30T12:00:00" + decimals + suffix]).unreadable.keys() - {28}
