"""A Modbus TCP server as a source, by polling: pymodbus. It reads registers and has no code that writes one."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

from inference_bridge.extract import Sample
from inference_bridge.mapping import Modbus, Register
from inference_bridge.sources.base import Events, Source, SourceError

MAX_REGISTERS = 125
"""Of one request (Modbus application protocol 1.1b3, 6.3)."""
MAX_GAP = 16
"""Unused registers that are read along rather than asked around."""

_FORMS = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q", "float32": ">f", "float64": ">d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """Registers that one request reads.

    Attributes:
        kind: `holding` or `input`.
        first: Address of the first.
        count: How many.
        registers: What is in them, by feature.
    """

    kind: str
    first: int
    count: int
    registers: dict[str, Register]


def blocks(registers: dict[str, Register]) -> list[Block]:
    """As few requests as read all registers."""
    made: list[Block] = []
    for feature, register in sorted(registers.items(), key=lambda item: (item[1].kind, item[1].address)):
        end = register.address + register.words
        last = made[-1] if made else None
        if (
            last is not None
            and last.kind == register.kind
            and register.address - (last.first + last.count) <= MAX_GAP
            and end - last.first <= MAX_REGISTERS
        ):
            count = max(last.count, end - last.first)
            made[-1] = Block(last.kind, last.first, count, {**last.registers, feature: register})
        else:
            made.append(Block(register.kind, register.address, register.words, {feature: register}))
    return made


def number(register: Register, words: list[int]) -> float:
    """The number in some registers, each of 16 bits."""
    ordered = words if register.word_order == "big" else words[::-1]
    value: float = struct.unpack(_FORMS[register.type], struct.pack(f">{len(ordered)}H", *ordered))[0]
    return value


class ModbusPoller(Source):
    """Polls one server."""

    def __init__(self, configuration: Modbus, events: Events) -> None:
        super().__init__(configuration.name, events)
        self._configuration = configuration
        self._blocks = blocks(configuration.registers)

    def work(self) -> None:
        """Connect, and poll until the connection ends."""
        configuration = self._configuration
        client = ModbusTcpClient(
            configuration.host, port=configuration.port, timeout=configuration.timeout_seconds, retries=0
        )
        if not client.connect():
            raise SourceError(f"nobody answers at {configuration.host}:{configuration.port}")
        try:
            due = time.monotonic()
            while not self.stopping.is_set():
                self._poll(client)
                if self.state != "connected":
                    self.is_connected()
                due = max(due + configuration.every_seconds, time.monotonic())
                self.stopping.wait(due - time.monotonic())
        finally:
            client.close()

    def _poll(self, client: Any) -> None:
        for name, machine in self._configuration.machines.items():
            samples: list[Sample | None] = []
            for block in self._blocks:
                read = client.read_holding_registers if block.kind == "holding" else client.read_input_registers
                try:
                    answer = read(machine.base + block.first, count=block.count, device_id=machine.unit)
                except ModbusException as error:
                    raise SourceError(f"{name}: {error}") from None
                problem = ""
                if answer.isError() or len(answer.registers) != block.count:
                    problem = f"the server answers with an error: {answer}"[:100]
                moment = time.time()
                for feature, register in block.registers.items():
                    start = register.address - block.first
                    value = None if problem else number(register, answer.registers[start : start + register.words])
                    samples.append(self.events.sample(name, self.events.feature(feature), value, moment, problem))
            self.events.samples(self.name, [sample for sample in samples if sample is not None])
