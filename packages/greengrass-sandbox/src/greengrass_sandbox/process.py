"""A lifecycle script as a process: started, its output written to the component's log, stopped with everything it started.

Each script leads a process group of its own. No process may outlive its nucleus: a group is always ended as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

OnLine = Callable[[str], None]

LAST_OUTPUT: Final = 1.0
"""Seconds for which output is still read after a script's end."""


class Process:
    """A running script. Made by :func:`start`.

    Attributes:
        pid: Process id of the shell, which is also the id of its group.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, output: asyncio.StreamReader, log_path: Path, on_line: OnLine
    ) -> None:
        self._process = process
        self._output = output
        self._on_line = on_line
        self.pid = process.pid
        self._pump = asyncio.get_running_loop().create_task(self._copy_output(log_path))

    async def wait(self) -> int:
        """Waits for the script's end, ends what it left running, and returns its exit code (negative: a signal)."""
        code = await self._process.wait()
        self._signal(signal.SIGKILL)
        # What left the group (a daemon) may hold the pipe open for ever.
        await asyncio.wait({self._pump}, timeout=LAST_OUTPUT)
        self._pump.cancel()
        return code

    async def stop(self, grace: float) -> bool:
        """Sends SIGTERM to the group, and SIGKILL to what is left of it later.

        Args:
            grace: Seconds from SIGTERM to SIGKILL.

        Returns:
            Whether the script ended by itself within the grace.
        """
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), grace)
        except asyncio.TimeoutError:
            self._signal(signal.SIGKILL)
            return False
        return True

    def kill(self) -> None:
        """Sends SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of the group
            os.killpg(self.pid, number)

    async def _copy_output(self, log_path: Path) -> None:
        rest = b""
        with log_path.open("ab", buffering=0) as log:
            while data := await self._output.read(65536):
                log.write(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._on_line(line.decode(errors="replace"))
        if rest:
            self._on_line(rest.decode(errors="replace"))


async def start(
    arguments: tuple[str, ...], *, directory: Path, environment: Mapping[str, str], log_path: Path, on_line: OnLine
) -> Process:
    """Starts a script in a process group of its own.

    Args:
        arguments: Program and arguments.
        directory: Its working directory.
        environment: Its whole environment.
        log_path: Where its output is appended.
        on_line: Called with each line of output.

    Raises:
        OSError: It cannot be started.
    """
    # A pipe of our own: on some versions of Python asyncio's own pipe delays the news of the script's end until everything
    # that the script left running has closed it, too.
    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=directory,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    output = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_end, "rb", buffering=0)
    )
    return Process(process, output, log_path, on_line)
