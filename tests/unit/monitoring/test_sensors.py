"""Sensors of a machine that break in operation and at rest, at every rate, and those that only look as if they did."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ml_inference.model.manifest import Feature, Manifest
from ml_inference.monitoring.alarms import SENSOR
from ml_inference.monitoring.sensors import SensorWatch
from ml_inference.monitoring.watch import Watch
from ml_inference.workbench.training.usual import usual_values
from sensor_simulator import SENSORS, Fleet
from sensor_simulator.many import read

MANIFEST = Path(__file__).parents[3] / "artifacts" / "model" / "manifest.json"
TEMPERATURE, Z, CURRENT, LOAD, ENCODER = 0, 1, 3, 4, 5
BEGIN = 1_700_000_000.0
Told = list[tuple[float, str, str, str | None]]
"""Events: seconds, sensor, what happened, why."""


@cache
def manifest() -> Manifest:
    return Manifest.model_validate(json.loads(MANIFEST.read_text(encoding="utf-8")))


@cache
def readings(step: float, seed: int = 70) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A machine that is well: two hours, or a hundred readings where these take longer, without a pause."""
    for number in range(seed, seed + 50):
        (machine,) = Fleet(machines=1, seed=number, fault_rate=0.0).machines
        values = read(machine, count=max(100, round(7_200.0 / step)), step=step).values
        if (values[:, CURRENT] > 50.0).all():
            return values
    raise AssertionError("no story without a pause")


def at_rest(count: int, seed: int = 1) -> Iterator[list[float]]:
    """A machine at rest: its sensors still have their noise; the encoder stands still."""
    random = np.random.default_rng(seed)
    for number in range(count):
        noise = random.normal(size=5)
        yield [
            round(66.0 - 0.01 * number + 0.3 * noise[0], 2),
            round(2.1 * (1.0 + 0.03 * noise[1]), 2),
            round(1.2 * (1.0 + 0.03 * noise[2]), 2),
            round(3.0 * (1.0 + 0.008 * noise[3]), 2),
            round(1.5 * (1.0 + 0.01 * noise[4]), 2),
            0.0,
        ]


class Machine:
    """A machine under watch."""

    def __init__(self) -> None:
        self.watch = Watch(manifest())
        self.seconds = BEGIN
        self.told: Told = []
        self.off = False
        self.faulty: dict[str, str] = {}

    def see(self, rows: Iterator[list[float]] | list[list[float]], step: float) -> None:
        limits = [(feature.minimum, feature.maximum) for feature in manifest().features]
        for row in rows:
            self.seconds += step
            valid = all(
                (low is None or value >= low) and (high is None or value <= high)
                for value, (low, high) in zip(row, limits, strict=True)
            )
            seen = self.watch.observe("m", self.seconds, row, clock=self.seconds, valid=valid)
            self.off, self.faulty = bool(seen.off), dict(seen.sensors)
            for event in self.watch.events():
                message = event.message
                if message["kind"] == SENSOR:
                    self.told.append((self.seconds, message["sensor"], message["event"], message.get("reason")))


def spoiled(rows: list[list[float]], column: int, value: Callable[[float], float]) -> list[list[float]]:
    return [[value(one) if place == column else one for place, one in enumerate(row)] for row in rows]


@pytest.mark.parametrize(("kind", "reason"), [("stuck", "stuck"), ("dead", "stuck"), ("saturated", "saturated")])
@pytest.mark.parametrize(
    ("step", "within", "column"),
    [
        *((1.0, 320.0, column) for column in (TEMPERATURE, CURRENT, ENCODER)),
        (10.0, 340.0, LOAD),
        *((60.0, 540.0, column) for column in range(6)),
        *((600.0, 3_600.0, column) for column in (Z, CURRENT)),
    ],
)
def test_a_broken_sensor_is_named_in_time_at_every_rate(
    kind: str, reason: str, step: float, within: float, column: int
) -> None:
    rows = readings(step).tolist()
    sound = rows[: round(max(700.0, 40 * step) / step)]
    value = {"stuck": sound[-1][column], "dead": 0.0, "saturated": 327.67 if column == TEMPERATURE else 655.35}[kind]
    machine = Machine()
    machine.see(sound, step)
    assert machine.told == []
    broken = rows[len(sound) : len(sound) + round(within / step)]
    machine.see(spoiled(broken, column, lambda _: value), step)
    assert [(name, event, why) for _, name, event, why in machine.told] == [(SENSORS[column], "opened", reason)]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (ENCODER, 655.35, "saturated"),
        (TEMPERATURE, 155.0, "saturated"),
        (LOAD, 655.35, "saturated"),
        (CURRENT, 655.35, "saturated"),
        (CURRENT, 0.0, "stuck"),
        (TEMPERATURE, 0.0, "stuck"),
        (Z, 0.0, "stuck"),
        (CURRENT, 104.36, "stuck"),  # what it said in operation
        (LOAD, 107.2, "stuck"),
        (Z, 2.08, "stuck"),
        (TEMPERATURE, 61.3, "stuck"),
    ],
)
def test_a_sensor_that_breaks_while_its_machine_stands_still_is_named_then_and_no_other_one(
    column: int, value: float, reason: str
) -> None:
    machine = Machine()
    machine.see(readings(1.0)[:700].tolist(), 1.0)
    rows = list(at_rest(700))
    machine.see(rows[:200], 1.0)
    assert machine.off
    machine.see(spoiled(rows[200:], column, lambda _: value), 1.0)
    assert [(name, event, why) for _, name, event, why in machine.told] == [(SENSORS[column], "opened", reason)]
    assert machine.off  # the others say so


def test_sensors_of_a_machine_at_rest_repeat_themselves_and_are_well() -> None:
    machine = Machine()
    machine.see(readings(1.0)[:700].tolist(), 1.0)
    machine.see(at_rest(2_000), 1.0)
    assert machine.told == []


def test_a_current_that_is_stuck_at_rest_does_not_keep_its_machine_off() -> None:
    machine = Machine()
    machine.see(readings(1.0)[:700].tolist(), 1.0)
    machine.see(at_rest(300), 1.0)
    machine.see(spoiled(readings(1.0)[700:1_100].tolist(), CURRENT, lambda _: 3.01), 1.0)
    assert not machine.off
    assert machine.faulty == {"wRMSCurrent": "stuck"}


@pytest.mark.parametrize(("step", "within"), [(1.0, 70.0), (60.0, 1_000.0)])
def test_a_stuck_sensor_that_is_mended_is_well_within_a_few_readings(step: float, within: float) -> None:
    rows = readings(step).tolist()
    machine = Machine()
    half = 40 if step > 1.0 else 700
    machine.see(rows[:half], step)
    machine.see(spoiled(rows[half : half + half // 2], Z, lambda _: 93.21), step)
    assert machine.faulty == {"rVibration_Z_RMS_Velocity": "stuck"}
    mended = machine.seconds
    machine.see(rows[half + half // 2 :], step)
    ((at, name, _, _),) = [one for one in machine.told if one[2] == "closed"]
    assert (name, at - mended <= within) == ("rVibration_Z_RMS_Velocity", True)


def test_one_that_freezes_now_and_then_gives_one_alarm() -> None:
    random = np.random.default_rng(4)
    machine = Machine()
    rows = readings(1.0).tolist()
    machine.see(rows[:700], 1.0)
    machine.see(spoiled(rows[700:3_000], Z, lambda value: 93.21 if random.random() < 0.3 else value), 1.0)
    assert [event for _, _, event, _ in machine.told] == ["opened"]


def test_a_coincidence_just_before_does_not_delay_the_finding() -> None:
    rows = readings(60.0)[:60].tolist()
    rows[38][TEMPERATURE] = rows[37][TEMPERATURE]
    machine = Machine()
    machine.see(rows[:40], 60.0)
    machine.see(spoiled(rows[40:48], TEMPERATURE, lambda _: 0.0), 60.0)
    assert machine.faulty == {"rVibration_Temp": "stuck"}


@pytest.mark.parametrize("step", [1.0, 30.0])
def test_a_coarse_sensor_that_reports_more_often_than_in_training_is_well_and_a_dead_one_is_found(step: float) -> None:
    def pressures(seed: int, count: int, step: float) -> list[float]:
        random = np.random.default_rng(seed)
        keep = np.exp(-step / 900.0)
        load, values = 0.0, []
        for _ in range(count):
            load = load * keep + random.normal(0.0, 0.3 * np.sqrt(1.0 - keep * keep))
            values.append(round(6.0 + load + random.normal(0.0, 0.08), 1))
        return values

    rows = [
        (machine, 30.0 * number, value)
        for machine in range(4)
        for number, value in enumerate(pressures(machine, 3_000, 30.0))
    ]
    features = usual_values(
        [Feature(name="pressure")],
        np.array([[value] for _, _, value in rows]),
        np.array([machine for machine, _, _ in rows]),
        np.array([at for _, at, _ in rows]),
    )
    watch = SensorWatch(features)
    state = watch.state()
    found: list[tuple[float, str | None]] = []
    values = pressures(9, 10_000, step) + [0.0] * round(540.0 / step)
    for number, value in enumerate(values):
        changes, _ = watch.look(state, [value], BEGIN + step * number, step=step)
        found += [(step * (number - 10_000), change.reason) for change in changes or ()]
    ((delay, reason),) = found
    assert reason == "stuck"
    assert 0.0 < delay <= 540.0
