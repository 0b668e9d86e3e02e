"""A bridge under load whose sources and whose nucleus are restarted, and its accounts to the last value.

Every value that a source sends is a number of its own: what is missing in the readings is known exactly, and must be what the counters
say, or what was sent while the source's connection was away, where the protocol cannot tell how much that was. Used by the tests, and at
length by `make bridge-faults`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

from greengrass_sandbox import BackgroundNucleus
from support.bridge import NAME, Bridge, Broker, free_port
from support.clocks import SECONDS, until
from support.plc import TAGS, Plc

MARGIN_SECONDS = 1.0
"""Around an outage: what a server has written and not yet sent when it is killed."""
FAULTS = ("source", "connection", "nucleus")


@dataclass
class Run:
    """A bridge on a mapping, over all its processes.

    Attributes:
        bridge: The present one.
        mapping: Of the bridge.
        accounts: Counts of all processes that ended.
        outages: From when to when the source was away, in seconds since 1970.
    """

    nucleus: BackgroundNucleus
    folder: Path
    mapping: Mapping[str, Any]
    accounts: Counter[str] = field(default_factory=Counter)
    outages: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bridge = Bridge(self.nucleus, self.folder, self.mapping)
        self.bridge.start()

    def restart_source(self, stop: Callable[[], None], start: Callable[[], None], seconds: float) -> None:
        """Restart what the values come from, and wait until the bridge has it again."""
        (name,) = (source["name"] for source in self.mapping["sources"])
        before = self.bridge.now()["sources"][name]["connections"]
        began = time.time()
        stop()
        time.sleep(seconds)
        start()
        self.bridge.until(
            lambda health: (
                health["sources"][name]["state"] == "connected" and health["sources"][name]["connections"] > before
            )
        )
        self.outages.append((began, time.time()))

    def drop_connection(self) -> None:
        """Cut the connection to the nucleus."""
        self.nucleus.faults.drop_connections(NAME)

    def restart_nucleus(self) -> None:
        """Kill the nucleus and start it; it starts the bridge again, which was lost without its token."""
        began = time.time()
        self.nucleus.kill()
        self.nucleus.start()
        assert self.bridge.process is not None
        assert self.bridge.process.wait(SECONDS) == 75, self.bridge.log
        self._enter(self.bridge.accounts())
        self.bridge.start()
        self.outages.append((began, time.time()))

    def settle(self) -> None:
        """Wait until no more values come."""
        before, received = -1, 0
        while received != before:
            before, received = received, self.bridge.now()["values"]["received"]

    def _enter(self, accounts: dict[str, Any]) -> None:
        for part in ("values", "readings"):
            self.accounts.update({f"{part}.{name}": count for name, count in accounts[part].items()})
        for messages in accounts["messages"].values():
            self.accounts.update({f"messages.{name}": count for name, count in messages.items()})

    def end(self) -> set[tuple[str, str, float]]:
        """End the bridge, and compare its readings with its accounts; machine, tag and number of each value in a reading."""
        self._enter(self.bridge.stop())
        counts = self.accounts
        # What was on its way when a connection was lost may come twice; a reading is never the same as another.
        readings = {json.dumps(reading): reading for reading in self.bridge.readings()}.values()
        values = [
            (reading["equipment_id"], tag, reading[tag])
            for reading in readings
            for tag in TAGS
            if tag in reading and tag not in reading.get("held", ())
        ]
        assert counts["readings.kept"] == counts["readings.carried_over"], counts
        made = counts["readings.assembled"] - counts["readings.dropped"] - counts["readings.refused"]
        assert len(readings) == made, (len(readings), counts)
        assert counts["readings.published"] == len(readings), counts
        assert len(values) == counts["values.assembled"], counts
        assert counts["values.received"] == len(values) + sum(
            counts[f"values.{fate}"]
            for fate in ("superseded", "late", "duplicate", "missing", "rejected", "unmapped", "dropped")
        ), counts
        return set(values)

    def away(self, moment: float) -> bool:
        """Whether the source was away then."""
        return any(began - MARGIN_SECONDS <= moment <= ended + MARGIN_SECONDS for began, ended in self.outages)


def _play(faults: list[str], run: Run, source: Callable[[], None], pause: float) -> None:
    for fault in faults:
        time.sleep(pause)
        {"source": source, "connection": run.drop_connection, "nucleus": run.restart_nucleus}[fault]()
    time.sleep(pause)


def mqtt(  # noqa: PLR0917 - the load
    nucleus: BackgroundNucleus, folder: Path, broker: Broker, faults: list[str], source: dict[str, Any], machines: int,
    rate: float, pause: float,
) -> Run:  # fmt: skip
    """A broker that keeps what is published while the bridge is away: nothing at all may be missing.

    Args:
        nucleus: Of the bridge.
        folder: Its work directory.
        broker: A real one.
        faults: What happens, in this order.
        source: How the bridge connects.
        machines: How many send.
        rate: Values a second.
        pause: Seconds around each fault.
    """
    rule = {"topic": "line/{machine}/{tag}", "value": "v", "time": "t"}
    mapping = {
        "features": {tag: {} for tag in TAGS},
        "assemble": {"when": "all_new", "patience_seconds": 30},
        "sources": [{"type": "mqtt", "name": "broker", "host": "127.0.0.1", "read": [rule], **source}],
    }
    run = Run(nucleus, folder, mapping)
    client = broker.client()
    done, sent = Event(), 0

    def publish() -> None:
        nonlocal sent
        number, due = 0, time.monotonic()
        while not done.is_set():
            number += 1
            moment = int(time.time() * 1000)
            for machine in range(machines):
                for tag in TAGS:
                    client.publish(f"line/m{machine}/{tag}", json.dumps({"v": number, "t": moment}), qos=1)
                    sent += 1
            due += machines * len(TAGS) / rate
            done.wait(max(0.001, due - time.monotonic()))
            # Else the client library would send the next ones before what it has to send again.
            until(lambda: not client._out_messages, "the broker does not take everything")

    thread = Thread(target=publish)
    thread.start()
    _play(faults, run, lambda: run.restart_source(broker.stop, broker.start, 0.2), pause)
    done.set()
    thread.join()

    def received() -> int:
        # What the broker delivered twice was known already.
        values = run.bridge.health["values"]
        mine: int = values["received"] - values["late"] - values["duplicate"]
        counts = run.accounts
        return mine + counts["values.received"] - counts["values.late"] - counts["values.duplicate"]

    run.bridge.until(lambda _: received() >= sent)
    client.disconnect()
    client.loop_stop()
    values = run.end()
    counts = run.accounts
    assert counts["values.received"] - counts["values.late"] - counts["values.duplicate"] == sent, (sent, counts)
    assert sent - len(values) == counts["values.superseded"], (sent, counts)
    return run


def opcua(  # noqa: PLR0917 - the load
    nucleus: BackgroundNucleus, folder: Path, plc: Plc, faults: list[str], source: dict[str, Any], seconds: float,
    pause: float,
) -> Run:  # fmt: skip
    """A server that is killed loses what it did not send, and says nothing of it: all that is missing is of that time.

    Args:
        nucleus: Of the bridge.
        folder: Its work directory.
        plc: The server.
        faults: What happens, in this order.
        source: How the bridge connects.
        seconds: Between two numbers in all nodes.
        pause: Seconds around each fault.
    """
    mapping = {
        "features": {tag: {} for tag in TAGS},
        "assemble": {"when": "change", "settle_seconds": 0, "heartbeat_seconds": 1000},
        "sources": [source],
    }
    run = Run(nucleus, folder, mapping)
    log = folder / "numbers"
    command = {"count": seconds, "log": str(log)}
    plc.tell(**command)

    def again() -> None:
        plc.again()
        plc.tell(**command)

    _play(faults, run, lambda: run.restart_source(plc.kill, again, 0.1), pause)
    plc.tell(count=0)
    until(log.exists)
    numbers = [int(line) for line in log.read_text().split()]
    run.settle()
    values = {value for value in run.end() if value[2] > 0}
    machines = [str(machine) for machine in plc.options["machines"]]
    sent = {(machine, tag, float(number)) for machine in machines for tag in TAGS for number in numbers}
    missing = [value for value in sent - values if not run.away(value[2] * seconds)]
    # A number may overtake another one of its node only where they came in one message.
    which = sorted({(number - numbers[0]) * seconds for _, _, number in missing})
    outages = [(began - numbers[0] * seconds, ended - numbers[0] * seconds) for began, ended in run.outages]
    assert len(missing) <= run.accounts["values.superseded"], (len(missing), which, outages, run.accounts)
    assert len(values) > len(sent) / 4
    return run


def modbus(nucleus: BackgroundNucleus, folder: Path, faults: list[str], units: int, pause: float) -> Run:
    """A server that is killed may have sent one answer that never came; every other one is in a reading.

    Args:
        nucleus: Of the bridge.
        folder: Its work directory.
        faults: What happens, in this order.
        units: How many machines are polled, twenty times a second.
        pause: Seconds around each fault.
    """
    port = free_port()
    # Two features of one request and one of another.
    registers = {
        "a": {"address": 0, "type": "uint32"},
        "b": {"address": 2, "type": "uint32"},
        "c": {"address": 0, "kind": "input", "type": "uint32"},
    }
    source = {
        "type": "modbus", "name": "plc", "host": "127.0.0.1", "port": port, "every_seconds": 0.05, "registers": registers,
        "machines": {f"m{unit}": {"unit": unit} for unit in range(1, units + 1)},
    }  # fmt: skip
    mapping = {
        "features": {tag: {} for tag in TAGS},
        "assemble": {"when": "change", "settle_seconds": 0, "heartbeat_seconds": 1000},
        "sources": [source],
    }
    log = folder.with_suffix(".numbers")
    command = {"mood": {"log": str(log)}}
    with Plc("modbus", port=port, units=list(range(1, units + 1))) as plc:
        plc.tell(**command)
        run = Run(nucleus, folder, mapping)

        def again() -> None:
            plc.again()
            plc.tell(**command)

        _play(faults, run, lambda: run.restart_source(plc.kill, again, 0.1), pause)
        values = run.end()
    answers = [int(line) for line in log.read_text().split()]
    assert len(answers) == len(set(answers))
    counts = run.accounts
    # The server's first answers, before it was told to count, hold zeros; each request that got no answer counts as missing.
    seen = Counter(int(number) for _, _, number in values if number)
    lost = [number for number in answers if number not in seen]
    allowed = counts["values.superseded"] + faults.count("source") + faults.count("nucleus") + 1
    assert len(lost) <= allowed, (lost[:10], counts)
    assert set(seen) <= set(answers)
    return run


def some_faults(seed: int, number: int) -> list[str]:
    """Faults by chance, each of them at least once."""
    chance = Random(seed)
    faults = [*FAULTS, *(chance.choice(FAULTS) for _ in range(max(0, number - len(FAULTS))))]
    chance.shuffle(faults)
    return faults
