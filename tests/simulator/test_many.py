"""Many readings at once are exactly the readings taken one at a time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensor_simulator import LABEL, SENSORS, START, Fleet, many
from sensor_simulator.fleet import SENSOR_FAULT, Row

BLOCKS = (300, 1, 2, 397, 100)


def rows_of(readings: many.Readings, name: str) -> list[tuple[object, ...]]:
    episodes = {number: (f"{name}/{number}", fault) for number, fault in readings.fault} | {0: ("", "")}
    broken = dict(readings.sensor_fault) | {0: ""}
    return [
        (*values, label, *episodes[episode], broken[number])
        for values, label, episode, number in zip(
            *(part.tolist() for part in (readings.values, readings.abnormal, readings.episode, readings.broken)),
            strict=True,
        )
    ]


def cells(row: Row) -> tuple[object, ...]:
    return (
        *(row[sensor] for sensor in SENSORS),
        float(row[LABEL]) > 0,
        row["episode"],
        row["fault"],
        row.get(SENSOR_FAULT, ""),
    )


@pytest.mark.parametrize(
    ("step", "story"),
    [
        (1.0, {}),
        (1200.0, {"seed": 3, "fault_rate": 1.0}),
        (240.0, {"seed": 4, "fault": "stuck_sensor", "fault_rate": 3.0}),
        (241.7, {"seed": 4, "fault": "slipping_encoder", "fault_rate": 3.0, "sensor_fault_rate": 3.0}),
        (1.0, {"seed": 4, "story": 2, "fault_rate": 0.2, "sensor_fault_rate": 1.0, "accelerate": 900.0}),
        (3600.0, {"seed": 9, "fault_rate": 0.5, "sensor_fault_rate": 1.0, "sensor_fault_when": "during"}),
    ],
)
def test_many_at_once_are_the_same_numbers_as_one_at_a_time(step: float, story: dict[str, Any]) -> None:
    single, together = (Fleet(machines=2, **story).machines[1] for _ in range(2))
    found = []
    for count in BLOCKS:
        found += rows_of(many.read(together, count=count, step=step), together.equipment_id)
    assert found == [cells(single.read(step=step, at=START)) for _ in range(sum(BLOCKS))]
    # And both go on in the same way.
    assert together.read(step=step, at=START) == single.read(step=step, at=START)


def test_rounding_is_that_of_decimal_digits() -> None:
    halves = np.array([[0.005, 0.015, 1.005, 2.675, 107.125, 99.985, 0.125, 655.345, 68.4999999, 1e-9]])
    numbers = np.concatenate((halves, np.nextafter(halves, 1e3), np.nextafter(halves, -1e3), -halves))
    assert many.hundredths(numbers).tolist() == [[round(number, 2) for number in row] for row in numbers.tolist()]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_files_are_the_same_with_and_without_numpy(form: str, tmp_path: Path) -> None:
    options = ["--machines", "3", "--seconds", "300000", "--rate", "0.001", "--fault-rate", "2", "--format", form]
    options += ["--sensor-fault-rate", "2", "--story", "2"]
    options += ["--bad-every", "7"] if form == "jsonl" else []
    without = "import sys; sys.modules['numpy'] = None; from sensor_simulator.cli import main; sys.exit(main())"
    for name, start in (("with", ["-m", "sensor_simulator"]), ("without", ["-c", without])):
        out = ["--out", str(tmp_path / name), "--episodes", str(tmp_path / f"{name}.jsonl")]
        subprocess.run([sys.executable, *start, *options, *out], timeout=60, check=True)
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()
    assert (tmp_path / "with.jsonl").read_bytes() == (tmp_path / "without.jsonl").read_bytes()
    assert (tmp_path / "with").read_bytes().count(b"\n") == 3 * 300 + (form == "csv")
