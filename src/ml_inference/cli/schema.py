"""`ml-inference schema`: JSON Schema of every message and of the configuration, for code generators and for people."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ml_inference.config import Configuration
from ml_inference.model.location import artifact_model_directory
from ml_inference.model.manifest import Manifest, ModelError, read_manifest
from ml_inference.scoring.outcomes import MAX_RECEIVED_CHARACTERS, JsonObject
from ml_inference.scoring.readings import MAX_READINGS, reading_model
from ml_inference.serving.control import REQUEST

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_SCORE = {"anyOf": [{"type": "number"}, _NUMBERS]}
_CORRELATION = {"type": ["string", "integer", "null"], "description": "echoed unchanged"}
_MODEL: JsonObject = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
    "required": ["name", "version"],
}
_FIELD_ERROR: JsonObject = {
    "type": "object",
    "properties": {
        "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
        "type": {"type": "string"},
        "msg": {"type": "string"},
    },
    "required": ["loc", "type", "msg"],
}
_SENSOR_REASON: JsonObject = {"enum": ["stuck", "saturated", "missing", "inconsistent"]}
_RESULT: JsonObject = {
    "type": "object",
    "properties": {
        "correlation_id": _CORRELATION,
        "equipment_id": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "score": _SCORE,
        "threshold": {"type": ["number", "null"]},
        "abnormal": {"type": ["boolean", "null"]},
        "state": {"enum": ["normal", "abnormal", "off", None]},
        "model": _MODEL,
        "smoothed_score": {"type": "number", "minimum": 0, "maximum": 1},
        "sensors": {"type": "object", "additionalProperties": _SENSOR_REASON},
        "missing": {"type": "array", "items": {"type": "string"}},
        "forecast_hours": {"type": "number", "exclusiveMinimum": 0},
        "explanation_age_seconds": {"type": "number", "minimum": 0},
        "explanation": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "feature": {"type": "string"},
                    "value": {"type": ["number", "null"]},
                    "unit": {"type": "string"},
                    "contribution": {"type": "number", "description": "in the booster's margin, such as log-odds"},
                },
                "required": ["feature", "value", "unit", "contribution"],
            },
        },
        "index": {"type": "integer", "description": "position in the batch"},
    },
    "required": ["correlation_id", "equipment_id", "timestamp", "score", "threshold", "abnormal", "state", "model"],
}
_REJECTED: JsonObject = {
    "type": "object",
    "properties": {
        "index": {"type": "integer"},
        "correlation_id": _CORRELATION,
        "equipment_id": {"type": "string"},
        "error": {"type": "array", "items": _FIELD_ERROR, "minItems": 1},
    },
    "required": ["index", "correlation_id", "equipment_id", "error"],
}
# In place of a single result that no message could hold.
_TOO_LARGE: JsonObject = _REJECTED | {"required": ["correlation_id", "equipment_id", "error"]}
_BATCH: JsonObject = {
    "type": "object",
    "properties": {
        "correlation_id": _CORRELATION,
        "results": {"type": "array", "items": {"anyOf": [_RESULT, _REJECTED]}},
        "part": {"type": "integer", "minimum": 1},
        "parts": {"type": "integer", "minimum": 2},
    },
    "required": ["correlation_id", "results"],
}
_TO_CLOUD: JsonObject = {
    "properties": {
        "thing_name": {"type": "string"},
        "id": {"type": "string", "description": "the same in a repeat, by which a consumer can drop it"},
    },
    "required": ["thing_name", "id"],
}
_ERROR: JsonObject = {
    "type": "object",
    "properties": {
        "correlation_id": _CORRELATION,
        "equipment_id": {"type": "string"},
        "errors": {"type": "array", "items": _FIELD_ERROR, "minItems": 1},
        "received": {"type": "string", "maxLength": MAX_RECEIVED_CHARACTERS},
        "index": {"type": "integer", "description": "position in the batch"},
    },
    "required": ["correlation_id", "equipment_id", "errors", "received"],
}
_ALARM: JsonObject = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "joins the events of one alarm"},
        "sequence": {"type": "integer", "minimum": 1, "description": "counts them; the same again in a repeat"},
        "event": {"enum": ["opened", "updated", "closed"]},
        "kind": {"enum": ["equipment", "sensor", "silence", "drift"]},
        "equipment_id": {"type": "string"},
        "sensor": {"type": ["string", "null"]},
        "reason": {"type": "string"},
        "opened": {"type": "string", "format": "date-time"},
        "closed": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "duration_seconds": {"type": "number", "minimum": 0},
        "readings": {"type": "integer", "minimum": 1},
        "score": {"type": ["number", "null"]},
        "peak_score": {"type": ["number", "null"]},
        "explanation": _RESULT["properties"]["explanation"],
        "model": {"anyOf": [_MODEL, {"type": "null"}]},
        "acknowledged": {"type": "boolean"},
        "thing_name": {"type": "string", "description": "in the cloud"},
    },
    "required": [
        *("id", "sequence", "event", "kind", "equipment_id", "sensor", "opened", "closed", "duration_seconds"),
        *("readings", "score", "peak_score", "explanation", "model"),
    ],
}
_COUNT = {"type": "integer", "minimum": 0}
_TALLY: JsonObject = dict.fromkeys(("episodes", "noticed", "false_alarms"), _COUNT) | {
    "machine_weeks": {"type": "number", "minimum": 0}
}
_HEALTH: JsonObject = {
    "type": "object",
    "properties": {
        "state": {"enum": ["starting", "running", "stopping"]},
        "timestamp": {"type": "string", "format": "date-time"},
        "thing_name": {"type": "string"},
        "component_version": {"type": "string"},
        "uptime_seconds": {"type": "number"},
        "model": {
            "type": ["object", "null"],
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "directory": {"type": "string"},
                "threshold": {"type": ["number", "null"]},
            },
            "required": ["name", "version", "directory", "threshold"],
        },
        "counters": {
            "type": "object",
            "description": "readings: received = scored + rejected + dropped + queued",
            "properties": dict.fromkeys(("received", "scored", "rejected", "dropped", "queued"), _COUNT),
            "required": ["received", "scored", "rejected", "dropped", "queued"],
        },
        "cloud": {
            "type": ["object", "null"],
            "description": "scored readings: scored + carried_over = delivered + waiting + expired + unwanted",
            "properties": dict.fromkeys(("delivered", "waiting", "expired", "unwanted", "carried_over"), _COUNT)
            | {"offline": {"type": "boolean"}},
            "required": ["delivered", "waiting", "expired", "unwanted", "carried_over", "offline"],
        },
        "local": {"type": "object", "properties": dict.fromkeys(("published", "failed"), _COUNT)},
        "problems": {"type": "object", "additionalProperties": {"type": "string"}},
        "errors_suppressed": _COUNT,
        "latency_ms": {"type": "object", "properties": {"p50": {"type": "number"}, "p99": {"type": "number"}}},
        "drift": {
            "type": "object",
            "description": "the latest readings against the training data: the features that moved the most",
            "properties": {
                "readings": _COUNT,
                "largest": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "feature": {"type": "string"},
                            "psi": {"type": "number", "minimum": 0, "description": "population stability index"},
                            "deviations": {"type": "number", "description": "from what is usual for the line's mean"},
                            "limit": {"type": "number", "description": "from which that is unusual"},
                            "window_seconds": {"type": "number"},
                        },
                        "required": ["feature"],
                    },
                },
            },
            "required": ["largest"],
        },
        "alarms": {
            "type": "object",
            "description": "of a model that knows of time",
            "properties": {
                "open": {"type": "object", "additionalProperties": _COUNT, "description": "by kind"},
                "machines": _COUNT,
                "silent": _COUNT,
                "said_false": _COUNT,
            },
            "required": ["open", "machines", "silent", "said_false"],
        },
        "truth": {
            "type": "object",
            "description": "alarms against the line's own label",
            "properties": _TALLY | {"worst": {"type": "object", "additionalProperties": {"properties": _TALLY}}},
            "required": [*_TALLY, "worst"],
        },
        "challenger": {
            "type": "object",
            "description": "what a second model would have said of the same readings",
            "properties": {
                "model": _MODEL,
                "compared": _COUNT,
                "agreement": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                "mean_score_difference": {"type": ["number", "null"], "minimum": 0},
                "refused": _COUNT,
                "latency_ms": {
                    "type": "object",
                    "properties": {key: {"type": ["number", "null"]} for key in ("champion", "challenger")},
                },
            },
            "required": ["model", "compared", "agreement", "mean_score_difference", "refused", "latency_ms"],
        },
    },
    "required": [
        "state",
        "timestamp",
        "thing_name",
        "component_version",
        "uptime_seconds",
        "model",
        "counters",
        "cloud",
        "local",
        "problems",
    ],
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="model directory (default: the one that is shipped)")
    parser.add_argument("name", nargs="?", choices=sorted(_NAMES), help="only this schema (default: all, by name)")


def run(arguments: argparse.Namespace) -> int:
    """Print the schemas; 1 if the model's manifest cannot be read."""
    try:
        manifest = read_manifest(arguments.model or artifact_model_directory())
    except ModelError as error:
        print(f"ml-inference schema: {error}", file=sys.stderr)
        return 1
    every = schemas(manifest)
    print(json.dumps(every[arguments.name] if arguments.name else every, indent=2))
    return 0


_NAMES = ("configuration", "input", "result", "cloud", "error", "alarm", "control", "health", "manifest")


def schemas(manifest: Manifest) -> dict[str, JsonObject]:
    """JSON Schemas by name.

    Args:
        manifest: Of the model whose features the input messages hold.
    """
    reading = _schema_of(reading_model(manifest.features))
    batch = {"type": "array", "items": reading, "minItems": 1, "maxItems": MAX_READINGS}
    result = {"anyOf": [_RESULT, _BATCH, _TOO_LARGE]}
    return {
        "configuration": {"$schema": _DIALECT} | _schema_of(Configuration),
        "input": {
            "$schema": _DIALECT,
            "title": "Input message",
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"readings": batch, "correlation_id": _CORRELATION},
                    "required": ["readings"],
                },
                reading,
                batch,
            ],
        },
        "result": {"$schema": _DIALECT, "title": "Result message"} | result,
        "cloud": {"$schema": _DIALECT, "title": "Message to AWS IoT Core", "allOf": [result, _TO_CLOUD]},
        "error": {"$schema": _DIALECT, "title": "Error message"} | _ERROR,
        "alarm": {"$schema": _DIALECT, "title": "Alarm message"} | _ALARM,
        "control": {"$schema": _DIALECT, "title": "Request about alarms"} | REQUEST.json_schema(),
        "health": {"$schema": _DIALECT, "title": "Health message"} | _HEALTH,
        "manifest": {"$schema": _DIALECT} | _schema_of(Manifest),
    }


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    schema.pop("description", None)  # the docstring, which is for Python
    for value in schema["properties"].values():
        value.pop("title", None)  # made from Python's name
    return schema
