"""Messages as the inference component and its line send them, for whoever listens."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

READING, RESULT, ALARM = "ml/inference/request", "ml/inference/result", "ml/inference/alarm"
ERROR, HEALTH = "ml/inference/error", "ml/inference/health"
MODEL = {"name": "cylinder-anomaly", "version": "1.0.0"}
SENSORS = {
    "rVibration_Temp": (69.7, "degC", 58.0, 82.0),
    "rVibration_Z_RMS_Velocity": (89.4, "mm/s", 76.0, 104.0),
    "rVibration_X_RMS_Velocity": (50.6, "mm/s", 43.0, 59.0),
    "wRMSCurrent": (100.9, "A", 88.0, 112.0),
    "wCurrentLoad": (102.9, "%", 89.0, 113.0),
    "wEncoderVelocity": (25.9, "RPM", 24.6, 26.6),
}
"""An ordinary value, the unit and the training range of each sensor."""


def iso(seconds: float) -> str:
    """Seconds since 1970 as the component writes a time."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def reading(machine: str, at: float, key: Any = None, **values: float) -> dict[str, Any]:
    ordinary = {name: sensor[0] for name, sensor in SENSORS.items()}
    return {
        "equipment_id": machine,
        "timestamp": iso(at),
        "correlation_id": key,
        **ordinary,
        **values,
        "wCylinderStatus": 0.0,
    }


def result(machine: str, at: float, score: float = 0.05, key: Any = None, **more: Any) -> dict[str, Any]:
    state = more.pop("state", "abnormal" if score >= 0.35 else "normal")
    document = {
        "correlation_id": key,
        "equipment_id": machine,
        "timestamp": iso(at),
        "score": score,
        "smoothed_score": more.pop("smoothed", score),
        "threshold": 0.35,
        "abnormal": score >= 0.35,
        "state": state,
        "model": MODEL,
    }
    if state == "abnormal":
        document["explanation"] = REASONS
    return document | more


REASONS = [
    {"feature": "rVibration_Z_RMS_Velocity", "value": 128.4, "unit": "mm/s", "contribution": 2.41},
    {"feature": "rVibration_Temp", "value": 86.2, "unit": "degC", "contribution": 1.12},
    {"feature": "wRMSCurrent", "value": 96.3, "unit": "A", "contribution": -0.22},
]


def alarm(
    identity: str, machine: str, opened: float, *, sequence: int = 1, event: str = "opened", **more: Any
) -> dict[str, Any]:
    closed = more.pop("closed", None)
    return {
        "id": identity,
        "sequence": sequence,
        "event": event,
        "kind": more.pop("kind", "equipment"),
        "equipment_id": machine,
        "sensor": more.pop("sensor", None),
        "opened": iso(opened),
        "closed": None if closed is None else iso(closed),
        "duration_seconds": 0.0 if closed is None else closed - opened,
        "readings": 12,
        "score": 0.93,
        "peak_score": 0.97,
        "explanation": more.pop("explanation", REASONS),
        "model": MODEL,
    } | more


def health(at: float, **more: Any) -> dict[str, Any]:
    return {
        "state": "running",
        "timestamp": iso(at),
        "thing_name": "line-3",
        "component_version": "1.1.0",
        "uptime_seconds": 3600.1,
        "model": MODEL | {"directory": "/greengrass/model", "threshold": 0.35},
        "counters": {"received": 14_420, "scored": 14_400, "rejected": 15, "dropped": 0, "queued": 5},
        "cloud": {"delivered": 14_390, "waiting": 10, "expired": 0, "unwanted": 0, "carried_over": 0, "offline": False},
        "local": {"published": 14_480, "failed": 0},
        "problems": {},
        "errors_suppressed": 0,
        "latency_ms": {"p50": 1.4, "p99": 5.2},
        "drift": {"readings": 10_000, "largest": [{"feature": "rVibration_Temp", "psi": 0.041}]},
    } | more


def features(part: int = 1, parts: int = 1, names: list[str] | None = None) -> dict[str, Any]:
    chosen = [name for name in SENSORS if names is None or name in names]
    return {
        "state": "running",
        "model": MODEL,
        "part": part,
        "parts": parts,
        "features": [
            {
                "name": name,
                "unit": SENSORS[name][1],
                "minimum": 0.0,
                "maximum": 655.0,
                "low": SENSORS[name][2],
                "high": SENSORS[name][3],
            }
            for name in chosen
        ],
    }


def rejection(machine: str) -> dict[str, Any]:
    errors = [{"loc": ["wCurrentLoad"], "type": "missing", "msg": "Field required"}]
    return {"correlation_id": "a1", "equipment_id": machine, "errors": errors, "received": "{...}"}


def payload(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
