"""`make bridge-faults`: a bridge under load on a real broker, OPC UA server and Modbus server, which restart, as the nucleus does.

BRIDGE_FAULTS is how many faults each source goes through (9), FAULTS_SEED decides their order; every value is accounted for, or it ends
with 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from greengrass_sandbox import BackgroundNucleus
from support import restarts
from support.bridge import Authority, Broker, free_port, tls_of
from support.plc import TAGS, URI, Plc


def mqtt(folder: Path, nucleus: BackgroundNucleus, faults: list[str]) -> restarts.Run:
    """1,500 values a second with QoS 1, over TLS."""
    authority = Authority(folder / "authority")
    broker = Broker(folder / "broker", authority)
    broker.start()
    try:
        source = {"port": broker.tls_port, "tls": tls_of(authority)}
        return restarts.mqtt(nucleus, folder / "bridge", broker, faults, source, machines=50, rate=1500, pause=2.0)
    finally:
        broker.stop()


def opcua(folder: Path, nucleus: BackgroundNucleus, faults: list[str]) -> restarts.Run:
    """600 values a second with Basic256Sha256."""
    authority = Authority(folder / "authority")
    certificate, key = authority.sign("plc", URI)
    mine, my_key = authority.sign("client", "urn:inference-bridge")
    machines = [f"m{number}" for number in range(40)]
    with Plc("opcua", port=free_port(), machines=machines, certificate=str(certificate), key=str(key)) as plc:
        source = {
            "type": "opcua", "name": "plc", "endpoint": f"opc.tcp://127.0.0.1:{plc.options['port']}", "security_policy": "Basic256Sha256",
            "certificate": str(mine), "key": str(my_key), "server_certificate": str(certificate), "machines": machines,
            "nodes": {tag: f"ns=2;s={{machine}}.{tag}" for tag in TAGS}, "publishing_milliseconds": 50, "sampling_milliseconds": 50,
        }  # fmt: skip
        return restarts.opcua(nucleus, folder / "bridge", plc, faults, source, seconds=0.2, pause=2.0)


def modbus(folder: Path, nucleus: BackgroundNucleus, faults: list[str]) -> restarts.Run:
    """400 requests a second."""
    return restarts.modbus(nucleus, folder / "bridge", faults, units=10, pause=2.0)


def main() -> int:
    """Play the faults of each source; 0 if the accounts held."""
    number, seed = int(os.environ.get("BRIDGE_FAULTS", "9")), int(os.environ.get("FAULTS_SEED", "1"))
    failed = 0
    plays: list[Callable[[Path, BackgroundNucleus, list[str]], restarts.Run]] = [mqtt, opcua, modbus]
    for play in plays:
        faults, began = restarts.some_faults(seed, number), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bridge-") as folder, BackgroundNucleus(Path(folder) / "n") as nucleus:
            try:
                run = play(Path(folder), nucleus, faults)
            except AssertionError:
                traceback.print_exc()
                failed += 1
                continue
        counts = {name: count for name, count in sorted(run.accounts.items()) if count}
        print(  # noqa: T201 - a command
            f"{play.__name__}: {', '.join(faults)}: {time.monotonic() - began:.0f} s: {counts}", flush=True
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
