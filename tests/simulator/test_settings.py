"""Settings arrive as a nucleus sends them: numbers, strings that hold numbers, nothing at all."""

from typing import Any

import pytest

from sensor_simulator import Fault, SensorFault, When
from sensor_simulator.settings import Settings, SettingsError, parse, unknown

AS_STRINGS = {
    "Topic": "line/3",
    "Machines": "12",
    "RateHz": "2.5",
    "Seed": "99",
    "FaultRate": "0",
    "Fault": "overload",
    "Accelerate": "1800",
    "BadEvery": "60",
    "Story": "2",
    "SensorFaultRate": "0.5",
    "SensorFaultHours": "0.5",
    "SensorFault": "stuck",
    "SensorFaultWhen": "during",
    "StartDaysAgo": "3",
}


def test_strings_that_hold_values_are_taken() -> None:
    assert parse(AS_STRINGS, Settings()) == Settings(
        topic="line/3",
        machines=12,
        rate_hz=2.5,
        seed=99,
        fault_rate=0.0,
        fault=Fault.OVERLOAD,
        accelerate=1800.0,
        bad_every=60,
        story=2,
        sensor_fault_rate=0.5,
        sensor_fault_hours=0.5,
        sensor_fault=SensorFault.STUCK,
        sensor_fault_when=When.DURING,
        start_days_ago=3.0,
    )


def test_numbers_are_taken_and_whole_ones_may_be_floats() -> None:
    assert parse({"Machines": 3.0, "RateHz": 2}, Settings()) == Settings(machines=3, rate_hz=2.0)


@pytest.mark.parametrize("absent", [{}, {"Machines": None}, {"Machines": "null"}])
def test_what_is_not_given_stays_as_it_was(absent: dict[str, Any]) -> None:
    assert parse(absent, Settings(machines=5)) == Settings(machines=5)


def test_an_empty_fault_means_all_of_them() -> None:
    assert parse({"Fault": ""}, Settings(fault=Fault.OVERLOAD)).fault is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Topic", ""),
        ("Topic", 7),
        ("Topic", "a/+/b"),
        ("Topic", "a/#"),
        ("Topic", "ü" * 129),
        ("Machines", 0),
        ("Machines", 2.5),
        ("Machines", True),
        ("Machines", "many"),
        ("Machines", [1]),
        ("RateHz", 0),
        ("RateHz", "inf"),
        ("RateHz", "nan"),
        ("Seed", "x"),
        ("FaultRate", -1),
        ("Fault", "gremlins"),
        ("Fault", {}),
        ("Accelerate", 0),
        ("Accelerate", 1e300),
        ("BadEvery", -1),
        ("Story", 3),
        ("SensorFaultRate", -0.1),
        ("SensorFaultHours", 0),
        ("SensorFault", "gremlins"),
        ("SensorFaultWhen", ""),
        ("StartDaysAgo", "soon"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_key(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"^{key}: expected .*, got "):
        parse({key: value}, Settings())


def test_unknown_keys_are_named_and_access_control_is_none() -> None:
    assert unknown({"Machines": 1, "accessControl": {}, "machines": 1, "Speed": 2}) == ["Speed", "machines"]


def test_settings_build_the_fleet_they_describe() -> None:
    fleet = parse(
        {"Machines": 2, "Seed": 5, "Fault": "overload", "FaultRate": 9, "Accelerate": 7200}, Settings()
    ).fleet()
    assert [machine.equipment_id for machine in fleet.machines] == ["cylinder-1", "cylinder-2"]
    assert {row["fault"] for row in fleet.rows(seconds=120)} == {"", "overload"}
