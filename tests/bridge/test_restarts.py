"""Broker, servers and nucleus are restarted under load: what is missing is what the counters say."""

from __future__ import annotations

from pathlib import Path

from greengrass_sandbox import BackgroundNucleus
from support import restarts
from support.bridge import Authority, Broker, tls_of


def test_a_broker_and_a_nucleus_that_restart_cost_no_value(
    broker: Broker, authority: Authority, nucleus: BackgroundNucleus, tmp_path: Path
) -> None:
    source = {"port": broker.tls_port, "tls": tls_of(authority)}
    faults = ["source", "connection", "nucleus"]
    run = restarts.mqtt(nucleus, tmp_path / "bridge", broker, faults, source, machines=10, rate=600, pause=0.2)
    assert run.accounts["values.assembled"] > 300


def test_a_modbus_server_and_a_nucleus_that_restart_cost_no_answer_that_came(
    nucleus: BackgroundNucleus, tmp_path: Path
) -> None:
    run = restarts.modbus(nucleus, tmp_path / "bridge", ["source", "connection", "nucleus"], units=3, pause=0.2)
    assert run.accounts["values.assembled"] > 50
