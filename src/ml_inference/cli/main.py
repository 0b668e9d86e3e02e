"""The command line: finds the command, gives it its arguments, turns what goes wrong into one clear line."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from ml_inference import __version__
from ml_inference.lean import keep_xgboost_lean

DEVICE = "ml_inference.cli"
WORKBENCH = "ml_inference.workbench.commands"
COMMANDS = {
    "run": (DEVICE, "the component; what the recipe starts"),
    "verify": (DEVICE, "check a model directory"),
    "train": (WORKBENCH, "train, evaluate and write a model directory and a report"),
    "package": (WORKBENCH, "make a model directory from a booster file or a SageMaker archive"),
    "score": (DEVICE, "score a CSV or JSON-lines file without Greengrass"),
    "report": (WORKBENCH, "what a recording shows, as one HTML file"),
    "sign": (WORKBENCH, "sign a model directory, or make a key pair"),
    "simulate": (WORKBENCH, "six-sensor telemetry to a file, standard output or IPC"),
    "demo": (WORKBENCH, "the whole line on this machine, with a live view"),
    "schema": (DEVICE, "JSON Schema of every message and of the configuration"),
}
"""Where each command's module is, and what it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; None for this process's.

    Returns:
        The exit code: 0 for success, 1 for a failure that was explained, 2 for wrong arguments, 130 after Ctrl-C.
    """
    # OpenMP's idle threads spin; it reads this once, when XGBoost is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    keep_xgboost_lean()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="ml-inference", description="Machine learning at the edge on AWS IoT Greengrass V2."
    )
    parser.add_argument("--version", action="version", version=f"ml-inference {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (package, text) in COMMANDS.items():
        if not _is_here(package):
            continue
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            try:
                module = importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name is None or error.name.startswith("ml_inference"):
                    raise
                print(
                    f"ml-inference {name}: needs {error.name}: pip install '.[all]' in a checkout of the repository",
                    file=sys.stderr,
                )
                return 1
            module.configure(command)
            command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _is_here(package: str) -> bool:
    """Whether a package of commands is installed: the artifact on a device has no workbench."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
