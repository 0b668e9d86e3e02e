"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before XGBoost is imported: OpenMP's idle threads would spin on the machine's few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from ml_inference.model.bundle import Model, load_model
from support.models import train_small


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model."""
    return train_small(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def model(model_directory: Path) -> Model:
    """The small model, loaded."""
    return load_model(model_directory)
