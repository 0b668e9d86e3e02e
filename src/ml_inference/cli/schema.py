"""`ml-inference schema`: JSON Schema of every message and of the configuration, for code generators and for people."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from ml_inference import wire
from ml_inference.config import Configuration
from ml_inference.model.location import artifact_model_directory
from ml_inference.model.manifest import Manifest, ModelError, read_manifest
from ml_inference.scoring.outcomes import JsonObject
from ml_inference.scoring.readings import MAX_READINGS, reading_model
from ml_inference.serving.control import REQUEST

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_CORRELATION = {"type": ["string", "integer", "null"], "description": "echoed unchanged"}


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


_NAMES = ("configuration", "input", "result", "cloud", "error", "alarm", "control", "health", "probe", "manifest")


def schemas(manifest: Manifest) -> dict[str, JsonObject]:
    """JSON Schemas by name.

    Args:
        manifest: Of the model whose features the input messages hold.
    """
    reading = _schema_of(reading_model(manifest.features))
    batch = {"type": "array", "items": reading, "minItems": 1, "maxItems": MAX_READINGS}
    result = {"anyOf": [_type(wire.Result), _type(wire.Batch), _type(wire.TooLarge)]}
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
        "cloud": {"$schema": _DIALECT, "title": "Message to AWS IoT Core", "allOf": [result, _type(wire.ToCloud)]},
        "error": {"$schema": _DIALECT, "title": "Error message"} | _type(wire.Error),
        "alarm": {"$schema": _DIALECT, "title": "Alarm message"} | _type(wire.Alarm),
        "control": {"$schema": _DIALECT, "title": "Request about alarms"} | REQUEST.json_schema(),
        "health": {"$schema": _DIALECT, "title": "Health message"} | _type(wire.Health),
        "probe": {"$schema": _DIALECT, "title": "Probe of the way to AWS IoT Core"} | _type(wire.Probe),
        "manifest": {"$schema": _DIALECT} | _schema_of(Manifest),
    }


def _type(message: Any) -> JsonObject:
    """The schema of a message's type, in one piece and without the titles that pydantic makes of Python's names."""
    schema = TypeAdapter(message).json_schema()
    definitions = schema.pop("$defs", {})

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            target = plain(definitions[value["$ref"].rpartition("/")[2]])
            return target | {key: plain(held) for key, held in value.items() if key != "$ref"}
        return {
            key: {name: plain(each) for name, each in held.items()} if key == "properties" else plain(held)
            for key, held in value.items()
            if key != "title"
        }

    whole: JsonObject = plain(schema)
    return whole


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    schema.pop("description", None)  # the docstring, which is for Python
    for value in schema["properties"].values():
        value.pop("title", None)  # made from Python's name
    return schema
