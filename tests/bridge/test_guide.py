"""What the guide shows is what works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from inference_bridge.mapping import READY, parse_mapping

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "connect.md").read_text(encoding="utf-8")


def blocks() -> list[Any]:
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)]


def test_every_mapping_source_and_output_of_the_guide_can_be_used() -> None:
    whole, _, mqtt, modbus, outputs, aws = blocks()
    assert len(parse_mapping(whole).features) == 6
    features = dict.fromkeys((*whole["features"],), whole["features"]["wCurrentLoad"])
    parse_mapping({"features": features, "sources": [mqtt, modbus, *whole["sources"]], "outputs": outputs})
    assert aws["mqttTopicMapping"]["Readings"]["target"] == "Pubsub"


def test_the_guide_lists_the_ready_mappings_and_the_examples_can_be_used() -> None:
    table = GUIDE.split("Ready mappings", 1)[1].split("```", 1)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {path.stem for path in READY.glob("*.json")}
    parse_mapping(json.loads((ROOT / "examples" / "line" / "mapping.json").read_text()))
