"""`ml-inference verify`: whether a model directory can be trusted to score on this machine.

What the recipe's `install` runs, so that a bad model stops its deployment and the version before it stays.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ml_inference.model.bundle import load_model
from ml_inference.model.manifest import ModelError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="holds manifest.json and the booster")


def run(arguments: argparse.Namespace) -> int:
    """Verify; 0 when every check holds, else 1 with the reason."""
    try:
        model = load_model(arguments.directory)
    except ModelError as error:
        print(f"{arguments.directory}: not usable: {error}", file=sys.stderr)
        return 1
    manifest = model.manifest
    print(
        f"{arguments.directory}: {manifest.name} {manifest.version} is ready: {len(manifest.features)} features, "
        f"{manifest.objective}, {len(manifest.golden)} golden scores"
    )
    return 0
