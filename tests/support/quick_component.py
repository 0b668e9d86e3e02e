"""`ml-inference run` for tests: the same process with other time limits, and quicker to start.

The first argument holds the fields of `Timing` to change as JSON, the others are those of `ml-inference run`. Models are
checked in this process and not first in a child, unless `--child` asks for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_inference.cli import run
from ml_inference.lean import keep_xgboost_lean

if TYPE_CHECKING:
    from ml_inference.model.bundle import Model
    from ml_inference.serving.component import Component


def main() -> int:
    parser = argparse.ArgumentParser()
    run.configure(parser)
    parser.add_argument("--child", action="store_true")
    arguments = parser.parse_args(sys.argv[2:])
    return run.serve(lambda: make(json.loads(sys.argv[1]), dict(arguments.set), child=arguments.child))


def make(changed: dict[str, float], overrides: dict[str, Any], *, child: bool) -> Component:
    keep_xgboost_lean()
    # Imported late, as `ml-inference run` does: from the first moment on it can be stopped.
    from ml_inference.greengrass.session import Connector  # noqa: PLC0415
    from ml_inference.model.bundle import load_model  # noqa: PLC0415
    from ml_inference.serving.component import Component  # noqa: PLC0415
    from ml_inference.serving.rollout import load_checked  # noqa: PLC0415
    from ml_inference.serving.timing import Timing  # noqa: PLC0415

    def load(directory: Path, trusted_keys: Sequence[str]) -> Model:
        return load_model(directory, trusted_keys=trusted_keys)

    timing = Timing(**changed)
    return Component(
        Connector(call_timeout=timing.call),
        thing_name=os.environ["AWS_IOT_THING_NAME"],
        work_directory=Path.cwd(),
        overrides=overrides,
        timing=timing,
        load=load_checked if child else load,
    )


if __name__ == "__main__":
    sys.exit(main())
