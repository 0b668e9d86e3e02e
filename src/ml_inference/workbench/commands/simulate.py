"""`ml-inference simulate`: six-sensor telemetry; the simulator component's own command line."""

from __future__ import annotations

import argparse
import logging
import sys

from sensor_simulator import cli


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the simulator's options."""
    cli.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Simulate; the simulator's exit code."""
    logging.basicConfig(format="ml-inference simulate: %(message)s", level=logging.INFO, stream=sys.stderr)
    return cli.run(arguments)
