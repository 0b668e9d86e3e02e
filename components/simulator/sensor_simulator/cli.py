"""The command line: telemetry to a file, to standard output, or over Greengrass IPC as the component does.

`add_arguments` and `run` let another command offer the same. A file is written as fast as possible, IPC runs by the clock. It must
never print anything but telemetry to standard output, where that is where telemetry goes.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ml_inference.logs import log_to_nucleus
from sensor_simulator.faults import Fault
from sensor_simulator.files import write_csv, write_json_lines, write_truth
from sensor_simulator.sensor_faults import SensorFault, When
from sensor_simulator.settings import Settings, SettingsError, parse, parse_value

_log = logging.getLogger(__name__)

_FILE_DEFAULTS = Settings(machines=8, accelerate=1.0)
_FILE_SECONDS = 3600.0
_EXIT_USAGE = 2  # argparse's own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the simulator understands to a parser; hand what that gives to `run`.

    Args:
        parser: A parser or sub-parser.
    """

    def setting(flag: str, key: str, metavar: str, says: str) -> None:
        parser.add_argument(flag, dest=key, type=_reader(key), metavar=metavar, help=says)

    setting("--machines", "Machines", "N", "how many (default: 8; 4 over IPC)")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="how long (default: 3600; no end over IPC)")
    setting("--rate", "RateHz", "HZ", "readings a second for each machine (default: 1)")
    setting("--seed", "Seed", "N", "the same seed tells the same story (default: 7)")
    setting(
        "--fault-rate",
        "FaultRate",
        "R",
        "faults that begin on a healthy machine a day of story (default: 0.15; 0.03 in story 2)",
    )
    setting("--fault", "Fault", "NAME", "only this one: " + ", ".join(fault.value for fault in Fault))
    setting("--story", "Story", "N", "2: rare faults, human labels, shifts, other products and sensors (default: 1)")
    setting(
        "--sensor-fault-rate", "SensorFaultRate", "R", "sensors that break on a machine a day of story (default: 0)"
    )
    setting("--sensor-fault-hours", "SensorFaultHours", "H", "for how long, median (default: 6)")
    ways, times = (", ".join(str(member.value) for member in kind) for kind in (SensorFault, When))
    setting("--sensor-fault", "SensorFault", "NAME", "only this way to break: " + ways)
    setting(
        "--sensor-fault-when", "SensorFaultWhen", "WHEN", f"{times}: alone or during equipment episodes (default: any)"
    )
    setting("--start-days-ago", "StartDaysAgo", "D", "where an accelerated story begins, with --ipc (default: 30)")
    setting("--accelerate", "Accelerate", "X", "seconds of story a second (default: 1; 600 over IPC)")
    setting("--bad-every", "BadEvery", "N", "every Nth message is malformed; not in CSV (default: 0, none)")
    parser.add_argument("--format", choices=("csv", "jsonl"), help="of the file (default: csv)")
    parser.add_argument("--out", metavar="FILE", help="file to write, - for standard output (the default)")
    parser.add_argument("--episodes", metavar="FILE", help="file for the truth: one episode a line, as JSON")
    parser.add_argument(
        "--ipc",
        action="store_true",
        help="publish in real time, as the component does; its configuration holds for what is not given here",
    )
    setting("--topic", "Topic", "T", "local topic to publish to (default: ml/inference/request)")


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Args:
        arguments: What a parser prepared by `add_arguments` gave.

    Returns:
        The process's exit code: 0 when done or asked to stop, 1 when it cannot start, 2 for a wrong command line, 75 when
        the IPC connection is lost.
    """
    given = {key: value for key, value in vars(arguments).items() if key[0].isupper() and value is not None}
    wrong = _contradiction(arguments, given)
    if wrong:
        _log.error("%s", wrong)
        return _EXIT_USAGE
    if arguments.ipc:
        from sensor_simulator.component import publish_and_exit  # noqa: PLC0415 - only publishing needs the SDK

        publish_and_exit(given, seconds=arguments.seconds)
    settings = parse(given, _FILE_DEFAULTS)
    fleet, seconds, step = settings.fleet(), arguments.seconds or _FILE_SECONDS, 1.0 / settings.rate_hz
    if arguments.episodes:
        with Path(arguments.episodes).open("w", encoding="utf-8") as file:
            write_truth(fleet, file, seconds=seconds, step=step)

    def write(file: TextIO) -> None:
        if arguments.format == "jsonl":
            write_json_lines(fleet, file, seconds=seconds, step=step, bad_every=settings.bad_every)
        else:
            write_csv(fleet, file, seconds=seconds, step=step)

    if arguments.out in (None, "-"):
        try:
            write(sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (head, less) has seen enough; the interpreter's last flush must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    with Path(arguments.out).open("w", encoding="utf-8", newline="") as file:
        write(file)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``python -m sensor_simulator``.

    Args:
        argv: Without the program's name; None for the process's own.
    """
    parser = argparse.ArgumentParser(prog="sensor_simulator", description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.ipc:
        log_to_nucleus()
    else:  # standard output is for readings
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return run(arguments)


def _contradiction(arguments: argparse.Namespace, given: Mapping[str, Any]) -> str | None:
    if arguments.ipc and (arguments.out or arguments.format or arguments.episodes):
        return "--out, --format and --episodes are for files, not for --ipc"
    if not arguments.ipc and given.keys() & {"Topic", "StartDaysAgo"}:
        return "--topic and --start-days-ago are for --ipc"
    if not arguments.ipc and given.get("BadEvery") and arguments.format != "jsonl":
        return "--bad-every needs --format jsonl or --ipc: CSV has no malformed messages"
    return None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return seconds


def _reader(key: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse_value(key, text)
        except SettingsError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read
