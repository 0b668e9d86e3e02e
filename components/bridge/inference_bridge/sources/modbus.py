"""A Modbus TCP server as a source, by polling: pymodbus. It reads registers and has no code that writes one."""

from __future__ import annotations

import logging
import struct
import time
from dataclasses import dataclass
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException, ModbusIOException
from pymodbus.pdu import ExceptionResponse

from inference_bridge.mapping import Modbus, Register
from inference_bridge.sources.base import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Events,
    Source,
    SourceError,
)
from ml_inference.backoff import Backoff

MAX_REGISTERS = 125
"""Of one request (Modbus application protocol 1.1b3, 6.3)."""
MAX_GAP = 16
"""Unused registers that are read along rather than asked around."""

_ILLEGAL_ADDRESS = 2
_NOBODY = (10, 11)
"""Exceptions of a gateway that does not reach a device."""
_EXCEPTIONS = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure", 5: "acknowledge", 6: "device busy",
    8: "memory parity error", 10: "gateway path unavailable", 11: "gateway target does not answer",
}  # fmt: skip
logger = logging.getLogger(__name__)

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


class _RefusedError(Exception):
    """The machine answers with an exception.

    Attributes:
        address: Whether it has none of these registers, or not all of them.
    """

    def __init__(self, text: str, *, address: bool) -> None:
        super().__init__(text)
        self.address = address


class _AbsentError(Exception):
    """The machine does not answer."""


def alone(register: Register, feature: str) -> Block:
    """A block of one feature."""
    return Block(register.kind, register.address, register.words, {feature: register})


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
            made.append(alone(register, feature))
    return made


def number(register: Register, words: list[int]) -> float:
    """The number in some registers, each of 16 bits."""
    ordered = words if register.word_order == "big" else words[::-1]
    value: float = struct.unpack(_FORMS[register.type], struct.pack(f">{len(ordered)}H", *ordered))[0]
    return value


class ModbusPoller(Source):
    """Polls one server: a device, or a gateway with devices behind it.

    A device that does not answer costs the others one time-out, then it is asked after growing pauses. What an answer has too much or
    too late must not be taken for the next one's, so a time-out costs the connection as well.
    """

    def __init__(self, configuration: Modbus, events: Events) -> None:
        super().__init__(configuration.name, events)
        self._configuration = configuration
        self._client: ModbusTcpClient | None = None
        self._blocks = dict.fromkeys(configuration.machines, tuple(blocks(configuration.registers)))
        self._absent: dict[str, Backoff] = {}

    def wake(self) -> None:
        """Let go of an answer that is waited for."""
        client = self._client
        if client is not None:
            client.close()

    def work(self) -> None:
        """Connect, and poll until the connection ends."""
        self._connect()
        self._absent.clear()
        try:
            due = time.monotonic()
            while not self.stopping.is_set():
                self._poll()
                if self.state != "connected":
                    self.is_connected()
                due = max(due + self._configuration.every_seconds, time.monotonic())
                self.stopping.wait(due - time.monotonic())
        finally:
            self._close()

    def _connect(self) -> None:
        configuration = self._configuration
        self._client = ModbusTcpClient(
            configuration.host, port=configuration.port, timeout=configuration.timeout_seconds, retries=0
        )
        if not self._client.connect():
            raise SourceError(f"nobody answers at {configuration.host}:{configuration.port}")

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _poll(self) -> None:
        asked = answered = 0
        for name in self._configuration.machines:
            absent = self._absent.get(name)
            if self.stopping.is_set() or (absent is not None and time.monotonic() < absent.at):
                continue
            asked += 1
            try:
                self._poll_machine(name)
            except _AbsentError as error:
                self._absent.setdefault(
                    name, Backoff(time.monotonic, first=FIRST_PAUSE_SECONDS, longest=LONGEST_PAUSE_SECONDS)
                ).failed()
                problem = str(error)
                if self.problem != problem:
                    logger.warning("%s: %s", self.name, problem)
                self.problem = problem
            else:
                answered += 1
                if self._absent.pop(name, None) is not None and not self._absent:
                    self.problem = None
        if asked and not answered and len(self._absent) == len(self._configuration.machines):
            raise SourceError(self.problem or "nobody answers")

    def _poll_machine(self, name: str) -> None:
        """Read a machine's registers; what was read counts, whatever happens to the next request.

        Raises:
            SourceError: The connection is lost.
            _AbsentError: The machine does not answer.
        """
        waiting = list(self._blocks[name])
        while waiting:
            block = waiting.pop(0)
            words, problem = [], ""
            try:
                words = self._read(name, block)
            except _RefusedError as error:
                if error.address and len(block.registers) > 1:
                    # Some devices have registers but not those between them.
                    single = [alone(register, feature) for feature, register in block.registers.items()]
                    self._blocks[name] = tuple(
                        each for old in self._blocks[name] for each in (single if old is block else [old])
                    )
                    waiting = single + waiting
                    continue
                problem = str(error)
            except _AbsentError as error:
                for each in (block, *waiting):
                    self._hand_on(name, each, [], str(error))
                raise
            self._hand_on(name, block, words, problem)

    def _read(self, name: str, block: Block) -> list[int]:
        client, machine = self._client, self._configuration.machines[name]
        if client is None:
            raise SourceError("the connection is lost")
        read: Any = client.read_holding_registers if block.kind == "holding" else client.read_input_registers
        try:
            answer = read(machine.base + block.first, count=block.count, device_id=machine.unit)
        except ModbusIOException:
            self._close()
            if not self.stopping.is_set():
                self._connect()
            seconds = self._configuration.timeout_seconds
            raise _AbsentError(f"{name}: no answer within {seconds:g} s") from None
        except (ModbusException, OSError, ValueError, AttributeError) as error:  # the last two: it was closed meanwhile
            raise SourceError(f"the connection is lost: {error}") from None
        if isinstance(answer, ExceptionResponse):
            code = answer.exception_code
            text = f"the server answers with {_EXCEPTIONS.get(code, 'an error')} (exception {code})"
            if code in _NOBODY:
                raise _AbsentError(f"{name}: {text}")
            raise _RefusedError(text, address=code == _ILLEGAL_ADDRESS)
        if len(answer.registers) != block.count:
            raise _RefusedError(f"the server answers {len(answer.registers)} registers of {block.count}", address=False)
        return list(answer.registers)

    def _hand_on(self, name: str, block: Block, words: list[int], problem: str) -> None:
        moment = time.time()
        samples = []
        for feature, register in block.registers.items():
            start = register.address - block.first
            value = None if problem else number(register, words[start : start + register.words])
            samples.append(self.events.sample(name, self.events.feature(feature), value, moment, problem))
        self.events.samples(self.name, samples)
