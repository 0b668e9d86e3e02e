"""What is known of the line now: its machines, their alarms, the inference component, and what of it has changed since when.

Everything that comes in passes through `Line.take`, on one thread, and everything that the page shows comes out of here. Memory is
bounded by the number of machines and sensors, which are bounded themselves. It does no I/O, and no text of a message means anything to it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inference_dashboard import messages
from inference_dashboard.messages import Alarm, Feature, Features, Health, Reading, Reason, Rejection, Result
from inference_dashboard.series import NAN, Ring, Summary

MAX_MACHINES = 5000
"""More are counted, not shown: the name of a machine comes from whoever may publish."""
MAX_COLUMNS = 64
"""Sensors in all; a line with more shows the first ones of the model."""
RING_SAMPLES = 300
"""Samples of a machine in memory, one a second: 2,000 machines with six sensors take some 30 MB."""
SPARK_SAMPLES = 60
"""Points of a tile's curve."""
MAX_PENDING = 20_000
"""Readings that wait for their result, to measure the time between."""
PENDING_SECONDS = 30.0
MAX_KNOWN_ALARMS = 5000
"""Alarms whose last event is remembered, so that one that comes again changes nothing."""
PRESUME_CLOSED_SECONDS = 15.0
"""Results that contradict an open alarm for so long end it here: the event of its end was missed."""
CLOCK_SLACK_SECONDS = 5.0
"""How far into the future a message's own time may lie; beyond it the time of arrival counts."""
OLDEST_SECONDS = 120.0
"""How old it may be: what comes later was kept back somewhere and would draw the curve backwards."""
LATENCY_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""In seconds."""

Kind = Literal["reading", "result", "alarm", "error", "health"]


@dataclass(slots=True)
class Machine:
    """One machine.

    Attributes:
        number: Stands for the name in the history and between page and server.
        since: When its state began.
        heard: When its last result came.
        changed: Number of the tick in which something but the score changed.
        moved: Number of the tick in which the score changed.
    """

    number: int
    name: str
    state: str | None = None
    abnormal: bool | None = None
    since: float = 0.0
    heard: float = 0.0
    score: float | None = None
    smoothed: float | None = None
    threshold: float | None = None
    forecast_hours: float | None = None
    reasons: tuple[Reason, ...] = ()
    sensors: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    alarms: dict[str, Alarm] = field(default_factory=dict)
    scores: Ring = field(default_factory=lambda: Ring(RING_SAMPLES))
    readings: Ring = field(default_factory=lambda: Ring(RING_SAMPLES))
    minute: Summary = field(default_factory=Summary)
    changed: int = 0
    moved: int = 0

    @property
    def mood(self) -> str:
        """What the tile says: the gravest thing that holds."""
        kinds = {alarm.kind for alarm in self.alarms.values()}
        if "equipment" in kinds or self.state == "abnormal":
            return "abnormal"
        if "silence" in kinds:
            return "silent"
        if "sensor" in kinds or self.sensors:
            return "sensor"
        if "drift" in kinds:
            return "drift"
        return {"off": "off", "normal": "normal"}.get(self.state or "", "unknown")


@dataclass(slots=True)
class Counts:
    """What came, since this process began."""

    messages: Counter[str] = field(default_factory=Counter)
    readings: int = 0
    results: int = 0
    abnormal: int = 0
    rejections: int = 0
    opened: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    not_shown: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    latency_total: float = 0.0


class Line:
    """The line as it stands.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.machines: dict[str, Machine] = {}
        self.by_number: dict[int, Machine] = {}
        self.columns: dict[str, int] = {}
        self.features: dict[str, Feature] = {}
        self.model = ""
        self.health: Health | None = None
        self.health_at = 0.0
        self.loose_alarms: dict[str, Alarm] = {}
        self.counts = Counts()
        self.last_rejections: deque[tuple[float, Rejection]] = deque(maxlen=20)
        self.tick = 1
        self.system_changed = 1
        self.dirty_machines: set[int] = set()
        self.dirty_alarms: dict[str, Alarm] = {}
        self.dirty_features = False
        self.news: list[tuple[str, Alarm]] = []
        self._sequences: dict[str, int] = {}
        self._parts: dict[int, tuple[Feature, ...]] = {}
        self._parts_of = ("", 0)
        self._pending: dict[tuple[str, str | float], float] = {}
        self._contradicted: dict[str, float] = {}
        self._last_number = 0

    # In.

    def take(self, kind: Kind, payload: bytes, arrived: float) -> None:
        """Take a message.

        Args:
            kind: The topic that it came on.
            payload: JSON.
            arrived: When, in seconds since 1970.
        """
        self.counts.messages[kind] += 1
        before = self.counts.readings + self.counts.results + self.counts.rejections
        if kind == "reading":
            for reading in messages.readings(payload):
                self._reading(reading, arrived)
        elif kind == "result":
            for result in messages.results(payload):
                self._result(result, arrived)
        elif kind == "error":
            for rejection in messages.rejections(payload):
                self.counts.rejections += 1
                self.last_rejections.append((arrived, rejection))
                self.system_changed = self.tick
        else:
            self._told(kind, payload, arrived)
            return
        self.counts.unreadable += before == self.counts.readings + self.counts.results + self.counts.rejections

    def _told(self, kind: Kind, payload: bytes, arrived: float) -> None:
        if kind == "alarm":
            alarm = messages.alarm(payload)
            if alarm is not None:
                self.enter(alarm)
        else:
            alarm = None
            health, features = messages.health(payload)
            if features is not None:
                self._features(features)
            if health is not None:
                self.health, self.health_at = health, arrived
                self.system_changed = self.tick
            if health is not None or features is not None:
                return
        self.counts.unreadable += alarm is None

    def _reading(self, reading: Reading, arrived: float) -> None:
        self.counts.readings += 1
        if reading.key is not None:
            self._pending[reading.machine, reading.key] = arrived
            if len(self._pending) > MAX_PENDING:
                del self._pending[next(iter(self._pending))]
        machine = self.machines.get(reading.machine)
        if machine is None:
            return  # a result makes a machine known: rejected readings may bear any name
        columns, values = self.columns, reading.values
        if not columns.keys() >= values.keys():
            self._new_columns(values)
        sample = [NAN] * len(columns)
        minute, features = machine.minute, self.features
        for name, value in values.items():
            column = columns.get(name)
            if column is None:
                continue
            feature = features.get(name)
            if feature is not None and not (
                (feature.minimum is None or value >= feature.minimum)
                and (feature.maximum is None or value <= feature.maximum)
            ):
                continue  # physically impossible: rejected, and would only spoil the scale
            sample[column] = value
            minute.add(column + 1, value)
        machine.readings.add(self._time(reading.at, arrived), sample)

    def _result(self, result: Result, arrived: float) -> None:
        counts = self.counts
        counts.results += 1
        counts.abnormal += result.abnormal is True
        if result.key is not None:
            asked = self._pending.pop((result.machine, result.key), None)
            if asked is not None and arrived - asked < PENDING_SECONDS:
                took = max(0.0, arrived - asked)
                counts.latency[bisect_left(LATENCY_BUCKETS, took)] += 1
                counts.latency_total += took
        machine = self.machines.get(result.machine) or self._new_machine(result.machine, arrived)
        if machine is None:
            counts.not_shown += 1
            return
        at = self._time(result.at, arrived)
        before = machine.mood if machine.alarms else None
        machine.heard = arrived
        machine.score, machine.smoothed = result.score, result.smoothed
        machine.moved = self.tick
        if result.smoothed is not None:
            raw = NAN if result.score is None else result.score
            machine.scores.add(at, (result.smoothed, raw))
            machine.minute.add(0, result.smoothed)
        different = (
            machine.state != result.state
            or machine.sensors != result.sensors
            or machine.missing != result.missing
            or machine.threshold != result.threshold
            or machine.forecast_hours != result.forecast_hours
        )
        if machine.state != result.state:
            machine.state, machine.since = result.state, at
            if result.state != "abnormal":
                machine.reasons = ()
        machine.abnormal = result.abnormal
        machine.sensors, machine.missing = result.sensors, result.missing
        machine.threshold, machine.forecast_hours = result.threshold, result.forecast_hours
        if result.reasons and result.reasons != machine.reasons and result.state == "abnormal":
            machine.reasons = result.reasons
            different = True
        if machine.alarms:
            self._contradict(machine, arrived)
            different = different or machine.mood != before
        if different:
            self._touch(machine)

    def enter(self, alarm: Alarm) -> None:
        """Enter an event of an alarm; one that is no news changes nothing."""
        if alarm.sequence <= self._sequences.get(alarm.id, -1):
            return
        machine = None
        if alarm.machine or alarm.kind != "drift":
            machine = self.machines.get(alarm.machine) or self._new_machine(alarm.machine, alarm.opened)
        held = self.loose_alarms if machine is None else machine.alarms
        was_open = alarm.id in held
        known = alarm.id in self._sequences
        self._sequences.pop(alarm.id, None)
        self._sequences[alarm.id] = alarm.sequence
        if len(self._sequences) > MAX_KNOWN_ALARMS:
            del self._sequences[next(iter(self._sequences))]
        if alarm.closed is None:
            held[alarm.id] = alarm
            if not known:
                self.counts.opened[alarm.kind] += 1
                self.news.append(("opened", alarm))
        else:
            held.pop(alarm.id, None)
            if was_open or not known:
                self.counts.closed[alarm.kind] += 1
                self.news.append(("closed", alarm))
        self._contradicted.pop(alarm.id, None)
        self.dirty_alarms[alarm.id] = alarm
        if machine is not None:
            self._touch(machine)
        self.system_changed = self.tick

    def restore(
        self,
        machines: Iterable[tuple[int, str, Mapping[str, Any]]],
        columns: Iterable[str],
        features: Iterable[Feature],
        alarms: Iterable[Alarm],
        model: str,
    ) -> None:
        """Begin where an earlier process ended.

        Args:
            machines: Number, name and `saved` of each machine.
            columns: Names of the sensors in the order of their columns.
            features: The model's features.
            alarms: Alarms that were open.
            model: Name and version of the model that the features are of.
        """
        self.columns = {name: column for column, name in enumerate(columns)}
        self.features = {feature.name: feature for feature in features}
        self.model = model
        for number, name, saved in machines:
            machine = Machine(number, name)
            state = saved.get("state")
            machine.state = state if isinstance(state, str) else None
            machine.since = messages.number(saved.get("since")) or 0.0
            machine.heard = messages.number(saved.get("heard")) or 0.0
            machine.score = messages.number(saved.get("score"))
            machine.smoothed = messages.number(saved.get("smoothed"))
            machine.threshold = messages.number(saved.get("threshold"))
            machine.reasons = messages.reasons(saved.get("reasons"))
            sensors = saved.get("sensors")
            machine.sensors = dict(sensors) if isinstance(sensors, dict) else {}
            self.machines[name] = self.by_number[number] = machine
            self._last_number = max(self._last_number, number)
        for alarm in alarms:
            held = self.machines[alarm.machine].alarms if alarm.machine in self.machines else self.loose_alarms
            held[alarm.id] = alarm
            self._sequences[alarm.id] = alarm.sequence

    # The passing of time.

    def advance(self) -> int:
        """End the running tick: what comes from now on belongs to the next.

        Returns:
            The number of the tick that ended.
        """
        ended, self.tick = self.tick, self.tick + 1
        return ended

    def _contradict(self, machine: Machine, arrived: float) -> None:
        """Note which alarms the last result contradicts, and end those that are contradicted for long."""
        for alarm in list(machine.alarms.values()):
            if alarm.kind == "equipment":
                contradicted = machine.state in ("normal", "off")
            elif alarm.kind == "sensor":
                contradicted = machine.state != "off" and alarm.sensor not in machine.sensors
            else:
                contradicted = alarm.kind == "silence"
            if not contradicted:
                self._contradicted.pop(alarm.id, None)
                continue
            first = self._contradicted.setdefault(alarm.id, arrived)
            if arrived - first >= PRESUME_CLOSED_SECONDS:
                alarm.closed, alarm.presumed = first, True
                del machine.alarms[alarm.id]
                self._contradicted.pop(alarm.id, None)
                self.counts.closed[alarm.kind] += 1
                self.news.append(("closed", alarm))
                self.dirty_alarms[alarm.id] = alarm
                self.system_changed = self.tick

    def _touch(self, machine: Machine) -> None:
        machine.changed = self.tick
        self.dirty_machines.add(machine.number)

    def _new_machine(self, name: str, at: float) -> Machine | None:
        if len(self.machines) >= MAX_MACHINES:
            return None
        self._last_number = number = self._last_number + 1
        machine = Machine(number, name, since=at, heard=at)
        self.machines[name] = self.by_number[number] = machine
        self._touch(machine)
        return machine

    def _new_columns(self, names: Iterable[str]) -> None:
        for name in names:
            known_to_model = not self.features or name in self.features
            if name not in self.columns and known_to_model and len(self.columns) < MAX_COLUMNS:
                if len(name) > messages.MAX_NAME_CHARACTERS:
                    continue
                self.columns[name] = len(self.columns)
                self.dirty_features = True

    def _features(self, told: Features) -> None:
        if self._parts_of != (told.model, told.parts):
            self._parts_of, self._parts = (told.model, told.parts), {}
        self._parts[told.part] = told.features
        if len(self._parts) < told.parts:
            return
        features = {feature.name: feature for part in sorted(self._parts) for feature in self._parts[part]}
        self._parts_of, self._parts = ("", 0), {}
        if features != self.features or told.model != self.model:
            self.features, self.model = features, told.model
            self._new_columns(features)
            self.dirty_features = True
            self.system_changed = self.tick

    def _time(self, at: float | None, arrived: float) -> float:
        if at is None or at > arrived + CLOCK_SLACK_SECONDS or at < arrived - OLDEST_SECONDS:
            return arrived
        return at

    # Out.

    def shown_features(self) -> list[Feature]:
        """The sensors in the model's order, or in that of their appearance while the model is unknown."""
        if self.features:
            return [feature for name, feature in self.features.items() if name in self.columns]
        return [Feature(name) for name in self.columns]

    def open_alarms(self) -> list[Alarm]:
        """Every open alarm, the newest first."""
        found = [alarm for machine in self.machines.values() for alarm in machine.alarms.values()]
        return sorted([*found, *self.loose_alarms.values()], key=lambda alarm: -alarm.opened)

    def saved(self, machine: Machine) -> dict[str, Any]:
        """What has to outlive this process, for `restore`."""
        return {
            "state": machine.state,
            "since": machine.since,
            "heard": machine.heard,
            "score": machine.score,
            "smoothed": machine.smoothed,
            "threshold": machine.threshold,
            "reasons": [reason.as_json() for reason in machine.reasons],
            "sensors": machine.sensors,
        }

    def tile(self, machine: Machine, *, spark: bool = False) -> dict[str, Any]:
        """A machine as the page shows it.

        Args:
            machine: The machine.
            spark: Whether to add the curve of the score.
        """
        tile: dict[str, Any] = {
            "n": machine.number,
            "name": machine.name,
            "mood": machine.mood,
            "state": machine.state,
            "since": round(machine.since, 1),
            "heard": round(machine.heard, 1),
            "score": rounded(machine.score),
            "smoothed": rounded(machine.smoothed),
            "threshold": machine.threshold,
        }
        if machine.forecast_hours is not None:
            tile["forecast_hours"] = machine.forecast_hours
        if machine.reasons:
            tile["reasons"] = [reason.as_json() for reason in machine.reasons]
        if machine.sensors:
            tile["sensors"] = machine.sensors
        if machine.missing:
            tile["missing"] = machine.missing
        if machine.alarms:
            tile["alarms"] = [alarm.as_json() for alarm in machine.alarms.values()]
        if spark:
            tile["spark"] = [rounded(value) for value in machine.scores.column(0, SPARK_SAMPLES)]
        return tile

    def moved_since(self, tick: int) -> list[list[float | None]]:
        """Number, smoothed score and score of the machines that had a result after a tick."""
        return [
            [machine.number, rounded(machine.smoothed), rounded(machine.score)]
            for machine in self.machines.values()
            if machine.moved > tick
        ]

    def changed_since(self, tick: int) -> list[dict[str, Any]]:
        """Tiles of the machines of which more than the score changed after a tick."""
        return [self.tile(machine) for machine in self.machines.values() if machine.changed > tick]

    def system(self) -> dict[str, Any]:
        """The inference component and what came, for the page's view of the system."""
        counts = self.counts
        return {
            "thing": self.health.thing if self.health else "",
            "state": self.health.state if self.health else None,
            "health": self.health.raw if self.health else None,
            "health_at": self.health_at or None,
            "features": [feature.as_json() for feature in self.shown_features()],
            "loose_alarms": [alarm.as_json() for alarm in self.loose_alarms.values()],
            "heard": {
                "readings": counts.readings,
                "results": counts.results,
                "rejections": counts.rejections,
                "unreadable": counts.unreadable,
                "not_shown": counts.not_shown,
            },
            "rejections": [
                {"at": round(at, 1), "machine": rejection.machine, "why": rejection.why}
                for at, rejection in reversed(self.last_rejections)
            ],
        }


def rounded(value: float | None) -> float | None:
    """A number short enough to send, or None for what is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
