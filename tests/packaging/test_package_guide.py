"""The guide's commands, run as they stand, from the section on SageMaker to the one on signing."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xgboost

from support.models import SIX, train_small

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "bring-your-own-model.md"
SECTIONS = ("From SageMaker", "Check", "Sign")


def blocks(language: str) -> list[str]:
    sections = re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = "".join(section for section in sections if section.startswith(SECTIONS))
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a user has: a SageMaker archive, a booster from a notebook, readings of the line, a candidate model."""
    rows = np.random.default_rng(1).uniform(20.0, 90.0, (300, 6)).round(2).astype(np.float32)
    label = rows[:, 0] + rows[:, 3] > 110.0
    parameters = {"objective": "binary:logistic", "max_depth": 3}
    names = [feature.name for feature in SIX]
    notebook = xgboost.train(parameters, xgboost.DMatrix(rows, label=label, feature_names=names), 8)
    notebook.save_model(tmp_path / "booster.json")
    container = xgboost.train(parameters, xgboost.DMatrix(rows, label=label), 8)
    (tmp_path / "xgboost-model").write_bytes(bytes(container.save_raw("ubj")))
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "xgboost-model", arcname="xgboost-model")
    scores = notebook.predict(xgboost.DMatrix(rows, feature_names=names))
    table = [
        ",".join([*names, "score"]),
        *(",".join(map(str, [*row, score])) for row, score in zip(rows, scores, strict=True)),
    ]
    (tmp_path / "readings.csv").write_text("\n".join(table))
    (features,) = blocks("json file=features.json")
    (tmp_path / "features.json").write_text(features)
    train_small(tmp_path / "candidate", version="2.0.0")
    return tmp_path


def test_the_commands_of_the_guide_do_what_it_says(folder: Path) -> None:
    commands = "".join(blocks("sh"))
    assert commands.count("ml-inference ") >= 9
    # The bucket is the only thing of the user's that is not here.
    script = "set -eu\n" + commands.replace("s3://my-models/job-1/output/model.tar.gz", "model.tar.gz")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "press-line 1.0.0 is ready: 6 features, binary:logistic, " in done.stdout
    assert ", signed by a trusted key" in done.stdout
    assert "the booster gives the 300 scores of column 'score'" in done.stderr
    assert "press-line 1.0.0 -> small 2.0.0, 300 readings scored by both" in done.stdout
    assert len((folder / "results.jsonl").read_text().splitlines()) == 300
    assert json.loads((folder / "comparison.json").read_text())["readings"] == 300
