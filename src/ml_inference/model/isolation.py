"""Runs a module of ours in a child process with limits on memory and time.

XGBoost can crash, hang or fill the memory over a damaged booster, and no exception handler helps against that: of 250
booster files with one flipped bit 49 killed the process. So whatever opens a booster that is not known to be sound does it
in such a child. The child is a fresh interpreter and never a fork: a fork of a process that has predicted hangs at its
next prediction. It gets none of the environment's credentials.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_inference
from ml_inference.lean import keep_xgboost_lean

MEBIBYTE = 1024 * 1024

_OUT_OF_MEMORY = 71
_EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_PR_SET_PDEATHSIG = 1  # prctl(2)
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR")

PATIENCE = 5.0
"""Times as long as a child may take by the clock: a busy machine gives it little of its processor."""


class IsolationError(Exception):
    """The child did not live to answer; the message completes the sentence "opening it ...".

    Attributes:
        transient: Whether the reason may have been the machine, and not what was opened.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def run_isolated(
    module: str,
    arguments: Sequence[str],
    *,
    memory_bytes: int,
    seconds: float,
    given: bytes = b"",
) -> tuple[int, bytes, bytes]:
    """Run `python -m module` in a child process and wait for it.

    Args:
        module: To be run as a program.
        arguments: For it; paths must be absolute, since the child runs in `/`.
        memory_bytes: Most private memory that it may map; numpy and XGBoost alone take some 150 MiB of it.
        seconds: Most time of the processor; by the clock it may take `PATIENCE` times as long.
        given: Its standard input.

    Returns:
        Its exit code, standard output and standard error.

    Raises:
        IsolationError: It could not be started, was killed by a signal, ran out of memory, or took too long.
    """
    # OpenBLAS and OpenMP map memory for each thread of the machine, whatever is asked of them later.
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    home = str(Path(ml_inference.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", __name__, str(memory_bytes), str(math.ceil(seconds)), module, *arguments]
    try:
        # `-m` puts the working directory on the path: in `/` nobody's files are imported by chance.
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, input=given, capture_output=True, timeout=PATIENCE * seconds, check=False, env=environment, cwd="/"
        )
    except subprocess.TimeoutExpired:
        raise IsolationError(f"took longer than {PATIENCE * seconds:g} seconds", transient=True) from None
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        raise IsolationError(
            f"needs a process that the machine has no room for ({error.strerror})", transient=True
        ) from error
    if done.returncode == _OUT_OF_MEMORY or _says_bad_alloc(done):
        raise IsolationError(f"needed more than {memory_bytes // MEBIBYTE} MiB of memory")
    if done.returncode == -signal.SIGXCPU:
        raise IsolationError(f"took longer than {seconds:g} seconds")
    if done.returncode == -signal.SIGKILL:
        raise IsolationError("was killed, most likely because the machine ran out of memory", transient=True)
    if done.returncode < 0:
        raise IsolationError(f"crashed XGBoost ({signal.Signals(-done.returncode).name})")
    return done.returncode, done.stdout, done.stderr


def _says_bad_alloc(done: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether the C++ runtime aborted because an allocation failed."""
    return done.returncode == -signal.SIGABRT and b"bad_alloc" in done.stderr


def _limit(memory_bytes: int, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Private writable memory: unlike RLIMIT_AS it leaves the mapped files of large libraries out.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds + 1, seconds + 2))
    # The parent watches the clock. Should it die, so does the child.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A gateway with one core goes on scoring while a new model is checked.
    os.nice(10)


def _main() -> None:
    memory_bytes, seconds, module, *arguments = sys.argv[1:]
    _limit(int(memory_bytes), int(seconds))
    keep_xgboost_lean()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except MemoryError:
        sys.exit(_OUT_OF_MEMORY)


if __name__ == "__main__":
    _main()
