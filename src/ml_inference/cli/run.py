"""`ml-inference run`: the component; what the recipe starts."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ml_inference.logs import log_to_nucleus
from ml_inference.version import deployed_version

if TYPE_CHECKING:
    from ml_inference.serving.component import Component


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
    """Run the component; see `ml_inference.serving.component` for the exit codes."""
    return serve(lambda: _component(dict(arguments.set)))


def serve(make_component: Callable[[], Component]) -> int:
    """Run a component from the first moment on as a process that ends with 0 when it is asked to.

    Args:
        make_component: Imports and makes it; takes seconds on a gateway, and may find that this is no place for it.

    Returns:
        1 if it could not be made; else it does not return, but ends the process with the component's exit code.
    """
    component: Component | None = None
    stopped = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if component is not None:
            component.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    log_to_nucleus(logging.WARNING)
    logging.getLogger("ml_inference").setLevel(logging.INFO)
    from ml_inference.greengrass.errors import NucleusUnavailableError  # noqa: PLC0415 - only now it may be stopped

    try:
        component = make_component()
    except NucleusUnavailableError as error:
        print(f"ml-inference run: {error}", file=sys.stderr)
        return 1
    if stopped:
        component.stop()
    code = component.run()
    logging.shutdown()
    sys.stdout.flush()
    # Everything is closed. The SDK's native threads may take their time to end, and the nucleus kills after 5 s.
    os._exit(code)


def _component(overrides: dict[str, Any]) -> Component:
    from ml_inference.serving import heap  # noqa: PLC0415

    heap.share()
    from ml_inference.greengrass.session import Connector  # noqa: PLC0415
    from ml_inference.serving.alone import be_alone  # noqa: PLC0415
    from ml_inference.serving.component import Component  # noqa: PLC0415 - imports XGBoost, which takes a while

    connector = Connector()
    be_alone(Path.cwd())
    return Component(
        connector,
        thing_name=os.environ.get("AWS_IOT_THING_NAME", ""),
        work_directory=Path.cwd(),
        overrides=overrides,
        version=deployed_version(),
    )


def _override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
