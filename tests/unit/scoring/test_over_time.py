"""A model that knows of time, through the pipeline: what a device says of a machine whose readings go on."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ml_inference.model.bundle import Model, load_model
from ml_inference.model.over_time import Condition
from ml_inference.model.scorer import Scorer
from ml_inference.monitoring.alarms import iso
from ml_inference.monitoring.machines import Machines
from ml_inference.monitoring.watch import AlarmSettings, WatchedMachine
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import Rejection, Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import Reading, ReadingDecoder
from support.models import ABNORMAL, NORMAL, over_time, train_small

START = datetime(2026, 11, 22, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    running = [Condition(feature="wRMSCurrent", operator=">", value=20.0)]
    return load_model(over_time(train_small(tmp_path_factory.mktemp("model") / "small"), running=running))


class Line:
    """Machines that send a reading each step of time, and what the pipeline says of them."""

    def __init__(self, model: Model, step: float = 10.0, **options: Any) -> None:
        self.seconds = START.timestamp()
        self.step = step
        self.pipeline = Pipeline(model, clock=lambda: START + timedelta(days=30), **options)
        self.events: list[dict[str, Any]] = []
        self.random = random.Random(7)

    def send(self, values: dict[str, Any], machine: str = "m", **more: Any) -> Result | None:
        """Send one reading with a little noise on its numbers."""
        noisy = {
            key: value if key in more.get("exact", ()) or not isinstance(value, float) else value * self._noise()
            for key, value in values.items()
        }
        more.pop("exact", None)
        document = {"equipment_id": machine, "timestamp": iso(self.seconds)} | noisy | more
        outcome = self.pipeline.process(json.dumps(document).encode())
        self.events += [event.message for event in outcome.alarms]
        return outcome.results[0] if outcome.results else None

    def run(self, values: dict[str, Any], minutes: float, machine: str = "m", **more: Any) -> Result | None:
        """Let a machine send for some minutes."""
        result = None
        for _ in range(round(minutes * 60 / self.step)):
            self.seconds += self.step
            result = self.send(values, machine, **more)
        return result

    def _noise(self) -> float:
        return round(self.random.uniform(0.99, 1.01), 6)

    def of(self, kind: str) -> list[tuple[str, str | None]]:
        """Events of a kind, with their sensor."""
        return [(event["event"], event["sensor"]) for event in self.events if event["kind"] == kind]


def test_an_alarm_opens_goes_on_and_closes_as_one_with_its_peak_duration_and_reasons(model: Model) -> None:
    line = Line(model)
    assert (line.run(NORMAL, 15) or pytest.fail("not scored")).state == "normal"
    result = line.run(ABNORMAL, 10)
    assert result is not None
    assert result.state == "abnormal"
    assert result.as_message()["smoothed_score"] > 0.5
    assert (line.run(NORMAL, 15) or pytest.fail("not scored")).state == "normal"
    names = [name for name, _ in line.of("equipment")]
    assert names[0] == "opened"
    assert names[-1] == "closed"
    assert len({event["id"] for event in line.events}) == 1
    assert [event["sequence"] for event in line.events] == list(range(1, len(line.events) + 1))
    last = line.events[-1]
    assert last["peak_score"] >= last["score"]
    assert 300 < last["duration_seconds"] < 1200
    assert last["explanation"][0]["feature"] in {"rVibration_Temp", "wRMSCurrent", "wCurrentLoad"}


def test_a_few_odd_readings_open_no_alarm_and_the_rate_of_readings_does_not_matter(model: Model) -> None:
    for step in (1.0, 10.0):
        line = Line(model, step)
        line.run(NORMAL, 12)
        line.run(ABNORMAL, 10 / 60)
        line.run(NORMAL, 3)
        assert line.events == []
        line.run(ABNORMAL, 3)
        assert line.of("equipment")[0] == ("opened", None)


def test_doubled_late_and_future_readings_are_scored_and_leave_the_state_alone(model: Model) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    now = line.seconds
    for _ in range(100):
        assert line.send(ABNORMAL) is not None
    for back in range(1, 20):
        line.seconds = now - back
        line.send(ABNORMAL)
    line.seconds = (START + timedelta(days=30, minutes=6)).timestamp()
    for _ in range(100):
        line.seconds += 10
        assert (line.send(ABNORMAL) or pytest.fail("not scored")).abnormal
    assert line.events == []
    line.seconds = now
    line.run(NORMAL, 1)
    assert line.events == []


def test_a_machine_whose_clock_was_set_back_is_watched_again_after_some_readings(model: Model) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    line.seconds -= 86_400.0
    line.run(NORMAL, 6)
    line.run(ABNORMAL, 10)
    assert line.of("equipment")[0] == ("opened", None)


def test_a_machine_that_stands_still_is_off_and_opens_nothing(model: Model) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    result = line.run(ABNORMAL | {"wRMSCurrent": 3.0}, 30)
    assert result is not None
    assert result.state == "off"
    assert line.events == []


def test_a_stuck_sensor_is_named_and_withheld_and_the_machine_is_not_blamed(model: Model) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    stuck = NORMAL | {"rVibration_Temp": 140.0}
    result = line.run(stuck, 20, exact=["rVibration_Temp"])
    assert line.of("sensor") == [("opened", "rVibration_Temp")]
    assert line.events[0]["reason"] == "saturated"  # beyond all that training saw
    assert result is not None
    message = result.as_message()
    assert message["sensors"] == {"rVibration_Temp": "saturated"}
    assert message["missing"] == ["rVibration_Temp"]
    assert message["state"] == "normal"
    assert line.of("equipment") == []
    line.run(NORMAL, 30)
    assert line.of("sensor")[-1] == ("closed", "rVibration_Temp")


def test_a_sensor_that_was_broken_before_its_machine_was_known_is_told_once_it_is(model: Model) -> None:
    line = Line(model, step=1.0)
    line.run(NORMAL | {"rVibration_Temp": 140.0}, 9, exact=["rVibration_Temp"])
    assert line.of("sensor") == []
    line.run(NORMAL | {"rVibration_Temp": 140.0}, 3, exact=["rVibration_Temp"])
    assert line.of("sensor") == [("opened", "rVibration_Temp")]


def test_a_sensor_that_a_gateway_merely_repeats_is_not_stuck(model: Model) -> None:
    line = Line(model)
    line.run(NORMAL, 30, exact=["rVibration_Temp"], held=["rVibration_Temp"])
    assert line.events == []


@pytest.mark.parametrize(
    ("broken", "reason"),
    [({"rVibration_Temp": None}, "missing"), ({"rVibration_Temp": 327.67}, "saturated")],
)
def test_rejected_readings_tell_of_their_sensors_and_are_scored_without_them_once_these_are_known_to_be_faulty(
    model: Model, broken: dict[str, Any], reason: str
) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    line.seconds += 10
    assert line.send(NORMAL | broken, exact=["rVibration_Temp"]) is None
    assert line.run(NORMAL | broken, 10, exact=["rVibration_Temp"]) is not None
    assert [(event["kind"], event["reason"]) for event in line.events] == [("sensor", reason)]
    line.run(ABNORMAL | broken, 15, exact=["rVibration_Temp"])
    assert ("opened", None) in line.of("equipment")


def test_a_machine_that_falls_silent_is_missed_after_an_hour_of_reporting_and_more_than_ten_are_one_alarm(
    model: Model,
) -> None:
    line = Line(model, 60.0, settings=AlarmSettings(silence_seconds=600.0))
    machines = [f"m{number}" for number in range(14)]

    def together(minutes: int, names: list[str]) -> None:
        for _ in range(minutes):
            line.seconds += 60
            for name in names:
                line.send(NORMAL, name)

    together(30, machines)
    together(30, ["m0"])
    assert line.events == []  # not an hour yet
    together(90, machines)
    together(30, machines[:-1])
    assert [(event["event"], event["equipment_id"]) for event in line.events] == [("opened", "m13")]
    together(5, machines)
    assert line.events[-1]["event"] == "closed"
    together(30, ["m0"])
    assert [event["equipment_id"] for event in line.events[2:]] == [""]
    assert line.events[-1]["reason"].endswith("machines are silent")


def test_maintenance_and_shelving_keep_alarms_from_opening_for_their_time(model: Model) -> None:
    for how in ("maintain", "shelve"):
        line = Line(model)
        line.run(NORMAL, 15)
        assert line.pipeline.watch is not None
        getattr(line.pipeline.watch, how)("m", 1800.0)
        line.run(ABNORMAL, 25)
        assert line.events == []
        line.run(ABNORMAL, 15)
        assert line.of("equipment")[0] == ("opened", None)


def test_made_up_machines_evict_only_each_other(model: Model) -> None:
    line = Line(model)
    watch = line.pipeline.watch
    assert watch is not None
    watch.machines = Machines(WatchedMachine, known=100, newcomers=50)
    line.run(NORMAL, 15, "real")
    for number in range(600):
        line.send(NORMAL, f"made-up-{number}")
    assert watch.machines.known == 1
    assert len(watch.machines) <= 150
    line.run(ABNORMAL, 10, "real")
    assert line.of("equipment")[0] == ("opened", None)


def test_a_state_that_is_kept_and_restored_goes_on_with_the_same_alarms(model: Model) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    line.run(ABNORMAL, 10)
    line.run(NORMAL | {"rVibration_Temp": 140.0}, 2, "other", exact=["rVibration_Temp"])
    assert line.pipeline.watch is not None
    state = json.loads(json.dumps(line.pipeline.watch.state()))
    again = Line(model)
    assert again.pipeline.watch is not None
    again.pipeline.watch.restore(state)
    again.seconds = line.seconds
    for _ in range(2):
        for one in (line, again):
            one.random = random.Random(1)
            one.events.clear()
            one.run(NORMAL, 10)
        assert again.events == line.events
    assert again.events == []


def test_a_request_for_an_explanation_gets_a_fresh_one_and_others_get_that_of_the_alarm_with_its_age(
    model: Model,
) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    line.run(ABNORMAL, 10)
    ages = []
    for number in range(6):
        line.seconds += 10
        result = line.send(ABNORMAL, explain=True) if number == 3 else line.send(ABNORMAL)
        assert result is not None
        assert result.explanation
        ages.append(result.as_message().get("explanation_age_seconds"))
    assert ages[3] is None
    assert ages[4] == 10.0


def test_abnormal_readings_share_an_explanation_for_a_minute_unless_the_state_changes(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    explained: list[float] = []
    original = Scorer.contributions

    def contributions(scorer: Scorer, rows: Any) -> Any:
        explained.append(line.seconds)
        return original(scorer, rows)

    monkeypatch.setattr(Scorer, "contributions", contributions)
    results = []
    for _ in range(600):
        line.seconds += 1
        results.append(line.send(ABNORMAL))
    assert all(result is not None and result.abnormal and result.explanation for result in results)
    ages = [result.as_message().get("explanation_age_seconds", 0.0) for result in results if result is not None]
    assert max(ages) < 60.0
    changes = [place for place, result in enumerate(results) if result is not None and result.state_changed]
    assert changes
    assert all(ages[place] == 0.0 for place in changes)
    # Once a minute for the alarm's reasons, and the result's beside them.
    assert len(explained) <= 2 * 600 / 60 + 2


def test_without_time_for_explanations_only_who_asks_gets_a_new_one(model: Model) -> None:
    line = Line(model)
    line.run(NORMAL, 15)
    line.pipeline.explaining = False
    first = line.send(ABNORMAL, "late")  # a machine's first reading is a new state
    line.seconds += 1
    asked = line.send(ABNORMAL, "late", explain=True)
    line.seconds += 30
    soon = line.send(ABNORMAL, "late")
    line.seconds += 1
    line.pipeline.judge_by(Judgement(explain_top_k=2))  # the one before had three features
    later = line.send(ABNORMAL, "late")
    assert first is not None
    assert first.explanation
    assert asked is not None
    assert asked.explanation
    assert soon is not None
    assert soon.as_message()["explanation_age_seconds"] == 30.0
    assert later is not None
    assert later.explanation == ()
    assert line.pipeline.explanations_skipped == 1


def test_settings_override_the_manifests_levels(model: Model) -> None:
    line = Line(model, settings=AlarmSettings(open_score=0.9999999, close_score=0.2))
    line.run(NORMAL, 15)
    line.run(ABNORMAL, 20)
    assert line.events == []


def test_a_model_of_format_1_judges_as_before_and_opens_no_alarm(tmp_path: Path) -> None:
    line = Line(load_model(train_small(tmp_path / "one")))
    line.run(NORMAL, 1)
    result = line.run(ABNORMAL, 15)
    assert result is not None
    assert result.state == "abnormal"
    assert set(result.as_message()) == {
        *("correlation_id", "equipment_id", "timestamp", "score", "threshold", "abnormal", "state", "model"),
        "explanation",
    }
    assert line.events == []
    assert line.pipeline.watch is None


@pytest.mark.parametrize("kind", ["single readings", "over time"])
def test_in_slices_a_batch_becomes_what_it_would_have_become_at_once(
    kind: str, model: Model, model_directory: Path
) -> None:
    used = model if kind == "over time" else load_model(model_directory)
    documents: list[Any] = []
    for number in range(300):
        values = ABNORMAL if 100 <= number < 200 else NORMAL
        document = values | {"equipment_id": f"m{number % 3}", "timestamp": iso(START.timestamp() + 10 * number)}
        documents.append({} if number % 7 == 0 else document | {"wRMSCurrent": None} if number % 11 == 0 else document)
    payload = json.dumps(documents).encode()
    clock = lambda: START + timedelta(days=1)  # noqa: E731
    whole = Pipeline(used, clock=clock).process(payload)
    told: list[Any] = []
    seen: list[frozenset[str]] = []

    def between(machines: Any, events: Any) -> None:
        seen.append(machines)
        told.extend(events)

    sliced = Pipeline(used, clock=clock).process_in_slices(payload, 32, between)
    if kind == "single readings":
        assert [item.as_message() for item in sliced.results] == [item.as_message() for item in whole.results]
    # What is known of a machine over time is known from the next slice on, and not only from the next batch on.
    assert [(item.index, item.equipment_id, isinstance(item, Result)) for item in sliced.items] == [
        (item.index, item.equipment_id, isinstance(item, Result)) for item in whole.items
    ]
    opened = [
        {(event.message["kind"], event.message["equipment_id"], event.message["sensor"]) for event in events}
        for events in ((*told, *sliced.alarms), whole.alarms)
    ]
    assert opened[0] >= opened[1] != set() or kind == "single readings"
    assert seen == [frozenset({"m0", "m1", "m2", ""})] * 9


def test_a_slice_is_not_even_looked_at_before_its_turn(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    original = ReadingDecoder.reading

    def reading(decoder: ReadingDecoder, document: Any, index: int | None = None) -> Reading | Rejection:
        looked_at.append(index or 0)
        return original(decoder, document, index)

    monkeypatch.setattr(ReadingDecoder, "reading", reading)
    counts: list[int] = []
    payload = json.dumps([{}] * 100).encode()
    outcome = Pipeline(model).process_in_slices(payload, 32, lambda *_: counts.append(len(looked_at)))
    assert counts == [32, 64, 96]
    assert [item.index for item in outcome.items] == list(range(100))
