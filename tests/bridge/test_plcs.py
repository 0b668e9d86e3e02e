"""The bridge on real servers of OPC UA, with a security policy, and of Modbus TCP."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus
from support import restarts
from support.bridge import Authority, Bridge, free_port
from support.clocks import SECONDS, until
from support.plc import TAGS, URI, Plc

Start = Callable[..., Bridge]


def of_opcua(authority: Authority, plc: Plc, **more: Any) -> dict[str, Any]:
    certificate, key = authority.sign("opcua-client", "urn:inference-bridge")
    source = {
        "type": "opcua", "name": "plc", "endpoint": f"opc.tcp://127.0.0.1:{plc.options['port']}", "security_policy": "Basic256Sha256",
        "certificate": str(certificate), "key": str(key), "server_certificate": plc.options["certificate"], "machines": ["m1", "m2"],
        "nodes": {tag: f"ns=2;s={{machine}}.{tag}" for tag in TAGS}, "publishing_milliseconds": 50, "sampling_milliseconds": 50,
    }  # fmt: skip
    assemble = {"every_seconds": 0.2, "max_age_seconds": 1}
    return {
        "features": {tag: {} for tag in TAGS},
        "assemble": assemble,
        "sources": [source | more.pop("source", {})],
        **more,
    }


def until_read(bridge: Bridge, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The next reading that is as wanted."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for reading in bridge.readings(1):
            if wanted(reading):
                return reading
    raise AssertionError("no such reading came")


@pytest.fixture(scope="module")
def plc(authority: Authority) -> Iterator[Plc]:
    """An OPC UA server; building one takes some seconds."""
    certificate, key = authority.sign("plc", URI)
    with Plc("opcua", port=free_port(), machines=["m1", "m2"], certificate=str(certificate), key=str(key)) as plc:
        yield plc


def test_an_opcua_server_is_heard_by_subscription_and_again_after_it_was_killed_and_takes_alarms(
    start: Start, authority: Authority, nucleus: BackgroundNucleus, plc: Plc
) -> None:
    nodes = {"m1": {"alarm": "ns=2;s=m1.alarm", "score": "ns=2;s=m1.score"}}
    bridge = start(of_opcua(authority, plc, outputs=[{"type": "opcua", "source": "plc", "nodes": nodes}]))
    plc.tell(write={"m1.a": 1.5, "m1.b": 2.5, "m1.c": 3.5})
    until_read(bridge, lambda reading: reading["equipment_id"] == "m1" and reading.get("c") == 3.5)
    # What does not change is not sent, and holds; what turns bad is missing.
    plc.tell(write={"m1.a": 1.6, "m1.b": None})
    reading = until_read(bridge, lambda reading: reading.get("a") == 1.6 and "b" not in reading)
    assert reading["c"] == 3.5
    assert "c" in reading["held"]
    # The way back: nodes of the allow-list, and no others.
    until(lambda: {"ml/inference/result", "ml/inference/alarm"} <= {each.resource for each in nucleus.subscriptions})
    for machine in ("m1", "m2", "m1.score; evil"):
        alarm = {"id": "a-1", "event": "opened", "kind": "equipment", "equipment_id": machine}
        nucleus.publish("ml/inference/alarm", json.dumps(alarm).encode())
        result = {"equipment_id": machine, "score": 0.75, "state": "normal"}
        nucleus.publish("ml/inference/result", json.dumps(result).encode())
    nucleus.publish("ml/inference/result", b"[]")
    outputs = bridge.until(lambda health: health["outputs"]["received"] == 7 and health["outputs"]["sent"] == 2)[
        "outputs"
    ]
    assert (outputs["handed_on"], outputs["not_listed"], outputs["unreadable"]) == (2, 4, 1)
    assert [plc.tell(read=name) for name in ("m1.alarm", "m1.score", "m2.alarm")] == [True, 0.75, False]
    plc.kill()
    bridge.until(lambda health: health["sources"]["plc"]["state"] == "connecting" and health["machines"]["silent"] == 2)
    plc.again()
    bridge.until(lambda health: health["sources"]["plc"]["connections"] == 2)
    plc.tell(write={"m2.a": 9.5})
    until_read(bridge, lambda reading: reading["equipment_id"] == "m2" and reading["a"] == 9.5)
    assert bridge.stop()["values"]["missing"] == 1


def test_an_opcua_server_with_another_certificate_is_refused(start: Start, authority: Authority, plc: Plc) -> None:
    other, _ = authority.sign("other", URI)
    bridge = start(of_opcua(authority, plc, source={"server_certificate": str(other)}), wait=False)
    source = bridge.until(lambda health: health["sources"]["plc"].get("problem"))["sources"]["plc"]
    assert "certificate" in source["problem"]
    assert source["connections"] == 0
    bridge.stop()


def test_an_opcua_server_that_is_killed_costs_only_what_it_had_not_sent(
    authority: Authority, nucleus: BackgroundNucleus, plc: Plc, tmp_path: Path
) -> None:
    (source,) = of_opcua(authority, plc)["sources"]
    run = restarts.opcua(nucleus, tmp_path / "bridge", plc, ["source", "connection"], source, seconds=0.1, pause=0.3)
    assert run.accounts["messages.missed"] == 0


def of_modbus(port: int, machines: dict[str, Any], registers: dict[str, Any], **more: Any) -> dict[str, Any]:
    source = {"type": "modbus", "name": "plc", "host": "127.0.0.1", "port": port, "every_seconds": 0.1}
    return {
        "features": {feature: {} for feature in registers},
        "assemble": {"every_seconds": 0.2, "max_age_seconds": 1},
        "sources": [source | {"registers": registers, "machines": machines} | more],
    }


def test_registers_of_a_modbus_server_are_numbers_of_their_type_scaled(start: Start) -> None:
    port = free_port()
    registers = {
        "a": {"address": 10, "type": "float32", "word_order": "little"},
        "b": {"address": 12, "type": "int16"},
        "c": {"address": 90, "kind": "input", "type": "uint32"},
    }
    document = of_modbus(port, {"m1": {}, "m2": {"base": 50}}, registers)
    document["features"]["b"] = {"scale": 0.1, "offset": -40}
    high, low = struct.unpack(">HH", struct.pack(">f", 71.25))
    words = {10: low, 11: high, 12: 0x10000 - 7, 90: 1, 91: 2}
    with Plc("modbus", port=port) as plc:
        plc.tell(write=words)
        bridge = start(document)
        reading = until_read(bridge, lambda reading: reading["equipment_id"] == "m1" and reading["a"] == 71.25)
        assert (reading["b"], reading["c"]) == (pytest.approx(-40.7), 0x10002)
        until_read(bridge, lambda reading: reading["equipment_id"] == "m2" and reading["a"] == 0.0)
        bridge.stop()


def test_a_modbus_device_that_is_slow_absent_or_lacks_registers_is_missing_and_holds_up_no_other(start: Start) -> None:
    """One server: a gateway, with devices behind it."""
    port = free_port()
    registers = {"a": {"address": 0}, "b": {"address": 5}}
    machines = {name: {"unit": unit} for unit, name in enumerate(("slow", "absent", "gaps", "beyond", "good"), 1)}
    machines["beyond"]["base"] = 195
    document = of_modbus(port, machines, registers, timeout_seconds=0.3)
    with Plc("modbus", port=port, units=[1, 2, 3, 4, 5]) as plc:
        # Between their two registers no device has any.
        plc.tell(write={0: 7, 5: 9, 195: 5}, mood={"slow": {1: 1.0}, "refuse": {2: 11}, "holes": [2, 200]})
        bridge = start(document)
        read: dict[str, dict[str, Any]] = {}
        until_read(bridge, lambda reading: bool(read.update({reading["equipment_id"]: reading}) or len(read) == 3))
        assert {name: (reading.get("a"), reading.get("b")) for name, reading in read.items()} == {
            "gaps": (7.0, 9.0),
            "beyond": (5.0, None),
            "good": (7.0, 9.0),
        }
        health = bridge.until(lambda health: len(health["examples"].get("missing", ())) == 5)
        assert health["sources"]["plc"]["connections"] == 1
        assert "no answer within 0.3 s" in health["examples"]["missing"]["slow/a"]
        assert "gateway target does not answer" in health["examples"]["missing"]["absent/b"]
        assert "illegal data address" in health["examples"]["missing"]["beyond/b"]
        plc.tell(mood={"slow": {}, "refuse": {}})
        until_read(bridge, lambda reading: read.update({reading["equipment_id"]: reading}) or len(read) == 5)
        bridge.until(lambda health: "problem" not in health["sources"]["plc"])
        bridge.stop()
