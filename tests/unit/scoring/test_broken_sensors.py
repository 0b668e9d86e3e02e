"""The shipped model through the pipeline: a sensor that jumps, the reasons of a fault, a machine that is a new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_inference.model.bundle import Model, load_model
from ml_inference.monitoring.alarms import iso
from ml_inference.scoring.outcomes import Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.serving.control import Control
from sensor_simulator import SENSORS, Fault, Fleet

START = datetime(2026, 1, 5, tzinfo=timezone.utc)
LATE = START + timedelta(days=365)
STEP = 60.0
HOUR = 3_600.0


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(Path(__file__).parents[3] / "artifacts" / "model")


class Machine:
    """One simulated machine and what the pipeline says of it."""

    def __init__(self, model: Model, *, seed: int) -> None:
        (self.machine,) = Fleet(machines=1, seed=seed, fault_rate=0.0).machines
        self.pipeline = Pipeline(model, clock=lambda: LATE)
        self.seconds = START.timestamp()
        self.events: list[dict[str, Any]] = []
        self.last: dict[str, Any] = {}

    def run(self, hours: float, spoil: Callable[[dict[str, float]], None] | None = None) -> None:
        for _ in range(round(hours * HOUR / STEP)):
            self.seconds += STEP
            row = self.machine.read(step=STEP, at=datetime.fromtimestamp(self.seconds, timezone.utc))
            values = {name: float(row[name]) for name in SENSORS}
            if spoil is not None:
                spoil(values)
            document = {"equipment_id": "m", "timestamp": iso(self.seconds)} | values
            outcome = self.pipeline.process(json.dumps(document).encode())
            self.events += [event.message for event in outcome.alarms]
            (result,) = outcome.items
            assert isinstance(result, Result)
            self.last = result.as_message()

    def told(self, kind: str) -> list[tuple[str, str | None, str | None]]:
        """Events of a kind: what, which sensor, why."""
        return [(one["event"], one["sensor"], one.get("reason")) for one in self.events if one["kind"] == kind]


def half_as_much_again(values: dict[str, float]) -> None:
    values["rVibration_Z_RMS_Velocity"] = round(values["rVibration_Z_RMS_Velocity"] * 1.5, 2)


@pytest.fixture
def machine(model: Model) -> Machine:
    machine = Machine(model, seed=31)
    machine.run(3.0)
    assert machine.events == []
    assert machine.last["state"] == "normal"
    return machine


OPENED = ("opened", "rVibration_Z_RMS_Velocity", "inconsistent")


def test_a_sensor_that_jumps_is_named_and_withheld_and_the_machine_is_not_blamed(machine: Machine) -> None:
    machine.run(0.25, half_as_much_again)
    assert machine.told("sensor") == [OPENED]
    assert machine.last["sensors"] == {"rVibration_Z_RMS_Velocity": "inconsistent"}
    assert machine.last["missing"] == ["rVibration_Z_RMS_Velocity"]
    machine.run(1.0, half_as_much_again)
    machine.run(1.0)
    assert [one[0] for one in machine.told("sensor")] == ["opened", "closed"]
    assert machine.told("equipment") == []
    assert "sensors" not in machine.last


def test_a_restart_keeps_it_and_still_finds_out_when_it_is_over(machine: Machine, model: Model) -> None:
    machine.run(0.25, half_as_much_again)
    assert machine.pipeline.watch is not None
    assert machine.pipeline.history is not None
    state, past = json.loads(json.dumps(machine.pipeline.watch.state())), machine.pipeline.history.state()
    machine.pipeline = Pipeline(model, clock=lambda: LATE)
    assert machine.pipeline.watch is not None
    assert machine.pipeline.history is not None
    machine.pipeline.watch.restore(state)
    machine.pipeline.history.restore(past)
    machine.run(0.5, half_as_much_again)
    assert machine.last["sensors"] == {"rVibration_Z_RMS_Velocity": "inconsistent"}
    machine.run(1.0)
    assert [one[0] for one in machine.told("sensor")] == ["opened", "closed"]
    assert len({one["id"] for one in machine.events}) == 1


def test_one_that_dies_then_is_named_as_stuck_under_the_same_id(machine: Machine) -> None:
    def dead(values: dict[str, float]) -> None:
        values["rVibration_Z_RMS_Velocity"] = 0.0

    machine.run(0.25, half_as_much_again)
    machine.run(0.25, dead)
    assert [(one[0], one[2]) for one in machine.told("sensor")] == [("opened", "inconsistent"), ("updated", "stuck")]
    assert machine.last["sensors"] == {"rVibration_Z_RMS_Velocity": "stuck"}
    assert len({one["id"] for one in machine.events}) == 1


def test_maintenance_ends_it_and_with_a_new_baseline_the_past_is_forgotten(machine: Machine, tmp_path: Path) -> None:
    machine.run(0.25, half_as_much_again)
    control = Control(tmp_path)
    for new_baseline in (False, True):
        request = {"action": "maintenance", "equipment_id": "m", "seconds": 600, "new_baseline": new_baseline}
        pipeline = machine.pipeline
        assert pipeline.history is not None
        reply = control.handle(json.dumps(request).encode(), pipeline.watch, None, pipeline.forget)
        assert reply["ok"]
        known = pipeline.history.update("m", None, [0.0] * len(SENSORS))
        assert bool(np.isfinite(known).any()) is not new_baseline
    machine.run(0.2, half_as_much_again)
    assert machine.told("sensor") == [OPENED, ("closed", *OPENED[1:])]
    assert "sensors" not in machine.last


@pytest.mark.parametrize("seed", [2, 27])
def test_the_first_two_reasons_of_an_overload_name_the_load_or_the_current(model: Model, seed: int) -> None:
    fleet = Fleet(machines=1, seed=seed, fault=Fault.OVERLOAD, fault_rate=0.5)
    (truth, *_) = fleet.truth(seconds=3 * 86_400.0, step=300.0)
    rows = [{key: row[key] for key in ("timestamp", *SENSORS)} for row in fleet.rows(seconds=3 * 86_400.0, step=300.0)]
    outcome = Pipeline(model, clock=lambda: LATE).process(json.dumps(rows).encode())
    alarms = [event.message for event in outcome.alarms if event.message["kind"] == "equipment"]
    assert iso(truth.onset.timestamp()) < alarms[0]["opened"] < iso(truth.repair.timestamp())
    for alarm in (alarms[0], alarms[-1]):
        assert {one["feature"] for one in alarm["explanation"][:2]} & {"wCurrentLoad", "wRMSCurrent"}


def test_readings_much_rarer_than_those_that_the_levels_were_measured_at_are_a_problem(model: Model) -> None:
    for step, says in ((60.0, False), (10.0, False), (900.0, True)):
        pipeline = Pipeline(model, clock=lambda: LATE)
        row = Fleet(machines=1, seed=3).machines[0].read(step=1.0, at=START)
        values = {name: row[name] for name in SENSORS}
        moments = [START.timestamp() + number * step for number in range(round(4_000.0 / step) + 12)]
        pipeline.process(json.dumps([{"timestamp": iso(at)} | values for at in moments]).encode())
        assert pipeline.watch is not None
        assert ("every 900 s" in (pipeline.watch.rate_problem or "")) is says
        assert (pipeline.watch.rate_problem is not None) is says
