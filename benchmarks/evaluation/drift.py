"""Drift alarms against the truth: none on a healthy line, the right ones where something has changed.

Arithmetic only; it must never simulate or score anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.alarms import Alarm
from evaluation.judge import HOUR, MONTH


@dataclass(frozen=True, slots=True)
class Healthy:
    """Drift alarms on healthy lines."""

    months: float
    """Line-months."""
    alarms: int


def healthy(alarms: Sequence[Alarm], span: tuple[float, float]) -> Healthy:
    """Count the drift alarms of one healthy line.

    Args:
        alarms: Of any kind.
        span: First and last time of its readings, in seconds.
    """
    return Healthy((span[1] - span[0]) / MONTH, sum(alarm.kind == "drift" for alarm in alarms))


@dataclass(frozen=True, slots=True)
class Change:
    """Something that changed on a line, and what was told of it; times in hours after the change, None for never."""

    what: str
    drift: float | None
    """The first drift alarm for the right machine (or the line, where all machines changed) and sensor."""
    told: float | None
    """The first alarm of the kinds drift and sensor for them."""
    elsewhere: int
    """Drift alarms for another machine or sensor."""


def change(alarms: Sequence[Alarm], *, what: str, at: float, machine: str | None, sensors: Sequence[str]) -> Change:
    """Judge the alarms after a change.

    Args:
        alarms: Of any kind.
        what: Names the change.
        at: When, in seconds.
        machine: The one that changed; None for all of them.
        sensors: Those that changed.
    """
    after = [alarm for alarm in alarms if alarm.opened >= at and alarm.kind in ("drift", "sensor")]
    # Of a change of all machines an alarm for one of them tells, too.
    right = [alarm for alarm in after if machine in (None, alarm.machine) and alarm.sensor in sensors]

    def first(kinds: tuple[str, ...]) -> float | None:
        return min(((alarm.opened - at) / HOUR for alarm in right if alarm.kind in kinds), default=None)

    return Change(
        what=what,
        drift=first(("drift",)),
        told=first(("drift", "sensor")),
        elsewhere=sum(alarm.kind == "drift" and alarm not in right for alarm in after),
    )
