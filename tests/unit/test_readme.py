"""What README and the page on messages show is what the shipped model says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ml_inference.model.bundle import load_model
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import Rejection, Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import ReadingDecoder

CHECKOUT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[dict[str, Any]]:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """The shipped model's result for README's reading, as it is when nothing is configured."""
    model = load_model(CHECKOUT / "artifacts" / "model")
    reading = blocks("README.md")[0]
    (item,) = Pipeline(model, Judgement()).score(decoder().decode(json.dumps(reading).encode())).items
    assert isinstance(item, Result)
    return item.as_message()


def decoder() -> ReadingDecoder:
    return ReadingDecoder(load_model(CHECKOUT / "artifacts" / "model").manifest.features)


@pytest.mark.parametrize(("page", "number", "correlation"), [("README.md", 1, None), ("docs/messages.md", 0, "a1")])
def test_a_pages_result_is_what_the_shipped_model_says_of_readmes_reading(
    said: dict[str, Any], page: str, number: int, correlation: str | None
) -> None:
    shown = blocks(page)[number]
    assert list(shown) == list(said)
    reasons = shown.pop("explanation")
    assert len(reasons) == len(said["explanation"])
    for mine, real in zip(reasons, said["explanation"], strict=True):
        assert mine == real | {"contribution": pytest.approx(real["contribution"], abs=1e-3)}
    score = pytest.approx(said["score"], abs=1e-5)
    assert shown == {key: said[key] for key in shown} | {"score": score, "correlation_id": correlation}
    assert shown["abnormal"]


def test_the_health_message_shows_the_shipped_models_threshold(said: dict[str, Any]) -> None:
    (health,) = (block for block in blocks("docs/messages.md") if "counters" in block)
    assert health["model"]["threshold"] == said["threshold"]
    assert {key: health["model"][key] for key in said["model"]} == said["model"]


def test_a_number_for_a_machines_name_is_rejected_as_the_page_says() -> None:
    (item,) = decoder().decode(json.dumps(blocks("README.md")[0] | {"equipment_id": 7}).encode()).items
    assert isinstance(item, Rejection)
    assert [error.loc for error in item.errors] == [("equipment_id",)]


def test_the_korean_page_has_the_commands_the_links_and_the_messages_of_the_english_one() -> None:
    english, korean = ((CHECKOUT / page).read_text(encoding="utf-8") for page in ("README.md", "README.ko.md"))
    for pattern in (
        r"^```(\w+)\n(.*?)^```",  # blocks
        r"\]\(((?!README)[^)]+)\)",  # links, but to each other
        r"^\| (`[^|]+`) \|",  # commands of the table
        r"^(#+) ",  # headings
    ):
        flags = re.MULTILINE | re.DOTALL
        assert re.findall(pattern, korean, flags) == re.findall(pattern, english, flags)
    inline = [
        set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))) for page in (english, korean)
    ]
    assert inline[0] == inline[1]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "README.ko.md",
        "CONTRIBUTING.md",
        *sorted(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md")),
    ],
)
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((CHECKOUT / page).parent / target).exists(), target
