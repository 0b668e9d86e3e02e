# ruff: noqa: INP001, T201 - a command of its own, it prints
"""Fetches the wheels of one platform into `wheelhouse/`: `make wheelhouse ARCH=aarch64 PYTHON=3.11`.

For devices that reach no package index: the next build takes the folder into the artifact, and its launcher installs from there.
Several platforms may stand beside each other. It must never fetch anything but what requirements.lock names, by hash.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MANYLINUX = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
"""Every tag that glibc 2.28 can load: the oldest that xgboost-cpu has wheels for."""


def fetch(lock: Path, target: Path, *, arch: str, python: str, uv: str) -> None:
    """Fetch the wheels of a platform.

    Args:
        lock: The lock file for all platforms.
        target: Folder for the wheels; replaced as a whole when all of them are there.
        arch: `x86_64` or `aarch64`.
        python: Python version of the devices, such as `3.11`.
        uv: The uv command.

    Raises:
        subprocess.CalledProcessError: uv or pip failed; they said why.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as workshop:
        # pip reads the lock's markers for the Python that runs it, whatever --python-version says; uv for the device's.
        requirements = Path(workshop) / "requirements.txt"
        command = [uv, "pip", "compile", "--quiet", "--no-deps", "--generate-hashes", "--no-header", str(lock)]
        platform = f"{arch}-manylinux_2_28"
        subprocess.run(  # noqa: S603 - the developer's own uv
            [*command, "--python-version", python, "--python-platform", platform, "-o", str(requirements)], check=True
        )
        wheels = Path(workshop) / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--only-binary=:all:", "--ignore-requires-python", "--implementation", "cp"]
        command += [
            "--python-version",
            python,
            "--abi",
            f"cp{python.replace('.', '')}",
            "--abi",
            "abi3",
            "--abi",
            "none",
        ]
        command += [argument for tag in MANYLINUX for argument in ("--platform", f"{tag}_{arch}")]
        subprocess.run(  # noqa: S603 - this Python's own pip
            [*command, "--dest", str(wheels), "--requirement", str(requirements)], check=True
        )
        shutil.rmtree(target, ignore_errors=True)
        wheels.rename(target)


def main() -> int:
    """Fetch what the command line asks for."""
    parser = argparse.ArgumentParser(description="Fetch wheels for devices without a network.")
    parser.add_argument("--arch", choices=("x86_64", "aarch64"), required=True)
    parser.add_argument("--python", choices=("3.10", "3.11", "3.12", "3.13", "3.14"), required=True)
    parser.add_argument("--uv", default="uv", help="the uv command")
    parser.add_argument("project", nargs="?", type=Path, default=Path(), help="directory with requirements.lock")
    options = parser.parse_args()
    target = options.project / "wheelhouse" / f"{options.arch}-{options.python}"
    try:
        fetch(options.project / "requirements.lock", target, arch=options.arch, python=options.python, uv=options.uv)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"fetch_wheels: {error}", file=sys.stderr)
        return 1
    wheels = list(target.iterdir())
    print(f"{target}: {len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
