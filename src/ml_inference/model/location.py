"""Where the model is that came with the component."""

from __future__ import annotations

from pathlib import Path


def artifact_model_directory() -> Path:
    """The model that came with the component's artifact.

    The artifact has the repository's layout (`src/ml_inference/`, `artifacts/model/`); an installed package carries the
    model inside.
    """
    package = Path(__file__).resolve().parents[1]
    artifact = package.parent.parent / "artifacts" / "model"
    return artifact if artifact.is_dir() else package / "_model"
