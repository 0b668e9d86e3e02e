"""The health message: names what went wrong, and fits into one local message whatever they are called."""

from __future__ import annotations

import json

from inference_bridge.accounts import ReadingCounts
from inference_bridge.extract import Sample
from inference_bridge.health import encode, health_message
from inference_bridge.intake import Intake
from inference_bridge.mapping import parse_mapping
from ml_inference.limits import MAX_PAYLOAD_BYTES


def message(intake: Intake) -> bytes:
    return encode(
        health_message(version="1", intake=intake, readings=ReadingCounts(), sources={}, outputs=None, problems={})
    )


def intake(clock: list[float]) -> Intake:
    rule = {"topic": "{machine}/{tag}", "value": "v"}
    source = {"type": "mqtt", "name": "b", "host": "localhost", "read": [rule]}
    mapping = parse_mapping({"features": {"a": {}, "b": {}}, "sources": [source]})
    return Intake(mapping, max_machines=1000, monotonic=lambda: clock[0], wall=lambda: 1e9 + clock[0])


def test_it_names_the_machine_that_is_silent_and_the_tag_that_stopped() -> None:
    clock = [0.0]
    taken = intake(clock)
    for machine in ("m1", "m2"):
        taken.samples("b", [Sample(machine, 0, 1.0), Sample(machine, 1, 1.0)])
    clock[0] = 30.0
    taken.message("b", "m1/a", b'{"v": 2}')
    taken.message("b", "m1/other", b'{"v": 2}')
    told = json.loads(message(taken))
    assert told["machines"] == {"known": 2, "silent": 1, "stale_tags": 1}
    assert told["stale"] == [{"machine": "m2", "seconds": 30.0}, {"machine": "m1", "tag": "b", "seconds": 30.0}]
    assert list(told["examples"]["unmapped"]) == ["m1/other"]


def test_it_fits_into_a_message_and_keeps_its_counts_with_very_long_names() -> None:
    clock = [0.0]
    taken = intake(clock)
    for number in range(2000):
        name = f"{number:04}" + "설" * 120
        taken.message("b", f"{name}/a", b'{"v": "x"}')
        taken.message("b", f"{name}/{name}", b'{"v": 1}')
        taken.message("b", f"{name}/a", b"{")
    payload = message(taken)
    assert len(payload) <= MAX_PAYLOAD_BYTES
    assert json.loads(payload)["values"]["received"] == 4000
