"""The bridge on a real broker, with TLS and client certificates."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus
from support.bridge import NAME, Authority, Bridge, Broker, tls_of
from support.clocks import SECONDS, until

Start = Callable[..., Bridge]
TAGS = ("a", "b", "c")


def mapping(broker: Broker, authority: Authority, **source: Any) -> dict[str, Any]:
    read = [{"topic": "line/{machine}/{tag}", "value": "v", "time": "t"}]
    secure = {"host": "127.0.0.1", "port": broker.tls_port, "tls": tls_of(authority)}
    return {
        "features": {tag: {} for tag in TAGS},
        "assemble": {"when": "all_new", "patience_seconds": 30},
        "sources": [{"type": "mqtt", "name": "broker", "read": read, **secure, **source}],
    }


class Plc:
    """Publishes numbered values of some machines, with QoS 1."""

    def __init__(self, broker: Broker) -> None:
        self._client = broker.client()
        self._number = 0
        self.sent = 0

    def cycle(self, machines: int) -> None:
        """A new value of each tag of each machine."""
        self._number += 1
        moment = int(time.time() * 1000)
        for machine in range(machines):
            for tag in TAGS:
                text = json.dumps({"v": self._number, "t": moment})
                self._client.publish(f"line/m{machine}/{tag}", text, qos=1)
                self.sent += 1

    def settled(self) -> None:
        """Wait until the broker has everything."""
        until(lambda: not self._client._out_messages, "the broker does not take everything")

    def end(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_values_come_in_over_tls_and_leave_as_readings(
    start: Start, broker: Broker, authority: Authority, version: str
) -> None:
    bridge = start(mapping(broker, authority, version=version))
    plc = Plc(broker)
    for _ in range(3):
        plc.cycle(5)
        readings = bridge.readings(5)
        assert sorted(reading["equipment_id"] for reading in readings) == ["m0", "m1", "m2", "m3", "m4"]
        assert all(reading.keys() == {"equipment_id", "timestamp", *TAGS} for reading in readings)
    plc.end()
    accounts = bridge.stop()
    assert accounts["values"]["received"] == accounts["values"]["assembled"] == plc.sent
    assert accounts["readings"]["published"] == 15


def test_a_password_comes_from_a_file_or_the_secret_manager_and_a_wrong_one_is_told(
    start: Start, broker: Broker, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("sesame\n")
    (tmp_path / "wrong").write_text("mustard")
    plain = {"port": broker.password_port, "tls": None, "username": "bridge"}
    with BackgroundNucleus(tmp_path / "classic", "classic", secrets={"broker-password": "sesame"}) as classic:
        document = mapping(broker, authority, **plain, password_secret="broker-password")
        bridge = Bridge(classic, tmp_path / "on-classic", document)
        bridge.start()
        bridge.stop()
        assert "sesame" not in bridge.log
    start(mapping(broker, authority, **plain, password_file=str(tmp_path / "password"))).stop()
    bridge = start(mapping(broker, authority, **plain, password_file=str(tmp_path / "wrong")), wait=False)
    source = bridge.until(lambda health: health["sources"]["broker"].get("problem"))["sources"]["broker"]
    assert source["problem"].startswith("the broker refuses the connection")
    bridge.stop()


def test_what_the_broker_kept_from_before_is_left_out_and_counted(
    start: Start, broker: Broker, authority: Authority
) -> None:
    client = broker.client()
    client.publish("line/m0/a", b'{"v": 1}', qos=1, retain=True).wait_for_publish(SECONDS)
    bridge = start(mapping(broker, authority))
    health = bridge.until(lambda health: health["sources"]["broker"]["messages"]["received"] == 1)
    assert health["sources"]["broker"]["messages"]["retained"] == 1
    assert health["machines"]["known"] == 0
    client.disconnect()
    client.loop_stop()


def test_a_broker_that_the_authority_did_not_sign_and_one_that_asks_in_vain_get_no_connection(
    start: Start, broker: Broker, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    wrong = {"ca": str(stranger.certificate), **{key: value for key, value in tls_of(authority).items() if key != "ca"}}
    bridge = start(mapping(broker, authority, tls=wrong), wait=False)
    problem = bridge.until(lambda health: health["sources"]["broker"].get("problem"))["sources"]["broker"]["problem"]
    assert "CERTIFICATE_VERIFY_FAILED" in problem
    bare = start(mapping(broker, authority, tls={"ca": str(authority.certificate)}), wait=False)
    health = bare.until(lambda health: health["sources"]["broker"].get("problem"))
    assert health["state"] == "degraded"
    assert health["sources"]["broker"]["connections"] == 0


def test_a_broker_that_was_killed_has_forgotten_the_session_and_the_health_message_says_so(
    start: Start, broker: Broker, authority: Authority
) -> None:
    bridge = start(mapping(broker, authority))
    broker.kill()
    broker.start()
    health = bridge.until(lambda health: health["sources"]["broker"]["connections"] == 2)
    assert health["sources"]["broker"]["sessions_lost"] == 1
    bridge.stop()


def test_a_wrong_new_mapping_changes_nothing_and_a_good_one_takes_over_without_a_restart(
    start: Start, broker: Broker, authority: Authority, nucleus: BackgroundNucleus
) -> None:
    bridge = start(mapping(broker, authority))
    good = mapping(broker, authority) | {"machine_name": "press-{machine}"}
    nucleus.update_configuration(NAME, {"MappingFile": "", "Mapping": good | {"machine_name": "x"}})
    assert "machine_name needs" in bridge.until(lambda health: "problems" in health)["problems"]["configuration"]
    plc = Plc(broker)
    plc.cycle(1)
    assert bridge.next_reading()["equipment_id"] == "m0"
    nucleus.update_configuration(NAME, {"Mapping": good})
    bridge.until(
        lambda health: "problems" not in health and health["state"] == "running" and health["machines"]["known"] == 0
    )
    plc.cycle(1)
    assert bridge.next_reading()["equipment_id"] == "press-m0"
    bridge.stop()
    plc.end()
