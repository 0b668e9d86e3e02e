# ruff: noqa: INP001, T201 - a command of its own, it prints
"""Prepares the demo and becomes it: `python3 scripts/demo.py [OPTION]...`, with the options of `ml-inference demo`.

It makes one environment, with what the stand-in, the view and every component of the demo need, and keeps it for the next time. It
needs nothing but a Python with `venv`, and no developer's environment: what it costs is what a device and a view cost.
"""

import fcntl
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "device"))

from launcher import (  # noqa: E402 - it lies in no package
    SUPPORTED,
    InstallError,
    build_environment,
    environment_name,
    find_python,
    publish,
    remove,
)

SOURCES = ("src", "packages/greengrass-sandbox/src", "components/simulator")
"""Where the packages of this checkout are."""


class Progress:
    """Shows what pip is doing: in a terminal as one line that changes, else as a line for each step.

    Args:
        packages: How many there are, at most.
    """

    def __init__(self, packages: int) -> None:
        self._packages = packages
        self._collected = 0
        self._began = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self.tell("make demo: preparing its environment (only the first time; some 80 MB to fetch)", stays=True)

    def __call__(self, line: str) -> None:
        """Take one line of pip's."""
        collecting = re.match(r"Collecting ([\w.-]+)", line)
        if collecting:
            self._collected += 1
            self.tell(f"  fetching {collecting.group(1)} ({self._collected} of {self._packages} packages)")
        elif line.startswith("Installing collected packages"):
            self.tell("  unpacking the packages", stays=True)

    def tell(self, text: str, *, stays: bool = False) -> None:
        """Show a line.

        Args:
            text: The line.
            stays: Whether it is shown, too, where lines cannot be replaced.
        """
        if self._terminal:
            width = shutil.get_terminal_size().columns
            print(f"\r\033[K{text}"[: width + 3], end="\n" if text.startswith("make") else "", flush=True)
        elif stays:
            print(text, flush=True)

    def end(self) -> None:
        """Say how long it took."""
        took = f"  ready after {time.monotonic() - self._began:.0f} s"
        print(f"\r\033[K{took}" if self._terminal else took, flush=True)


def prepare(folder: Path) -> Path:
    """The demo's environment, made if it is not there.

    Args:
        folder: Keeps it.

    Raises:
        InstallError: It cannot be made; with the cause.
    """
    lock = ROOT / "requirements-demo.lock"
    python = find_python(list(SUPPORTED))
    environment = folder / environment_name(lock.read_bytes(), python.version)
    if os.access(str(environment / "bin" / "python"), os.X_OK):
        return environment
    for older in [*folder.glob("venv-*"), *folder.glob("tmp-*")]:
        remove(older)
    progress = Progress(len(set(re.findall(r"^([a-z0-9-]+)==", lock.read_text(), re.MULTILINE))))
    temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=str(folder)))
    try:
        publish(build_environment(python, lock, temporary, ["--no-deps"], show=progress), environment)
    finally:
        remove(temporary)
    progress.end()
    return environment


def main() -> int:
    """Prepare the demo and become it.

    Returns:
        1; returns only for a failure.
    """
    folder = ROOT / ".sandbox"
    folder.mkdir(exist_ok=True)
    # Kept over `execve` and so as long as the demo runs.
    lock = os.open(str(folder / "demo.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"make demo: a demo already runs in this checkout ({folder}): end it first", file=sys.stderr)
        return 1
    try:
        environment = prepare(folder)
    except (InstallError, OSError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join(str(ROOT / source) for source in SOURCES))
    command = [str(environment / "bin" / "python"), "-m", "ml_inference", "demo", "--environment", str(environment)]
    os.execve(command[0], command + sys.argv[1:], variables)  # noqa: S606 - no shell is wanted
    return 1


if __name__ == "__main__":
    sys.exit(main())
