"""Alarm messages put together again: one alarm from the events that share its id.

It reads what a device sends and nothing more. Events may come twice and in any order.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm; times in seconds since 1970."""

    id: str
    kind: str
    machine: str
    sensor: str | None
    opened: float
    closed: float | None
    """None while it is open."""
    named: tuple[tuple[float, str], ...]
    """Each reason that a `sensor` alarm gave, with the time from which on."""
    features: tuple[str, ...]
    """What the last event blames, largest contribution first."""
    first_features: tuple[str, ...]
    """What the first event blamed."""

    def is_open(self, begin: float, end: float) -> bool:
        """Say whether it is open at some time of a span."""
        return self.opened < end and (self.closed is None or self.closed > begin)


def seconds(stamp: str) -> float:
    """Read a timestamp; seconds since 1970."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def read(lines: Iterable[str]) -> list[Alarm]:
    """Read JSON lines of alarm messages.

    Args:
        lines: Each an event.

    Returns:
        Alarms in the order of their opening.
    """
    events: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        event = json.loads(line)
        events.setdefault(event["id"], {})[event["sequence"]] = event
    alarms = [_alarm(key, [held[number] for number in sorted(held)]) for key, held in events.items()]
    return sorted(alarms, key=lambda alarm: (alarm.opened, alarm.id))


def _alarm(key: str, events: list[Mapping[str, Any]]) -> Alarm:
    first, last = events[0], events[-1]
    opened = seconds(first["opened"])
    named: list[tuple[float, str]] = []
    for event in events:
        reason = event.get("reason")
        if reason and (not named or named[-1][1] != reason):
            named.append((opened + float(event["duration_seconds"]), str(reason)))
    return Alarm(
        id=key,
        kind=first["kind"],
        machine=first["equipment_id"],
        sensor=first.get("sensor"),
        opened=opened,
        closed=None if last["event"] != "closed" else seconds(last["closed"]),
        named=tuple(named),
        features=_features(last),
        first_features=_features(first),
    )


def _features(event: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(part["feature"] for part in event.get("explanation") or ())
