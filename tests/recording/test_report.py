"""`ml-inference report`: the story of a recording, and the page about it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_inference.cli.main import main
from ml_inference.model.bundle import Model
from ml_inference.model.manifest import Feature, Histogram
from ml_inference.model.ranges import training_range
from ml_inference.offline.replay import Source
from ml_inference.scoring.judgement import Judgement
from ml_inference.workbench.recording.report import envelope, render
from ml_inference.workbench.recording.story import play
from support.models import ABNORMAL, NORMAL

HOSTILE = "<img src=x onerror=alert(1)>"


def recording(path: Path) -> Path:
    """Two machines an hour long; one is abnormal for ten minutes. A bad line among them."""
    rows: list[Any] = []
    for minute in range(60):
        stamp = f"2026-11-22T03:{minute:02d}:00Z"
        bad = 20 <= minute < 30
        rows.append((ABNORMAL if bad else NORMAL) | {"equipment_id": HOSTILE, "timestamp": stamp})
        rows.append(NORMAL | {"equipment_id": "quiet", "timestamp": stamp})
    rows.append({"equipment_id": "quiet"})
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


class Tags(HTMLParser):
    """The tags of a page and where they link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_story_has_every_reading_every_state_and_every_sensor(model: Model, tmp_path: Path) -> None:
    story = play(model, Source([recording(tmp_path / "line.jsonl")]), Judgement())
    troubled = story.machines[HOSTILE]
    assert (story.scored, story.rejected) == (120, 1)
    assert story.first_rejection
    assert [(span.state, round((span.end - span.begin) / 60)) for span in troubled.spans] == [
        ("normal", 20),
        ("abnormal", 10),
        ("normal", 29),
    ]
    assert troubled.spans[1].reasons
    assert len(troubled.values) == 60 * len(model.manifest.features)


def test_the_page_says_who_was_in_trouble_when_and_why_and_needs_nothing_else(model: Model, tmp_path: Path) -> None:
    story = play(model, Source([recording(tmp_path / "line.jsonl")]), Judgement())
    page = render(story, "line.jsonl")
    tags = Tags(page)
    assert "1 of 2 machines had alarms" in page
    assert "10 min" in page
    assert HOSTILE not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert not tags.tags & {"script", "img", "iframe", "link", "form"}
    assert all(link.startswith("#") for link in tags.links)
    assert page.count('class="chart"') == 2 * (1 + len(model.manifest.features))
    assert re.search(r'class="state-abnormal" x="33\d\.', page)  # 20 of 59 minutes


def test_the_command_writes_the_page_and_says_what_it_saw(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = recording(tmp_path / "line.jsonl"), tmp_path / "report.html"
    assert main(["report", "--data", str(table), "--model", str(model_directory), "--out", str(out)]) == 0
    assert "2 machines, 120 readings, 1 rejected" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_recording_without_a_reading_is_one_line_that_says_why(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "empty.csv"
    table.write_text("equipment_id,timestamp\na,2026-11-22T03:00:00Z\n")
    assert main(["report", "--data", str(table), "--model", str(model_directory), "--out", str(tmp_path / "o")]) == 1
    said = capsys.readouterr().err
    assert "no reading could be scored" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_an_envelope_keeps_the_lowest_and_the_highest_of_each_step() -> None:
    times = np.arange(0.0, 32_000.0)
    values = np.zeros(32_000, dtype=np.float32)
    values[12_345], values[20_000], values[7] = 9.0, -4.0, np.nan
    steps, lows, means, highs = envelope(times, values, 0.0, 32_000.0)
    assert len(steps) == 320
    assert (highs.max(), lows.min()) == (9.0, -4.0)
    assert abs(means).max() == pytest.approx(0.09)


def test_a_training_range_holds_nine_of_ten_readings() -> None:
    histogram = Histogram(edges=[0.0, 10.0, 20.0, 30.0], counts=[10, 80, 10])
    assert training_range(Feature(name="x", histogram=histogram)) == pytest.approx((5.0, 25.0))
    assert training_range(Feature(name="x")) is None
    assert training_range(Feature(name="x", histogram=Histogram(edges=[0.0, 1.0], counts=[0]))) is None
