"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Before XGBoost is imported: OpenMP's idle threads would spin on the machine's few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from ml_inference.model.bundle import Model, load_model
from support.models import train_small

# The same examples in each run, and no limit of time for one: a busy machine is no fault of the code.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: a long one that begins last would keep one core busy and the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model."""
    return train_small(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def model(model_directory: Path) -> Model:
    """The small model, loaded."""
    return load_model(model_directory)
