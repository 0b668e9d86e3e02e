"""The guide's commands for training, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ml_inference.model.bundle import load_model

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "bring-your-own-model.md"


def blocks() -> list[tuple[str, str]]:
    """Pairs of the language and the text, in the order of the page."""
    sections = re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = "".join(section for section in sections if section.startswith(("From Jupyter", "Train with ml-inference")))
    return re.findall(r"^```(sh|python)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_what_the_guide_leaves_behind_is_left_alone_by_git_and_the_linters() -> None:
    checkout = GUIDE.parents[1]
    assert "cd work\n" in GUIDE.read_text(encoding="utf-8")
    assert "work/" in (checkout / ".gitignore").read_text().splitlines()
    ruff = [sys.executable, "-m", "ruff", "check", "--force-exclude", "--stdin-filename", "work/notebook.py", "-"]
    done = subprocess.run(ruff, cwd=checkout, input="import numpy", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_commands_from_the_notebook_to_the_report_do_what_the_guide_says(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = []
    for language, whole in blocks():
        # Fewer machines for a shorter time, and fewer trees: what is tried is the commands, not the model.
        text = whole.replace("--machines 24", "--machines 8").replace("--seconds 2419200", "--seconds 864000")
        text = text.replace("ml-inference train ", "ml-inference train --max-trees 15 ")
        command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=500
        )
        assert result.returncode == 0, result.stderr
        versions = re.findall(r"--out my-model .*--version (\S+)", text)
        if versions:
            assert load_model(tmp_path / "my-model").manifest.version == versions[-1]
        done.append(language)
    assert done == ["sh", "python", "sh", "sh", "sh"]
    manifest = load_model(tmp_path / "my-model").manifest
    assert manifest.metrics["threshold_rule"] == "recall of at least 0.8"
    assert manifest.features[0].minimum == -40.0
    assert manifest.alarm is not None
    assert (tmp_path / "my-model" / "report.html").is_file()
