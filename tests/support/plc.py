"""A PLC for tests, as a process: `python -m support.plc opcua|modbus '{"port": ...}'`, driven by a JSON line for each command.

OPC UA: asyncua's server, with a security policy where a certificate is given. Modbus TCP: pymodbus' server. What serves is a fork of
the process: it can be killed, and the next one is there at once, without building its address space (some seconds) again.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TAGS = ("a", "b", "c")
URI = "urn:test:plc"


async def build_opcua(options: dict[str, Any]) -> Any:
    from asyncua import ua  # noqa: PLC0415 - a second
    from asyncua.crypto.permission_rules import SimpleRoleRuleset  # noqa: PLC0415 - a second
    from asyncua.server.server import Server  # noqa: PLC0415 - a second

    server = Server()
    gc.disable()  # a second of looking for garbage among what stays
    await server.init()
    gc.freeze()
    gc.enable()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{options['port']}")
    await server.set_application_uri(URI)
    if options.get("certificate"):
        await server.load_certificate(options["certificate"])
        await server.load_private_key(options["key"], format="pem")
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt], SimpleRoleRuleset())
    else:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:test:line")
    nodes = {}
    for machine in options["machines"]:
        for tag in options.get("tags", TAGS):
            name = f"{machine}.{tag}"
            nodes[name] = await server.nodes.objects.add_variable(
                ua.NodeId.from_string(f"ns={index};s={name}"), name, 0.0
            )
        for name, value in ((f"{machine}.alarm", False), (f"{machine}.score", 0.0)):
            nodes[name] = await server.nodes.objects.add_variable(
                ua.NodeId.from_string(f"ns={index};s={name}"), name, value
            )
            await nodes[name].set_writable()
    return server, nodes


async def opcua(built: Any) -> None:
    from asyncua import ua  # noqa: PLC0415 - a second
    from asyncua.ua.status_codes import StatusCodes  # noqa: PLC0415 - a second

    server, nodes = built

    async def count(seconds: float, log: str) -> None:
        """Write the number of the present period to all nodes, once in each, and note each number that all of them have."""
        names = [name for name in nodes if not name.endswith((".alarm", ".score"))]
        while True:
            tick = int(time.time() / seconds)
            for name in names:
                await nodes[name].write_value(float(tick))
            note(log, tick)
            await asyncio.sleep(max(0.0, (tick + 1) * seconds - time.time()))

    counting = None
    async with server:
        say({"pid": os.getpid()})
        async for command in commands():
            if "count" in command:
                if counting is not None:
                    counting.cancel()
                counting = asyncio.create_task(count(command["count"], command["log"])) if command["count"] else None
            for name, value in command.get("write", {}).items():
                if value is None:
                    data = ua.DataValue(ua.Variant(0.0), ua.StatusCode(ua.UInt32(StatusCodes.BadNoCommunication)))
                    await server.write_attribute_value(nodes[name].nodeid, data)
                else:
                    await nodes[name].write_value(value)
            say(await nodes[command["read"]].read_value() if "read" in command else {})


async def build_modbus(options: dict[str, Any]) -> Any:
    return options


async def modbus(options: Any) -> None:
    from pymodbus.constants import ExcCodes  # noqa: PLC0415 - a second
    from pymodbus.server import ModbusTcpServer  # noqa: PLC0415 - a second
    from pymodbus.simulator import DataType, SimData, SimDevice  # noqa: PLC0415 - a second

    words: dict[int, int] = {}
    mood: dict[str, Any] = {}

    def reader(unit: int) -> Any:
        async def read(_function: int, start: int, address: int, count: int, registers: list[int], _new: Any) -> Any:
            if seconds := mood.get("slow", {}).get(str(unit)):
                await asyncio.sleep(seconds)
            if code := mood.get("refuse", {}).get(str(unit)):
                return ExcCodes(code)
            if any(address <= hole < address + count for hole in mood.get("holes", ())):
                return ExcCodes.ILLEGAL_ADDRESS
            for place, word in words.items():
                registers[place - start] = word
            if log := mood.get("log"):
                # A number that no other answer has, in two registers.
                mood["number"] = number = (mood.get("number") or int(time.time() * 1000) % 100_000_000) + 1
                for place in range(address, address + count, 2):
                    registers[place - start : place - start + 2] = [number >> 16, number & 0xFFFF]
                note(log, number)
            return None

        return read

    devices = [
        SimDevice(unit, simdata=[SimData(0, count=200, values=0, datatype=DataType.REGISTERS)], action=reader(unit))
        for unit in options.get("units", [1])
    ]
    server = ModbusTcpServer(devices, address=("127.0.0.1", options["port"]))
    await server.serve_forever(background=True)
    say({"pid": os.getpid()})
    async for command in commands():
        words.update({int(address): word for address, word in command.get("write", {}).items()})
        mood.update(command.get("mood", {}))
        say({})


def note(log: str, number: int) -> None:
    with Path(log).open("a", encoding="ascii") as file:
        file.write(f"{number}\n")


def say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def commands() -> Any:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def serve(kind: str, options: dict[str, Any]) -> None:
    build, run = {"opcua": (build_opcua, opcua), "modbus": (build_modbus, modbus)}[kind]
    built = asyncio.run(build(options))
    unbuffered = io.FileIO(0, closefd=False)
    while True:
        child = os.fork()
        if not child:
            asyncio.run(run(built))
            os._exit(0)
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            return
        os.set_blocking(0, True)  # the child's loop changed that of the pipe that they share
        while json.loads(unbuffered.readline()) != "again":
            pass


class Plc:
    """The process. A context manager.

    Args:
        kind: `opcua` or `modbus`.
        options: What it serves.
    """

    def __init__(self, kind: str, **options: Any) -> None:
        self._kind = kind
        self.options = options

    def __enter__(self) -> Plc:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.plc", self._kind, json.dumps(self.options)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._child = self._answer()["pid"]
        return self

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the PLC ended"
        return json.loads(line)

    def _say(self, command: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def tell(self, **command: Any) -> Any:
        """Tell it something; what was read.

        Args:
            command: `write` values of nodes (None: a bad one) or words of registers; `read` a node; `count` periods of so many seconds in
                all nodes, with a `log` (0 ends it); a Modbus server's `mood`: seconds that units are `slow`, exceptions with which they
                `refuse`, addresses that are `holes`, a `log` of numbers that it sends, one an answer.
        """
        return self._say(command)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self._child, signal.SIGKILL)

    def again(self) -> None:
        """Another one in its place, as it was when it began."""
        self._child = self._say("again")["pid"]

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(30)


if __name__ == "__main__":
    logging.disable()
    serve(sys.argv[1], json.loads(sys.argv[2]))
