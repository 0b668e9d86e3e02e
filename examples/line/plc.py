"""A PLC to try things with: an OPC UA server with six nodes a machine, whose values the sensor simulator makes.

`python examples/line/plc.py --machines 4` serves on opc.tcp://127.0.0.1:4840 without security, `ns=2;s=cylinder-1.rVibration_Temp` and so
on; `--certificate` and `--key` make it Basic256Sha256. Each machine has two nodes that may be written, `alarm` and `score`. It ends with
Ctrl-C, and says then how many values it had. Needs `pip install '.[bridge]'`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import SimpleRoleRuleset

from sensor_simulator.fleet import SENSORS, Fleet

URI = "urn:example:plc"
NAMESPACE = "urn:example:line"
STORY_DAYS = 30.0
"""An accelerated story begins so long ago and ends in the present, so that no time lies in the future."""


async def serve(arguments: argparse.Namespace) -> int:
    """Serve until asked to end, and say how many values there were."""
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    server = Server()
    gc.disable()  # some hundred thousand objects that stay: half of the time would go into looking for others among them
    await server.init()
    gc.freeze()
    gc.enable()
    server.set_endpoint(f"opc.tcp://{arguments.host}:{arguments.port}")
    await server.set_application_uri(URI)
    if arguments.certificate:
        await server.load_certificate(str(arguments.certificate))
        await server.load_private_key(str(arguments.key), format="pem")
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt], SimpleRoleRuleset())
    else:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace(NAMESPACE)
    fleet = Fleet(machines=arguments.machines, seed=202, fault_rate=1.6, accelerate=arguments.accelerate)
    now = datetime.now(timezone.utc)
    at = now - timedelta(days=STORY_DAYS) if arguments.accelerate > 1 else now
    nodes = [await _nodes(server, index, f"cylinder-{number + 1}", at) for number in range(arguments.machines)]
    changed = 0
    async with server:
        print(f"serving opc.tcp://{arguments.host}:{arguments.port}", flush=True)
        if arguments.wait:
            await asyncio.to_thread(sys.stdin.readline)
        while not done.is_set():
            now = datetime.now(timezone.utc)
            speed = arguments.accelerate if at < now - timedelta(seconds=60) else 1.0
            at = at + timedelta(seconds=speed) if speed > 1 else now
            for machine, sensors in zip(fleet.machines, nodes, strict=True):
                row = machine.read(step=1.0, at=at, accelerate=speed)
                for sensor, node in sensors.items():
                    # A server tells of a value only when it differs from the one before.
                    changed += (await node.read_value()) != row[sensor]
                    await server.write_attribute_value(node.nodeid, _value(float(row[sensor]), at))
            try:
                await asyncio.wait_for(done.wait(), 1.0)
            except asyncio.TimeoutError:
                continue
        # What was written last is on its way.
        await asyncio.sleep(1.0)
        if arguments.wait:
            print(json.dumps({"changed": changed}), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
    print(f"{changed} values", flush=True)
    return 0


async def _nodes(server: Server, index: int, machine: str, at: datetime) -> dict[str, Any]:
    folder = await server.nodes.objects.add_folder(ua.NodeId(machine, index), machine)
    for name, value in (("alarm", False), ("score", 0.0)):
        node = await folder.add_variable(ua.NodeId(f"{machine}.{name}", index), name, value)
        await node.set_writable()
    nodes = {}
    for sensor in SENSORS:
        nodes[sensor] = await folder.add_variable(ua.NodeId(f"{machine}.{sensor}", index), sensor, 0.0)
        await server.write_attribute_value(nodes[sensor].nodeid, _value(0.0, at))
    return nodes


def _value(number: float, at: datetime) -> ua.DataValue:
    return ua.DataValue(ua.Variant(number, ua.VariantType.Double), SourceTimestamp=at.replace(tzinfo=None))


def main() -> int:
    """Run the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4840)
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--accelerate", type=float, default=1800.0, help="seconds of the machines' lives a second")
    parser.add_argument("--certificate", type=Path, help="PEM file: serve with Basic256Sha256, SignAndEncrypt")
    parser.add_argument("--key", type=Path, help="PEM file")
    parser.add_argument("--wait", action="store_true", help="begin, and end, when a line comes on standard input")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    return asyncio.run(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
