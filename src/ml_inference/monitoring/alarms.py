"""Alarms: the smoothed score of a machine, its opening and closing level, and the events that a person or a system gets.

A score a second that is wrong once in a thousand times is wrong 600 times a week, so an alarm follows the exponentially
smoothed log-odds, which opens it at one level and closes it at a lower one. Time is that of the readings. One alarm stands
for each machine, kind and sensor at a time; its `id` follows from these and from when it opened. It does no I/O.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

SMALLEST = 1e-6
"""Scores nearer to 0 or 1 count as this near: a float32 probability has no finite log-odds at its end."""
LARGEST = 1.0 - SMALLEST
MAX_WEIGHT = 0.5
"""Most that one reading moves the smoothed log-odds, so that after a gap, or at a slow rate, no single reading decides."""
UPDATE_SECONDS = 60.0
"""Shortest time between two events of an open alarm, in the readings' time."""
VISIBLE = 0.05
"""Change of a peak score that is worth an event."""

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - as naive as what is compared with it: both are UTC

EQUIPMENT, SENSOR, SILENCE, DRIFT = "equipment", "sensor", "silence", "drift"
OPENED, UPDATED, CLOSED = "opened", "updated", "closed"


def log_odds(score: float) -> float:
    """The log-odds of a probability, finite."""
    chance = min(max(score, SMALLEST), LARGEST)
    return math.log(chance / (1.0 - chance))


def probability(odds: float) -> float:
    """The probability of log-odds."""
    return 1.0 / (1.0 + math.exp(-odds)) if odds > -700.0 else 0.0  # noqa: PLR2004 - where exp ends


def weight(step: float, smoothing_seconds: float) -> float:
    """How much of the distance to a reading's log-odds the smoothed ones go.

    Args:
        step: Seconds since the machine's reading before.
        smoothing_seconds: Time constant.
    """
    return min(-math.expm1(-step / smoothing_seconds), MAX_WEIGHT)


@dataclass(slots=True)
class Smoothed:
    """A machine's smoothed log-odds.

    Attributes:
        odds: NaN before the first reading that counts.
    """

    odds: float = math.nan

    def add(self, score: float, step: float, smoothing_seconds: float, closes: float) -> None:
        """Take a score into account.

        Args:
            score: A probability.
            step: Seconds since the machine's reading before.
            smoothing_seconds: Time constant.
            closes: Log-odds of the closing level: the first reading alone never opens an alarm.
        """
        odds = log_odds(score)
        if self.odds != self.odds:  # NaN
            self.odds = min(odds, closes)
        else:
            self.odds += weight(step, smoothing_seconds) * (odds - self.odds)


@dataclass(frozen=True, slots=True)
class Rules:
    """When an equipment alarm opens and closes.

    Attributes:
        smoothing_seconds: Time constant of the smoothed log-odds.
        opens: Log-odds at or above which it opens.
        closes: Log-odds below which it closes.
    """

    smoothing_seconds: float
    opens: float
    closes: float


@dataclass(frozen=True, slots=True)
class Reason:
    """What one sensor contributes to an alarm.

    Attributes:
        feature: The sensor's feature.
        value: Its latest explained value; None where it was missing.
        unit: Of the value.
        contribution: Mean over the alarm, in log-odds, beyond what it contributes while the machine is normal.
    """

    feature: str
    value: float | None
    unit: str
    contribution: float

    def as_message(self) -> dict[str, Any]:
        """As it stands in a message."""
        return {"feature": self.feature, "value": self.value, "unit": self.unit, "contribution": self.contribution}


@dataclass(slots=True)
class Alarm:
    """One alarm, from its opening to its closing.

    Attributes:
        id: Joins its events.
        kind: `equipment`, `sensor`, `silence` or `drift`.
        equipment_id: The machine; "" for the whole line.
        sensor: The feature, of the kinds `sensor` and `drift`.
        opened: When it opened, in epoch seconds of the readings' time.
        reason: In words or as a keyword, what is wrong.
        sequence: Events so far.
        told: Time of the last event.
        last: Time of the last reading that belongs to it.
        readings: Readings that belong to it.
        score: Smoothed score at the last one; None where no score is behind it.
        peak: Largest of these.
        told_peak: The peak in the last event.
        explanation: What contributed the most, largest first.
        told_reasons: The features named in the last event.
        model: Name and version of the model that opened it.
        acknowledged: Whether a person has seen it.
    """

    id: str
    kind: str
    equipment_id: str
    sensor: str | None
    opened: float
    reason: str | None = None
    sequence: int = 0
    told: float = 0.0
    last: float = 0.0
    readings: int = 1
    score: float | None = None
    peak: float | None = None
    told_peak: float | None = None
    explanation: tuple[Reason, ...] = ()
    told_reasons: tuple[str, ...] = ()
    model: tuple[str, str] | None = None
    acknowledged: bool = False

    @property
    def key(self) -> tuple[str, str, str | None]:
        """There is one alarm for each of these at a time."""
        return (self.kind, self.equipment_id, self.sensor)

    def add(self, seconds: float, score: float) -> None:
        """Take another reading of the machine into account.

        Args:
            seconds: Its time.
            score: The smoothed score there.
        """
        self.readings += 1
        self.last = seconds
        self.score = score
        if self.peak is None or score > self.peak:
            self.peak = score

    @property
    def changed(self) -> bool:
        """Whether an event would say something new."""
        if self.sequence == 0:
            return True
        peak = 0.0 if self.peak is None or self.told_peak is None else self.peak - self.told_peak
        return peak >= VISIBLE or tuple(reason.feature for reason in self.explanation) != self.told_reasons


@dataclass(frozen=True, slots=True)
class Event:
    """Something about an alarm, as it goes out; it holds the alarm as it was then.

    Attributes:
        event: `opened`, `updated` or `closed`.
        message: For the alarm topics.
    """

    event: str
    message: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """The alarm's."""
        return str(self.message["id"])

    @property
    def equipment_id(self) -> str:
        """The machine's."""
        return str(self.message["equipment_id"])


class AlarmBook:
    """The open alarms, and the only place that opens, changes and closes them.

    Args:
        salt: What tells this device's alarms from those of another with machines of the same names.
    """

    def __init__(self, salt: str = "") -> None:
        self._salt = salt
        self._open: dict[tuple[str, str, str | None], Alarm] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Alarm]:
        return iter(list(self._open.values()))

    def find(self, kind: str, equipment_id: str, sensor: str | None = None) -> Alarm | None:
        """The open alarm of a machine, kind and sensor."""
        return self._open.get((kind, equipment_id, sensor))

    def by_id(self, identifier: str) -> Alarm | None:
        """The open alarm with an id."""
        return next((alarm for alarm in self._open.values() if alarm.id == identifier), None)

    def restore(self, alarm: Alarm) -> None:
        """Take in an alarm that was open before."""
        self._open[alarm.key] = alarm

    def forget(self, alarm: Alarm) -> None:
        """Give an alarm up without an event."""
        self._open.pop(alarm.key, None)

    def open(
        self,
        kind: str,
        equipment_id: str,
        seconds: float,
        *,
        sensor: str | None = None,
        reason: str | None = None,
        score: float | None = None,
        explanation: tuple[Reason, ...] = (),
        model: tuple[str, str] | None = None,
    ) -> tuple[Alarm, Event]:
        """Open an alarm that is not open yet.

        Args:
            kind: `equipment`, `sensor`, `silence` or `drift`.
            equipment_id: The machine; "" for the whole line.
            seconds: Time of the reading that opens it, in epoch seconds.
            sensor: The feature, where it is about one.
            reason: What is wrong.
            score: The smoothed score, where one is behind it.
            explanation: What contributed the most.
            model: Name and version of the model.
        """
        mark = "\0".join((self._salt, kind, equipment_id, sensor or "", f"{seconds:.3f}"))
        alarm = Alarm(
            id="a-" + hashlib.sha256(mark.encode()).hexdigest()[:20],
            kind=kind,
            equipment_id=equipment_id,
            sensor=sensor,
            opened=seconds,
            reason=reason,
            last=seconds,
            score=score,
            peak=score,
            explanation=explanation,
            model=model,
        )
        self._open[alarm.key] = alarm
        return alarm, self.event(alarm, OPENED, seconds)

    def update(self, alarm: Alarm, seconds: float) -> Event | None:
        """An event of an open alarm, if there is something new and the last one is old enough."""
        if seconds - alarm.told < UPDATE_SECONDS or not alarm.changed:
            return None
        return self.event(alarm, UPDATED, seconds)

    def close(self, alarm: Alarm, seconds: float) -> Event:
        """Close an alarm."""
        self._open.pop(alarm.key, None)
        return self.event(alarm, CLOSED, seconds)

    def event(self, alarm: Alarm, event: str, seconds: float) -> Event:
        """An event now, whatever was told before."""
        alarm.sequence += 1
        alarm.told = seconds
        alarm.told_peak = alarm.peak
        alarm.told_reasons = tuple(reason.feature for reason in alarm.explanation)
        message: dict[str, Any] = {
            "id": alarm.id,
            "sequence": alarm.sequence,
            "event": event,
            "kind": alarm.kind,
            "equipment_id": alarm.equipment_id,
            "sensor": alarm.sensor,
            "opened": iso(alarm.opened),
            "closed": iso(seconds) if event == CLOSED else None,
            "duration_seconds": round(max(0.0, seconds - alarm.opened), 3),
            "readings": alarm.readings,
            "score": _rounded(alarm.score),
            "peak_score": _rounded(alarm.peak),
            "explanation": [reason.as_message() for reason in alarm.explanation],
            "model": {"name": alarm.model[0], "version": alarm.model[1]} if alarm.model else None,
        }
        if alarm.reason is not None:
            message["reason"] = alarm.reason
        if alarm.acknowledged:
            message["acknowledged"] = True
        return Event(event, message)


def iso(seconds: float) -> str:
    """Epoch seconds as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


def epoch(timestamp: str) -> float:
    """Epoch seconds of a time as readings carry it: ISO 8601 in UTC with milliseconds and a `Z`."""
    return (datetime.fromisoformat(timestamp[:-1]) - _EPOCH).total_seconds()


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
