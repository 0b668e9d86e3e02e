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
from typing import Final, Literal

Level = Literal["INFO", "WARN"]
"""How the classic nucleus logs a line of stdout, and one of stderr, whatever the line says."""

OnLine = Callable[[str, Level], None]

LAST_OUTPUT: Final = 1.0
"""Seconds for which output is still read after a script's end."""


class Process:
    """A running script. Made by :func:`start`.

    Attributes:
        pid: Process id of the shell, which is also the id of its group.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        outputs: Mapping[Level, asyncio.StreamReader],
        log_path: Path,
        on_line: OnLine,
    ) -> None:
        self._process = process
        self._on_line = on_line
        self.pid = process.pid
        loop = asyncio.get_running_loop()
        self._pumps = {
            loop.create_task(self._copy_output(output, level, log_path)) for level, output in outputs.items()
        }

    async def wait(self) -> int:
        """Waits for the script's end, ends what it left running, and returns its exit code (negative: a signal)."""
        code = await self._process.wait()
        self._signal(signal.SIGKILL)
        # What left the group (a daemon) may hold the pipe open for ever.
        await asyncio.wait(self._pumps, timeout=LAST_OUTPUT)
        for pump in self._pumps:
            pump.cancel()
        return code

    async def stop(self, grace: float) -> bool:
        """Sends SIGTERM to the group, and SIGKILL to what is left of it later.

        Args:
            grace: Seconds from SIGTERM to SIGKILL.

        Returns:
            Whether the script ended by itself within the grace.
        """
        self._signal(signal.SIGTERM)
        self.thaw()  # one that is frozen could not answer
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), grace)
        except asyncio.TimeoutError:
            self._signal(signal.SIGKILL)
            return False
        return True

    def freeze(self) -> None:
        """Stops the group in its tracks (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen group go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Sends SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of the group
            os.killpg(self.pid, number)

    async def _copy_output(self, output: asyncio.StreamReader, level: Level, log_path: Path) -> None:
        rest = b""
        with log_path.open("ab", buffering=0) as log:
            while data := await output.read(65536):
                log.write(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._on_line(line.decode(errors="replace"), level)
        if rest:
            self._on_line(rest.decode(errors="replace"), level)


async def start(
    arguments: tuple[str, ...],
    *,
    directory: Path,
    environment: Mapping[str, str],
    log_path: Path,
    on_line: OnLine,
    separate: bool = False,
) -> Process:
    """Starts a script in a process group of its own.

    Args:
        arguments: Program and arguments.
        directory: Its working directory.
        environment: Its whole environment.
        log_path: Where its output is appended.
        on_line: Called with each line of output.
        separate: Whether stdout and stderr are told apart; else they keep their common order, and every line is INFO.

    Raises:
        OSError: It cannot be started.
    """
    # A pipe of our own: on some versions of Python asyncio's own pipe delays the news of the script's end until everything
    # that the script left running has closed it, too.
    levels: tuple[Level, ...] = ("INFO", "WARN") if separate else ("INFO",)
    pipes = {level: os.pipe() for level in levels}
    read_ends = {level: read_end for level, (read_end, _) in pipes.items()}
    write_ends = [write_end for _, write_end in pipes.values()]
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=directory,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_ends[0],
            stderr=write_ends[-1],
            start_new_session=True,
        )
    except BaseException:
        for read_end in read_ends.values():
            os.close(read_end)
        raise
    finally:
        for write_end in write_ends:
            os.close(write_end)
    outputs = {level: await _read_pipe(read_end) for level, read_end in read_ends.items()}
    return Process(process, outputs, log_path, on_line)


async def _read_pipe(read_end: int) -> asyncio.StreamReader:
    output = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_end, "rb", buffering=0)
    )
    return output
