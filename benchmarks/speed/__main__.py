"""``python -m speed``: measures how fast the component is, and prints the tables of docs/performance.md; `make bench` starts it."""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from speed import over_ipc
from speed.over_ipc import Load

QUICK = (Load("burst", None, over_ipc.BURST), Load("100/s", 100.0, 150), Load("10/s", 10.0, 15))
FULL = (
    Load("burst", None, over_ipc.BURST),
    Load("half the limit", 400.0, 1_200),
    Load("100/s", 100.0, 500),
    Load("10/s", 10.0, 60),
    Load("1/s", 1.0, 6),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Without the program's name; None for the process's own.
    """
    parser = argparse.ArgumentParser(prog="speed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("artifacts/model"), help="model directory (%(default)s)")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="of an environment as a device has it"
    )
    parser.add_argument("--quick", action="store_true", help="a minute in place of ten")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (default: 5, quick 2)")
    parser.add_argument("--profile", choices=("lite", "classic"), default="lite", help="runtime (%(default)s)")
    arguments = parser.parse_args(argv)
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        found = asyncio.run(
            over_ipc.compare(
                Path(directory),
                arguments.python,
                arguments.model,
                QUICK if arguments.quick else FULL,
                rounds,
                profile=arguments.profile,
            )
        )
    print("\n".join(over_ipc.show(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
