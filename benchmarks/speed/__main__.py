"""``python -m speed``: measures how fast the component is, and prints the tables of docs/performance.md; `make bench` starts it."""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from speed import bytes_to_bytes, installed, over_ipc, plain
from speed.over_ipc import Load

QUICK = (Load("burst", None, 500), Load("100/s", 100.0, 100), Load("10/s", 10.0, 10))
FULL = (
    Load("burst", None, over_ipc.BURST),
    Load("half the limit", 400.0, 800),
    Load("100/s", 100.0, 400),
    Load("10/s", 10.0, 30),
    Load("1/s", 1.0, 5),
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
    parser.add_argument("--rounds", type=int, help="turns of each contestant over IPC (default: 3, quick 1)")
    parser.add_argument("--messages", type=int, help="of the part about memory (default: 40000, quick 2000)")
    parser.add_argument("--parts", default="abdeg", help="which of them (%(default)s)")
    parser.add_argument("--profile", choices=("lite", "classic"), default="lite", help="runtime (%(default)s)")
    arguments = parser.parse_args(argv)
    quick, python, model = arguments.quick, arguments.python.absolute(), arguments.model.resolve()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        other = plain.make(directory)

        def part(letter: str) -> Path:
            folder = directory / letter
            folder.mkdir()
            return folder

        def over() -> list[str]:
            booster, loads = other / "booster.ubj", QUICK if quick else FULL
            rounds = arguments.rounds or (1 if quick else 3)
            compared = over_ipc.compare(
                part("b"), python, model, booster, loads, rounds=rounds, profile=arguments.profile
            )
            return over_ipc.show(asyncio.run(compared))

        def starts() -> list[str]:
            measured = over_ipc.starts(part("d"), python, model, 1 if quick else 5, profile=arguments.profile)
            return asyncio.run(measured)

        def memory() -> list[str]:
            messages = arguments.messages or (2_000 if quick else 40_000)
            return asyncio.run(over_ipc.memory(part("e"), python, model, messages, profile=arguments.profile))

        parts: dict[str, tuple[str, Callable[[], list[str]]]] = {
            "a": ("Bytes to bytes", lambda: bytes_to_bytes.measure(python, model, other, 1 if quick else 5)),
            "b": ("Over IPC, with the naive component (c)", over),
            "d": ("Start", starts),
            "e": ("Memory over many messages", memory),
            "g": ("Installed", lambda: installed.measure(python, model)),
        }
        for letter, (title, measure) in parts.items():
            if letter in arguments.parts:
                began = time.monotonic()
                rows = measure()
                print(f"\n### ({letter}) {title}\n", *rows, f"\n{time.monotonic() - began:.0f} s", sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
