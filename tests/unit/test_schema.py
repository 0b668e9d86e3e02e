from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from greengrass_sandbox import BackgroundNucleus
from ml_inference.cli import schema as command
from ml_inference.cli.main import main
from ml_inference.cli.schema import schemas
from ml_inference.config import Configuration
from ml_inference.delivery.routing import Message, Router
from ml_inference.greengrass.session import Connector
from ml_inference.model.bundle import Model, load_model
from ml_inference.model.manifest import Manifest, read_manifest
from ml_inference.scoring.outcomes import Explanation, Outcome, Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import Reading, ReadingDecoder
from ml_inference.serving.component import Component
from support.line import NAME, REQUEST, own_recipe
from support.models import ABNORMAL, NORMAL, SIX, train_small

SECONDS = 120.0


@pytest.fixture(scope="module")
def every(model_directory: Path) -> dict[str, Any]:
    return schemas(read_manifest(model_directory))


def closed(schema: Any) -> Any:
    """The schema with every object closed: a key that it does not describe is an error."""
    schema = {
        key: {name: closed(value) for name, value in held.items()}
        if key == "properties"
        else closed(held)
        if key == "items"
        else [branch(each) for each in held]
        if key in ("anyOf", "allOf")
        else held
        for key, held in schema.items()
    }
    return schema | {"unevaluatedProperties": False} if {"properties", "anyOf", "allOf"} & set(schema) else schema


def branch(schema: Any) -> Any:
    """One of several that describe the same object: only together do they describe all of it."""
    return {key: value for key, value in closed(schema).items() if key != "unevaluatedProperties"}


def errors(schema: Any, document: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


def described(schema: Any, document: Any) -> bool:
    """Whether the document is as the schema says, and has no key that the schema does not know."""
    problems = errors(schema, document) + errors(closed(schema), document)
    assert problems == [], (problems, document)
    return True


@pytest.fixture(scope="module")
def spoken(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What a real component says on each topic, from its start to its end."""
    root = tmp_path_factory.mktemp("schema")
    challenger = train_small(root / "challenger", version="2.0.0", seed=1)

    def load(directory: Path, trusted_keys: Sequence[str]) -> Model:
        return load_model(directory, trusted_keys=trusted_keys)

    with BackgroundNucleus(root / "nucleus", "lite") as nucleus:
        taps = {name: nucleus.watch(f"ml/inference/{name}/#") for name in ("result", "error", "health")}
        cloud = nucleus.iot_core.watch()
        environment = nucleus.credentials(NAME, own_recipe(root))
        settings = {"ModelDirectory": str(model_directory), "HealthIntervalSeconds": 1, "Colour": "unknown"}
        work = root / "work"
        work.mkdir()
        component = Component(
            Connector(environment), thing_name="core", work_directory=work, overrides=settings, load=load
        )
        thread = Thread(target=component.run)
        thread.start()
        said: dict[str, list[Any]] = {"result": [], "error": [], "health": [], "cloud": []}

        def hear(name: str, wanted: Callable[[Any], bool]) -> None:
            tap = cloud if name == "cloud" else taps[name]
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                said[name].append(json.loads(tap.get(SECONDS).payload))
                if wanted(said[name][-1]):
                    return
            raise AssertionError(f"nothing like it came on {name}")

        try:
            hear("health", lambda message: message["state"] == "running")
            nucleus.update_configuration(NAME, {"Challenger": str(challenger)})
            hear("health", lambda message: "challenger" in message)
            for document in (
                NORMAL | {"timestamp": 1_657_148_190, "correlation_id": 7, "equipment_id": "cylinder-7"},
                ABNORMAL,
                {"equipment_id": "m"},
                [ABNORMAL, {}, [], NORMAL | {"wRMSCurrent": "1"}],
                {"readings": [ABNORMAL | {"correlation_id": f"r{n}"} for n in range(35)], "correlation_id": "batch"},
                [],
            ):
                nucleus.publish(REQUEST, json.dumps(document).encode())
            for payload in (b"", b"\xff", b"NaN", {"nested": {"a": [1, 2.5, None, True]}}):
                nucleus.publish(REQUEST, payload)
            nucleus.publish(REQUEST, json.dumps(NORMAL | {"correlation_id": "last"}).encode())
            hear("result", lambda message: message["correlation_id"] == "last")
            hear("cloud", lambda message: message["correlation_id"] == "last")
            nucleus.update_configuration(NAME, {"MaxQueue": "many"})
            hear("health", lambda message: "configuration" in message["problems"])
            hear("health", lambda message: message["counters"]["queued"] == 0)
        finally:
            component.stop()
            thread.join(SECONDS)
        hear("health", lambda message: message["state"] == "stopping")
        said["error"] = [json.loads(message.payload) for message in taps["error"].take(9, SECONDS)]
    return said


@pytest.mark.parametrize("name", ["result", "error", "health", "cloud"])
def test_everything_that_a_component_says_is_described(
    every: dict[str, Any], spoken: dict[str, list[Any]], name: str
) -> None:
    assert len(spoken[name]) > 3
    for message in spoken[name]:
        assert described(every[name], message)


def test_the_component_said_what_there_is_to_say(spoken: dict[str, list[Any]]) -> None:
    assert {"starting", "running", "stopping"} >= {message["state"] for message in spoken["health"]}
    assert any(message["challenger"]["compared"] for message in spoken["health"] if "challenger" in message)
    assert any("latency_ms" in message for message in spoken["health"])
    for name in ("result", "cloud"):
        assert any("parts" in message for message in spoken[name])
        assert any("explanation" in message for message in spoken[name])
        assert any("error" in item for message in spoken[name] for item in message.get("results", []))


def routed(model: Model, document: Any) -> Iterator[tuple[str, Message]]:
    router = Router(Configuration(), "core", time.monotonic, lambda: "id-1")
    outcome = Pipeline(model).process(json.dumps(document).encode())
    yield from (("result", message) for message in router.results(outcome))
    yield from (("error", message) for message in router.errors(outcome))
    yield from (("cloud", message) for message in router.cloud(outcome)[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "reg:squarederror", "threshold": None},
        {"objective": "reg:squarederror", "threshold": 0.1},
        {"objective": "multi:softprob", "classes": 3},
    ],
    ids=["regression", "regression with a threshold", "classes"],
)
def test_what_other_models_say_is_described(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = load_model(train_small(tmp_path / "other", **settings))
    every = schemas(model.manifest)
    kinds = set()
    for document in (NORMAL, ABNORMAL, {}, [NORMAL, {}, ABNORMAL]):
        for kind, message in routed(model, document):
            assert described(every[kind], json.loads(message.payload))
            kinds.add(kind)
    assert kinds == {"result", "error", "cloud"}


def test_a_result_that_was_too_large_is_described(every: dict[str, Any]) -> None:
    router = Router(Configuration(), "core", time.monotonic, lambda: "id-1")
    score = [0.001] * 2_000
    for explanation in ((), (Explanation("f", 1.0, "", 1.0),)):
        result = Result(
            "m", "2026-11-22T03:15:00.000Z", None, score, 0.5, True, "abnormal", True, "big", "1", explanation
        )
        outcome = Outcome((result,))
        assert described(every["result"], json.loads(router.results(outcome)[0].payload))
        assert described(every["cloud"], json.loads(router.cloud(outcome)[0][0].payload))


@pytest.mark.parametrize("name", ["result", "error", "health", "cloud"])
def test_a_message_without_a_key_that_it_must_have_does_not_pass(
    every: dict[str, Any], spoken: dict[str, list[Any]], name: str
) -> None:
    message = spoken[name][0]
    required = {
        "result": ["correlation_id", "equipment_id", "timestamp", "score", "threshold", "abnormal", "state", "model"],
        "error": ["correlation_id", "equipment_id", "errors", "received"],
        "health": ["state", "timestamp", "component_version", "uptime_seconds", "counters", "cloud", "problems"],
        "cloud": ["correlation_id", "score", "thing_name", "id"],
    }[name]
    for key in required:
        assert errors(every[name], {held: value for held, value in message.items() if held != key})
        assert errors(every[name], message | {key: {"no": 5}})


INPUTS = [
    (NORMAL, True),
    (NORMAL | {"equipment_id": "m", "timestamp": "2026-11-22T03:15:00Z", "correlation_id": 7}, True),
    (NORMAL | {"equipment_id": None, "timestamp": 1_657_148_190, "correlation_id": None}, True),
    (NORMAL | {"wCylinderStatus": 0.0, "sDateTime": "2022-07-06 22:56:30.503", "timeInSeconds": 1_657_148_190}, True),
    (NORMAL | {"sDateTime": ["anything"]}, True),
    ([NORMAL, NORMAL], True),
    ({"readings": [NORMAL], "correlation_id": "a"}, True),
    (NORMAL | {"wRMSCurrent": 100}, True),
    (NORMAL | {"wRMSCurrent": "100"}, False),
    (NORMAL | {"wRMSCurrent": True}, False),
    (NORMAL | {"wRMSCurrent": None}, False),
    (NORMAL | {"wRMSCurrent": -1.0}, False),
    (NORMAL | {"rVibration_Temp": 151}, False),
    ({key: value for key, value in NORMAL.items() if key != "wRMSCurrent"}, False),
    (NORMAL | {"equipment_id": 7}, False),
    (NORMAL | {"equipment_id": "x" * 129}, False),
    (NORMAL | {"correlation_id": 1.5}, False),
    (NORMAL | {"correlation_id": ["a"]}, False),
    (NORMAL | {"correlation_id": "x" * 257}, False),
    (NORMAL | {"timestamp": True}, False),
    ([], False),
    ({"readings": []}, False),
    ({"readings": [NORMAL], "correlation_id": {}}, False),
    ({}, False),
    ("text", False),
    (None, False),
]


@pytest.mark.parametrize(("document", "good"), INPUTS, ids=range(len(INPUTS)))
def test_the_input_schema_and_the_decoder_are_of_one_mind(every: dict[str, Any], document: Any, good: bool) -> None:
    decoded = ReadingDecoder(SIX).decode(json.dumps(document).encode())
    assert all(isinstance(item, Reading) for item in decoded.items) == good
    assert (errors(every["input"], document) == []) == good


def test_the_configuration_schema_knows_the_defaults_and_the_limits(every: dict[str, Any]) -> None:
    schema = every["configuration"]
    defaults = json.loads(Configuration().model_dump_json(by_alias=True))
    assert errors(schema, defaults) == []
    assert {key: value["default"] for key, value in schema["properties"].items() if "default" in value} == {
        key: value for key, value in defaults.items() if key not in {"TrustedKeys", "Maintenance", "Shelved"}
    }
    for wrong in ({"CloudQos": 2}, {"CloudPublish": "some"}, {"MaxQueue": 0}, {"Threshold": "high"}, {"LogLevel": "x"}):
        assert errors(schema, wrong)


def test_the_manifest_schema_describes_a_manifest(every: dict[str, Any], model_directory: Path) -> None:
    manifest = json.loads((model_directory / "manifest.json").read_text())
    assert errors(every["manifest"], manifest) == []
    assert errors(every["manifest"], manifest | {"unknown": 1})
    assert errors(every["manifest"], manifest | {"version": "not / a version"})


def test_every_schema_is_a_schema(every: dict[str, Any]) -> None:
    assert set(every) == set(command._NAMES)
    for schema in every.values():
        Draft202012Validator.check_schema(schema)
        assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_the_command_prints_all_or_one_for_the_model_it_is_given(
    model_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", "--model", str(model_directory)]) == 0
    every = json.loads(capsys.readouterr().out)
    assert every == json.loads(json.dumps(schemas(read_manifest(model_directory))))
    assert main(["schema", "--model", str(model_directory), "health"]) == 0
    assert json.loads(capsys.readouterr().out) == every["health"]


def test_the_command_names_what_is_wrong_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--model", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ml-inference schema: manifest: cannot read")


def test_the_schemas_are_those_of_the_manifests_features(model: Model) -> None:
    other = model.manifest.model_dump() | {
        "features": [{"name": "pressure [bar]", "unit": "bar", "minimum": 0.0, "maximum": None, "histogram": None}],
        "golden": [{"reading": {"pressure [bar]": 1.0}, "score": 0.5}],
    }
    schema = schemas(Manifest.model_validate(other))["input"]
    assert errors(schema, {"pressure [bar]": 2.0}) == []
    assert errors(schema, {"pressure [bar]": -2.0})
    assert errors(schema, NORMAL)
