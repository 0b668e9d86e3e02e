"""`ml-inference run`: the component; what the recipe starts."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ml_inference.component import EXIT_CANNOT_START, Component
from ml_inference.greengrass.session import Connector, NucleusUnavailableError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        type=_override,
        help="override the nucleus's configuration, such as --set Threshold=0.7; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the component; see `ml_inference.component` for the exit codes."""
    logging.basicConfig(
        # The nucleus's log has its own time stamps.
        format="%(levelname)s %(name)s: %(message)s",
        level=logging.WARNING,
        stream=sys.stdout,
    )
    logging.getLogger("ml_inference").setLevel(logging.INFO)
    try:
        connector = Connector()
    except NucleusUnavailableError as error:
        print(f"ml-inference run: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    component = Component(
        connector,
        thing_name=os.environ.get("AWS_IOT_THING_NAME", ""),
        work_directory=Path.cwd(),
        overrides=dict(arguments.set),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: component.stop())
    code = component.run()
    logging.shutdown()
    sys.stdout.flush()
    # Everything is closed. The SDK's native threads may take their time to end, and the nucleus kills after 5 s.
    os._exit(code)


def _override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
