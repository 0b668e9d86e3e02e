"""Messages as large and as deep as anybody can send, and results as large as the runtimes carry."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xgboost

from ml_inference.limits import MAX_PAYLOAD_BYTES
from ml_inference.model.manifest import Feature
from ml_inference.workbench.writer import write_model
from support.line import NAME, Line
from support.models import ABNORMAL, NORMAL

MakeLine = Callable[..., Line]
MEBIBYTE = 1024 * 1024
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.fixture
def line(make_line: MakeLine) -> Line:
    """Events are injected into every subscription: there is to be one."""
    return make_line(ControlTopic="")


def deliver(line: Line, kind: str, content: str) -> None:
    """Send the component's subscription an event as text, which may be more than Python's own JSON can write."""
    body = f'{{"message":{content},"context":{{"topic":"ml/inference/request"}}}}'
    assert line.nucleus.faults.inject_event(f'{{"{kind}":{body}}}', component=NAME) == 1


def as_binary(text: str) -> str:
    return json.dumps(base64.b64encode(text.encode()).decode())


HUGE = {
    "10 MB": json.dumps(NORMAL | {"note": "x" * 10_000_000}),
    "100,000 readings": json.dumps([{"a": 1}] * 100_000, separators=(",", ":")),
    "10,000 levels": DEEP,
    "a number of 10,000 digits": '{"wCurrentLoad":' + "1" * 10_000 + "}",
}


@pytest.mark.parametrize("profile", ["classic"])
@pytest.mark.parametrize("kind", ["binaryMessage", "jsonMessage"])
def test_a_monstrous_message_is_rejected_in_bounded_time_and_memory(line: Line, kind: str) -> None:
    assert line.process is not None
    process = psutil.Process(line.process.pid)
    line.send_json(NORMAL)
    line.results.next()
    for name, text in HUGE.items():
        began = time.monotonic()
        deliver(line, kind, as_binary(text) if kind == "binaryMessage" else text)
        error = line.errors.next()
        assert error["errors"][0]["type"] in ("too_large", "too_long", "json_invalid"), name
        assert len(error["received"]) <= 512
        line.send_json(NORMAL)
        line.results.next()
        assert time.monotonic() - began < 10, name
    memory = process.memory_info().rss
    for text in HUGE.values():
        deliver(line, kind, as_binary(text) if kind == "binaryMessage" else text)
        line.errors.next()
    assert process.memory_info().rss - memory < 20 * MEBIBYTE
    counts = line.finish()["counters"]
    assert (counts["received"], counts["rejected"]) == (5 + 8, 8)
    assert line.log.stat().st_size < 2_000


@pytest.mark.parametrize("profile", ["lite"])
def test_what_is_no_message_at_all_is_rejected(line: Line) -> None:
    for number, payload in enumerate([b"", b"\xff\xfe", b"null", b"[]", b"[[[[1]]]]", b'"' + b"\\u0000" * 300 + b'"']):
        line.send(payload)
        assert line.errors.next()["errors"], number
    for value in (None, 7, "text", [], [None, {"a": {"b": [1, 2, {"c": 3}]}}]):
        line.send(value)
        assert line.errors.next()["errors"], value
    line.send_json(NORMAL)
    line.results.next()


@pytest.mark.parametrize("profile", ["lite"])
# In a frame these are 1, 6 and 12 bytes each, whatever they are in UTF-8.
@pytest.mark.parametrize("character", ["x", "é", "\U0001f916"])
def test_results_on_a_long_topic_come_in_parts_that_fit_beside_it(make_line: MakeLine, character: str) -> None:
    line = make_line(
        ResultTopic="ml/inference/result/{equipmentId}", CloudTopic="greengrass/ml/inference/{equipmentId}"
    )
    name = (256 // len(character.encode()) * character)[:128]
    readings = [ABNORMAL | {"equipment_id": name} for _ in range(14)]
    line.send(json.dumps(readings, ensure_ascii=False, separators=(",", ":")).encode())
    for watch in (line.results, line.cloud):
        first = watch.next()
        parts = [first, *watch.take(first["parts"] - 1)]
        assert [item["index"] for part in parts for item in part["results"]] == list(range(14))
    assert not line.says("connecting again")


@pytest.mark.parametrize("profile", ["classic"])
def test_a_batch_of_thousands_is_answered_in_messages_that_every_runtime_carries(line: Line) -> None:
    sizes = []
    line.send_json([NORMAL] * 5_000)
    indices: list[int] = []
    while len(indices) < 5_000:
        raw = line.results.raw()
        sizes.append(len(raw.payload))
        indices += [item["index"] for item in raw.json()["results"]]
    assert indices == list(range(5_000))
    assert max(sizes) <= MAX_PAYLOAD_BYTES
    assert len(line.cloud.raw().payload) <= MAX_PAYLOAD_BYTES


def many_classes(directory: Path) -> Path:
    """A model whose score alone is larger than a message may be."""
    random = np.random.default_rng(0)
    rows = random.uniform(0, 100, (1500, 2)).astype(np.float32)
    features = (Feature(name="a", unit="A"), Feature(name="b", unit="A"))
    data = xgboost.DMatrix(rows, label=np.arange(1500), feature_names=["a", "b"])
    settings = {"objective": "multi:softprob", "num_class": 1500, "max_depth": 1, "nthread": 1}
    booster = xgboost.train(settings, data, 1)
    write_model(
        directory,
        booster=bytes(booster.save_raw("ubj")),
        name="many",
        version="1.0.0",
        features=features,
        rows=rows,
        threshold=0.5,
        classes=[str(number) for number in range(1500)],
        normal_class=0,
    )
    return directory


@pytest.mark.parametrize("profile", ["lite"])
def test_a_result_that_no_message_can_hold_is_an_error_in_its_place(make_line: MakeLine, tmp_path: Path) -> None:
    line = make_line(model=many_classes(tmp_path / "many"))
    line.send_json({"a": 1.0, "b": 2.0, "correlation_id": "alone"})
    line.send_json([{"a": 1.0, "b": 2.0, "correlation_id": "in a batch"}])
    alone, batch = line.results.take(2)
    assert (alone["correlation_id"], alone["error"][0]["type"]) == ("alone", "result_too_large")
    assert batch["results"][0]["error"][0]["type"] == "result_too_large"
    cloud = line.cloud.next()
    assert (cloud["thing_name"], cloud["error"][0]["type"]) == ("sandbox-core", "result_too_large")
    assert not line.says("connecting again")


@pytest.mark.parametrize("profile", ["lite"])
def test_a_result_goes_without_its_explanation_where_that_is_too_much(make_line: MakeLine, tmp_path: Path) -> None:
    names = ["ä" * 130 + str(number) for number in range(20)]
    random = np.random.default_rng(0)
    rows = random.uniform(0, 100, (400, 20)).astype(np.float32)
    data = xgboost.DMatrix(rows, label=rows.sum(axis=1) > 1000)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 5)
    features = tuple(Feature(name=name, unit="u" * 64) for name in names)
    directory = tmp_path / "long-names"
    write_model(
        directory,
        booster=bytes(booster.save_raw("ubj")),
        name="long-names",
        version="1.0.0",
        features=features,
        rows=rows,
        threshold=0.0,
    )
    line = make_line(model=directory, ExplainTopK=20)
    line.send(json.dumps(dict.fromkeys(names, 1.0), ensure_ascii=False).encode())
    result: dict[str, Any] = line.results.next()
    assert "score" in result
    assert "explanation" not in result
    assert not line.says("connecting again")


@pytest.mark.parametrize("profile", ["lite"])
def test_names_from_messages_break_no_topic_and_no_log_line(make_line: MakeLine) -> None:
    line = make_line(ResultTopic="ml/inference/result/{equipmentId}", LogLevel="DEBUG")
    names = ["../../etc/passwd", "#", "a+b", "$(reboot)", "line\nbreak", "%s%n{thingName}", "x" * 128, "é" * 128]
    for name in names:
        line.send_json(NORMAL | {"equipment_id": name})
        raw = line.results.raw()
        assert raw.json()["equipment_id"] == name
        assert raw.topic.count("/") == 3
        assert len(raw.topic.encode()) <= 256
        line.send_json({"equipment_id": name})
        assert line.errors.next()["equipment_id"] == name
    line.nucleus.faults.drop_connections(NAME)
    line.health.until(lambda health: health["counters"]["received"])
    log = line.log.read_text()
    assert "DEBUG" in log
    assert not any(name in log for name in [line.environment["SVCUID"], *names] if len(name) > 3)
