"""Bytes from the local topics to what the page knows of: readings, results, alarms, rejections, health.

A publisher may be of another version, or not ours at all. So nothing here raises: what is understood is taken, anything else is
left out, and a message of which nothing is understood is None. No number that leaves this module is NaN or infinite, and every
text has a bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

MAX_NAME_CHARACTERS = 128
"""Longest `equipment_id` that the inference component takes; the same bound serves for names of sensors."""
MAX_TEXT_CHARACTERS = 500
MAX_SECONDS = 1e11
"""The year 5138; a larger time is in milliseconds, or no time."""
MAX_LIST = 64
"""Most sensors, reasons or features of one message that are shown."""
MAX_MESSAGE_BYTES = 1024 * 1024
"""Largest message that is parsed: what the inference component itself takes."""

_NO_SENSOR = frozenset({"equipment_id", "timestamp", "timeInSeconds", "sDateTime", "correlation_id", "wCylinderStatus"})
"""Keys of a reading that are no sensor, for as long as the model's features are not known."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sensors of a machine said."""

    machine: str
    at: float | None
    key: str | float | None
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reason:
    """One sensor's part in a score; the contribution is positive where it pushed the score up."""

    feature: str
    value: float | str | None
    unit: str
    contribution: float

    def as_json(self) -> dict[str, Any]:
        """For the page and for the history."""
        return {
            "feature": self.feature,
            "value": self.value,
            "unit": self.unit,
            "contribution": self.contribution,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """The inference component's verdict on a reading."""

    machine: str
    at: float | None
    key: str | float | None
    score: float | None
    smoothed: float | None
    threshold: float | None
    abnormal: bool | None
    state: str | None
    reasons: tuple[Reason, ...]
    sensors: dict[str, str]
    missing: tuple[str, ...]
    forecast_hours: float | None


@dataclass(slots=True)
class Alarm:
    """One alarm as of its last event; times are seconds since 1970."""

    id: str
    sequence: int
    kind: str
    machine: str
    sensor: str
    reason: str
    opened: float
    closed: float | None
    readings: int | None
    score: float | None
    peak: float | None
    reasons: tuple[Reason, ...]
    model: str
    presumed: bool = False
    """Whether the end was concluded from results, because its event never came."""

    def as_json(self) -> dict[str, Any]:
        """For the page and for the history."""
        return {
            "id": self.id,
            "sequence": self.sequence,
            "kind": self.kind,
            "machine": self.machine,
            "sensor": self.sensor,
            "reason": self.reason,
            "opened": self.opened,
            "closed": self.closed,
            "readings": self.readings,
            "score": self.score,
            "peak": self.peak,
            "reasons": [reason.as_json() for reason in self.reasons],
            "model": self.model,
            "presumed": self.presumed,
        }


@dataclass(frozen=True, slots=True)
class Feature:
    """A sensor as the model knows it: its unit, its physical limits, and the range in which training data mostly lay."""

    name: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    low: float | None = None
    high: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the page and for the history."""
        return {
            "name": self.name,
            "unit": self.unit,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "low": self.low,
            "high": self.high,
        }


@dataclass(frozen=True, slots=True)
class Rejection:
    """A reading that was rejected, and why."""

    machine: str
    why: str


@dataclass(frozen=True, slots=True)
class Features:
    """One part of the model's features."""

    model: str
    part: int
    parts: int
    features: tuple[Feature, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """The inference component's health message, bounded; `raw` holds only keys that the page shows."""

    thing: str
    state: str
    raw: dict[str, Any] = field(default_factory=dict)


def load(payload: bytes) -> Any:
    """JSON of a payload; None if it is none, or too large."""
    if len(payload) > MAX_MESSAGE_BYTES:
        return None
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


def readings(payload: bytes) -> Iterator[Reading]:
    """The readings of a message on the input topic."""
    for document in _batch(load(payload), "readings"):
        yield Reading(
            machine=name(document.get("equipment_id", "")),
            at=moment(document.get("timestamp", document.get("timeInSeconds"))),
            key=_key(document.get("correlation_id")),
            values={
                key: float(value)
                for key, value in document.items()
                if value.__class__ in (float, int) and key not in _NO_SENSOR and -1e300 < value < 1e300  # noqa: PLR2004 - NaN fails, too
            },
        )


def results(payload: bytes) -> Iterator[Result]:
    """The results of a message on the result topic; rejected readings of a batch are left out."""
    for document in _batch(load(payload), "results"):
        if "score" not in document:
            continue
        score = number(document["score"])
        smoothed = number(document.get("smoothed_score"))
        state, abnormal = document.get("state"), document.get("abnormal")
        yield Result(
            machine=name(document.get("equipment_id", "")),
            at=moment(document.get("timestamp")),
            key=_key(document.get("correlation_id")),
            score=score,
            smoothed=score if smoothed is None else smoothed,
            threshold=number(document.get("threshold")),
            abnormal=abnormal if isinstance(abnormal, bool) else None,
            state=text(state, 32) if isinstance(state, str) else None,
            reasons=reasons(document["explanation"]) if "explanation" in document else (),
            sensors=_texts(document["sensors"]) if "sensors" in document else {},
            missing=tuple(name(item) for item in _items(document["missing"])) if "missing" in document else (),
            forecast_hours=number(document.get("forecast_hours")),
        )


def alarm(payload: bytes) -> Alarm | None:
    """The alarm of an event on the alarm topic."""
    return alarm_of(load(payload))


def alarm_of(document: Any) -> Alarm | None:
    """The alarm of an event, or of the history."""
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        return None
    opened = moment(document.get("opened"))
    if opened is None:
        return None
    closed = moment(document.get("closed"))
    if closed is None and document.get("event") == "closed":
        closed = opened + (number(document.get("duration_seconds")) or 0.0)
    model = document.get("model")
    if isinstance(model, dict):
        model = f"{text(model.get('name'), MAX_NAME_CHARACTERS)} {text(model.get('version'), 64)}"
    return Alarm(
        id=text(document["id"], MAX_NAME_CHARACTERS),
        sequence=int(number(document.get("sequence")) or 0),
        kind=text(document.get("kind"), 32) or "equipment",
        machine=name(document.get("machine", document.get("equipment_id", ""))),
        sensor=name(document.get("sensor") or ""),
        reason=text(document.get("reason"), 64),
        opened=opened,
        closed=closed,
        readings=None if (count := number(document.get("readings"))) is None else int(count),
        score=number(document.get("score")),
        peak=number(document.get("peak_score", document.get("peak"))),
        reasons=reasons(document.get("explanation", document.get("reasons"))),
        model=text(model, 2 * MAX_NAME_CHARACTERS),
        presumed=document.get("presumed") is True,
    )


def rejections(payload: bytes) -> Iterator[Rejection]:
    """The rejections of a message on the error topic."""
    document = load(payload)
    if not isinstance(document, dict):
        return
    why = []
    for error in _items(document.get("errors"))[:3]:
        if isinstance(error, dict):
            where = ".".join(str(part) for part in _items(error.get("loc")))
            why.append(text(f"{where}: {error.get('msg')}" if where else error.get("msg"), 200))
    yield Rejection(machine=name(document.get("equipment_id") or ""), why="; ".join(why))


def health(payload: bytes) -> tuple[Health | None, Features | None]:
    """A health message, and the model's features as far as it lists them."""
    document = load(payload)
    if not isinstance(document, dict):
        return None, None
    return _health(document), _features(document)


def _features(document: dict[str, Any]) -> Features | None:
    if isinstance(document.get("features"), list):
        model = document.get("model")
        known = model if isinstance(model, dict) else {}
        return Features(
            model=f"{text(known.get('name'), MAX_NAME_CHARACTERS)} {text(known.get('version'), 64)}",
            part=max(1, int(number(document.get("part")) or 1)),
            parts=min(MAX_LIST, max(1, int(number(document.get("parts")) or 1))),
            features=tuple(feature for item in document["features"] if (feature := feature_of(item)) is not None),
        )
    return None


def _health(document: dict[str, Any]) -> Health | None:
    if not isinstance(document.get("state"), str) or "counters" not in document:
        return None  # such as a listener's heartbeat
    return Health(
        thing=text(document.get("thing_name"), MAX_NAME_CHARACTERS),
        state=text(document["state"], 32),
        raw={key: _bounded(document[key]) for key in _SHOWN if key in document},
    )


_SHOWN = (
    "timestamp",
    "component_version",
    "uptime_seconds",
    "model",
    "counters",
    "cloud",
    "local",
    "problems",
    "errors_suppressed",
    "latency_ms",
    "drift",
    "alarms",
)


def feature_of(document: Any) -> Feature | None:
    """A feature of a health message, or of the history."""
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        return None
    limits = {key: number(document.get(key)) for key in ("minimum", "maximum", "low", "high")}
    return Feature(name=name(document["name"]), unit=text(document.get("unit"), 32), **limits)


def reasons(value: Any) -> tuple[Reason, ...]:
    """The explanation of a result or of an alarm."""
    found = []
    for item in _items(value)[:16]:
        if isinstance(item, dict) and isinstance(item.get("feature"), str):
            shown = item.get("value")
            found.append(
                Reason(
                    feature=name(item["feature"]),
                    value=text(shown, 64) if isinstance(shown, str) else number(shown),
                    unit=text(item.get("unit"), 32),
                    contribution=number(item.get("contribution")) or 0.0,
                )
            )
    return tuple(found)


def moment(value: Any) -> float | None:
    """A time as seconds since 1970: of ISO 8601, or of epoch seconds or milliseconds."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
            seconds = (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, OverflowError):
            return None
    else:
        given = number(value)
        if given is None:
            return None
        seconds = given / 1000 if given > MAX_SECONDS else given
    return seconds if 0 <= seconds <= MAX_SECONDS else None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if value.__class__ is float:
        return value if math.isfinite(value) else None
    if value.__class__ is int and abs(value) < 2**63:
        return float(value)
    return None


def text(value: Any, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """A text of bounded length; "" for what is none."""
    return value[:limit].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def name(value: Any) -> str:
    """A name of a machine or of a sensor."""
    return text(value, MAX_NAME_CHARACTERS)


def _key(value: Any) -> str | float | None:
    # Classic hands out 7 as 7.0 in a JSON message: both are one key.
    return value[:256] if value.__class__ is str else number(value)


def _batch(document: Any, key: str) -> Iterable[dict[str, Any]]:
    if isinstance(document, dict):
        inner = document.get(key)
        if not isinstance(inner, list):
            return (document,)
        document = inner
    if isinstance(document, list):
        return (item for item in document if isinstance(item, dict))
    return ()


def _items(value: Any) -> list[Any]:
    return value[:MAX_LIST] if isinstance(value, list) else []


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name(key): text(item, 32) for key, item in list(value.items())[:MAX_LIST] if isinstance(item, str)}


def _bounded(value: Any, depth: int = 4) -> Any:
    """JSON with bounded texts, lists and depth, and without NaN."""
    if isinstance(value, Mapping):
        items = list(value.items())[:MAX_LIST] if depth else []
        return {name(key): _bounded(item, depth - 1) for key, item in items}
    if isinstance(value, list):
        return [_bounded(item, depth - 1) for item in value[:MAX_LIST]] if depth else []
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, int) and abs(value) < 2**63 else number(value)
