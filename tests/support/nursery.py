"""Component processes that need not import everything themselves, which saves each half a second of the processor.

One process imports what the component needs and forks for each that a test asks for, before any thread, connection or model
exists. It is a process of its own as ever, with its own environment, directory and log.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Condition, Thread
from typing import Any

LARGEST_REQUEST = 128 * 1024
SECONDS = 300.0


class Child:
    """A process of the nursery, with the verbs of `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid

    def poll(self) -> int | None:
        return self._nursery.code(self.pid, 0)

    def wait(self, timeout: float = SECONDS) -> int:
        code = self._nursery.code(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Starts processes; ends with this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._changed = Condition()
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            )
        Thread(target=self._listen, name="nursery", daemon=True).start()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        log: Path,
        *,
        bridge: bool = False,
    ) -> Child:
        """Start `quick_component.py`.

        Args:
            arguments: Its own.
            environment: The whole of it.
            directory: It works there.
            log: What it prints is appended here.
            bridge: Start the command `ml-inference-bridge` instead.
        """
        request = {
            "arguments": arguments,
            "environment": dict(environment),
            "directory": str(directory),
            "log": str(log),
            "bridge": bridge,
        }
        self._socket.send(json.dumps(request).encode())
        with self._changed:
            assert self._changed.wait_for(lambda: self._started, SECONDS), "the nursery does not answer"
            return Child(self, self._started.pop())

    def code(self, pid: int, timeout: float) -> int | None:
        """The exit code of a process, as `subprocess` tells it; None if it still runs after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._codes, timeout)
            return self._codes.get(pid)

    def _listen(self) -> None:
        while message := self._socket.recv(LARGEST_REQUEST):
            told: dict[str, Any] = json.loads(message)
            with self._changed:
                if "code" in told:
                    self._codes[told["pid"]] = told["code"]
                else:
                    self._started.append(told["pid"])
                self._changed.notify_all()


def serve(connection: socket.socket) -> None:
    """Fork for each request until nobody is there to ask; then nothing stays behind."""
    from ml_inference.lean import keep_xgboost_lean  # noqa: PLC0415 - only in the process that forks
    from support import quick_component  # noqa: F401, PLC0415

    keep_xgboost_lean()
    import ml_inference.serving.component  # noqa: F401, PLC0415

    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a process with threads cannot be forked safely"
    gc.freeze()
    children: dict[int, int] = {}
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is connection:
                message = connection.recv(LARGEST_REQUEST)
                if not message:
                    for pid in children.values():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    return
                request = json.loads(message)
                if request["bridge"]:  # imported before the fork, once
                    import inference_bridge.application  # noqa: PLC0415
                    import inference_bridge.command  # noqa: PLC0415
                    import inference_bridge.sources.mqtt  # noqa: F401, PLC0415
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    connection.close()
                    become(request)
                children[descriptor := os.pidfd_open(pid)] = pid
                selector.register(descriptor, selectors.EVENT_READ)
                connection.send(json.dumps({"pid": pid}).encode())
            else:
                descriptor = key.fd
                selector.unregister(descriptor)
                os.close(descriptor)
                pid = children.pop(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                connection.send(json.dumps({"pid": pid, "code": code}).encode())


def become(request: Mapping[str, Any]) -> None:
    """Turn this fork into the process that was asked for."""
    from support import quick_component  # noqa: PLC0415

    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(log, descriptor)
        os.close(log)
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [quick_component.__file__, *request["arguments"]]
        if request["bridge"]:
            from inference_bridge import command  # noqa: PLC0415

            code = command.main()
        else:
            code = quick_component.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing of the nursery may run on in its child
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    serve(socket.socket(fileno=int(sys.argv[1])))
