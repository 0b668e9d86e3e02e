"""What `install` asks of a version: one reading through the component's code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ml_inference.cli.main import main
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.serving.intake import Intake
from ml_inference.serving.rehearsal import rehearse


def test_a_reading_goes_in_and_a_result_comes_out(model_directory: Path) -> None:
    rehearse(model_directory, 60)


def test_a_worker_that_scores_nothing_fails_the_check(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Pipeline, "process", lambda *_: 1 / 0)
    assert main(["verify", "--in-process", "--component", str(model_directory)]) == 1
    assert "not usable: component: " in capsys.readouterr().err


def test_a_reading_that_is_rejected_fails_the_check(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put = Intake.put
    monkeypatch.setattr(Intake, "put", lambda intake, _: put(intake, b"{}"))
    assert main(["verify", "--in-process", "--component", str(model_directory)]) == 1
    assert "not usable: component: in place of a result: " in capsys.readouterr().err


def test_a_module_that_is_broken_fails_the_check_with_the_error_of_python(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "ml_inference.serving.rehearsal")
    monkeypatch.setitem(sys.modules, "ml_inference.serving.worker", None)
    assert main(["verify", "--in-process", "--component", str(model_directory)]) == 1
    assert "not usable: component: ModuleNotFoundError: " in capsys.readouterr().err
