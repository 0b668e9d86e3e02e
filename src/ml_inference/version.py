"""The version of the deployment, which health and log report. The Python package's own version is `ml_inference.__version__`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ml_inference import __version__

STAMP_FILE = "component.json"
"""Of the artifact, written by `scripts/build_component.py`."""


def deployed_version() -> str:
    """The version of the deployment: what the build wrote beside the code, else (no artifact) the package's own.

    Where the cloud chose the version (`NEXT_PATCH`), the artifact's launcher says it.
    """
    stamp = Path(__file__).parents[2] / STAMP_FILE
    try:
        version = str(json.loads(stamp.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        version = __version__
    return os.environ.get("COMPONENT_VERSION") or version
