"""Plays a recording through the component's own pipeline and keeps what the report shows: states, scores, sensors, alarms.

Every reading is judged as on a device, in the order of the file. It never judges by rules of its own, and holds the recording in
memory as numbers only (some 40 bytes a reading of six sensors).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_inference.model.bundle import Model
from ml_inference.monitoring.alarms import epoch
from ml_inference.monitoring.drift import DriftReport
from ml_inference.offline.replay import Source, read_messages
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import Rejection, Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import Reading, ReadingDecoder


@dataclass(slots=True)
class Span:
    """A time in which a machine's state stayed the same; in seconds since 1970.

    Attributes:
        reasons: Of its first reading that has any, as in the result's message.
        peak: Highest smoothed score; None without one.
    """

    state: str
    begin: float
    end: float
    reasons: list[dict[str, Any]] = field(default_factory=list)
    peak: float | None = None


@dataclass(slots=True)
class MachineStory:
    """What happened to one machine.

    Attributes:
        times: Of its scored readings, in seconds since 1970, in the order of the file.
        scores: Smoothed scores (else the scores) at these times; NaN where there is no single one.
        values: Sensor values at these times, in the order of the model's features.
        alarms: The latest event of each alarm, by its id.
    """

    name: str
    times: array[float] = field(default_factory=lambda: array("d"))
    scores: array[float] = field(default_factory=lambda: array("f"))
    values: array[float] = field(default_factory=lambda: array("f"))
    spans: list[Span] = field(default_factory=list)
    alarms: dict[str, dict[str, Any]] = field(default_factory=dict)
    threshold: float | None = None


@dataclass(slots=True)
class Story:
    """What happened in a recording."""

    model: Model
    machines: dict[str, MachineStory] = field(default_factory=dict)
    rejected: int = 0
    first_rejection: str = ""
    drift: DriftReport | None = None

    @property
    def scored(self) -> int:
        """Readings with a result."""
        return sum(len(machine.times) for machine in self.machines.values())

    @property
    def begin(self) -> float:
        """The earliest reading, in seconds since 1970."""
        return min(machine.times[0] for machine in self.machines.values())

    @property
    def end(self) -> float:
        """The latest one."""
        return max(machine.times[-1] for machine in self.machines.values())


def play(model: Model, table: Source, judgement: Judgement) -> Story:
    """Play a recording.

    Args:
        model: A verified model.
        table: Readings; those of one machine in the order of time.
        judgement: How scores become verdicts.

    Raises:
        TableError: The table cannot be read.
    """
    pipeline, decoder = Pipeline(model, judgement), ReadingDecoder(model.manifest.features, table.zone)
    story = Story(model)
    for _, decoded in read_messages(table, decoder, model.manifest):
        outcome = pipeline.score(decoded)
        for read, item in zip(decoded.items, outcome.items, strict=True):
            if isinstance(item, Rejection):
                story.rejected += 1
                if not story.first_rejection and item.errors:
                    error = item.errors[0]
                    story.first_rejection = f"{'.'.join(map(str, error.loc))}: {error.msg}".removeprefix(": ")
            elif isinstance(read, Reading):
                machine = story.machines.setdefault(item.equipment_id, MachineStory(item.equipment_id))
                _tell(machine, item, read)
        for event in outcome.alarms:
            machine = story.machines.setdefault(event.equipment_id, MachineStory(event.equipment_id))
            machine.alarms[event.id] = event.message
    story.machines = {name: machine for name, machine in story.machines.items() if machine.times}
    story.drift = pipeline.drift
    return story


def _tell(machine: MachineStory, result: Result, reading: Reading) -> None:
    message = result.as_message()
    at = epoch(result.timestamp)
    if machine.times and at < machine.times[-1]:
        at = machine.times[-1]  # a clock that was set back draws no curve backwards
    score = message.get("smoothed_score", message["score"])
    machine.times.append(at)
    machine.scores.append(score if isinstance(score, float) else math.nan)
    machine.values.extend(reading.values)
    machine.threshold = result.threshold
    state = result.state or "unknown"
    if not machine.spans or machine.spans[-1].state != state:
        if machine.spans:
            machine.spans[-1].end = at
        machine.spans.append(Span(state, at, at))
    span = machine.spans[-1]
    span.end = at
    span.reasons = span.reasons or _reasons(message)
    if isinstance(score, float):
        span.peak = score if span.peak is None else max(span.peak, score)


def _reasons(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = message.get("explanation", [])
    return found
