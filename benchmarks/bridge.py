"""What the bridge takes: `python benchmarks/bridge.py [--machines 2000] [--seconds 5]`.

Each machine sends six values a second, each value a message of its own on a real mosquitto, and the bridge assembles them and
publishes to a nucleus stand-in. It measures what the bridge costs (processor, memory), how long a reading takes from the last of its six
values to the nucleus, and whether all that was sent is in a reading. The bridge is kept on one core where there are two.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from greengrass_sandbox import BackgroundNucleus
from support.bridge import Bridge, Broker

TAGS = 6
SLICES = 20
"""Of each second."""
QUICK_MACHINES = 200


def publish(port: int, machines: int, seconds: int, qos: int) -> None:
    """Send the values of all machines, spread over each second: packets made by hand, since a client library would be too slow."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"\x10" + _sized(b"\x00\x04MQTT\x04\x02\x00\x00" + _text("sender")))
        sock.recv(4)
        Thread(target=_discard, args=(sock,), daemon=True).start()
        began = time.time()
        for turn in range(seconds * SLICES):
            moment = int(time.time() * 1000)
            packets = bytearray()
            for machine in range(turn % SLICES, machines, SLICES):
                for tag in range(TAGS):
                    identifier = b"" if not qos else b"%c%c" % (1 + tag, 1 + machine % 255)
                    payload = b'{"v":%d.5,"t":%d}' % (turn // SLICES, moment)
                    packets += bytes([0x30 | qos << 1]) + _sized(
                        _text(f"line/cylinder-{machine}/t{tag}") + identifier + payload
                    )
            sock.sendall(packets)
            time.sleep(max(0.0, began + (turn + 1) / SLICES - time.time()))
        time.sleep(1.0)
        sock.sendall(b"\xe0\x00")


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _sized(packet: bytes) -> bytes:
    assert len(packet) < 128
    return bytes([len(packet)]) + packet


def _discard(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


def measure(folder: Path, machines: int, seconds: int, qos: int) -> bool:
    """Run it once; whether nothing was lost."""
    broker = Broker(folder / "broker")
    broker.start()
    source = {
        "type": "mqtt",
        "name": "broker",
        "host": "127.0.0.1",
        "port": broker.port,
        "qos": qos,
        "read": [{"topic": "line/{machine}/{tag}", "value": "v", "time": "t"}],
    }
    mapping = {
        "features": {f"t{tag}": {} for tag in range(TAGS)},
        "assemble": {"when": "all_new", "patience_seconds": 10},
        "sources": [source],
    }
    with BackgroundNucleus(folder / "nucleus") as nucleus:
        tap = nucleus.watch("ml/inference/request")
        bridge = Bridge(nucleus, folder / "bridge", mapping)
        bridge.start()
        assert bridge.process is not None
        process = psutil.Process(bridge.process.pid)
        cores = sorted(os.sched_getaffinity(0))
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {cores[-1]})
        rest = set(cores[:-1]) or set(cores)
        context = multiprocessing.get_context("spawn")
        sender = context.Process(target=publish, args=(broker.port, machines, seconds, qos))
        os.sched_setaffinity(0, rest)
        before = sum(process.cpu_times()[:2])
        began = time.monotonic()
        sender.start()
        sent = machines * TAGS * seconds
        latencies: list[float] = []
        number = 0
        memory = 0.0
        while number < machines * seconds and time.monotonic() - began < seconds * 4 + 30:
            for message in tap.drain():
                for reading in json.loads(message.payload):
                    number += 1
                    stamp = reading["timestamp"]
                    latencies.append(message.time - _seconds(stamp))
            memory = max(memory, process.memory_info().rss / 2**20)
            time.sleep(0.05)
        took = time.monotonic() - began
        cpu = sum(process.cpu_times()[:2]) - before
        sender.join()
        accounts = bridge.stop()
    broker.stop()
    values, readings = accounts["values"], accounts["readings"]
    lost = sent - values["received"] + values["received"] - values["assembled"]
    latencies.sort()
    print(
        f"{machines} machines, {sent} values in {took:.1f} s, qos {qos}: {len(latencies)} readings, {lost} values in none; "
        f"{cpu / (seconds) * 100:.0f} % of a core ({cpu / sent * 1e6:.0f} us a value), {memory:.0f} MiB; from a reading's values to the "
        f"nucleus p50 {statistics.median(latencies) * 1000:.0f} ms, p99 {latencies[int(len(latencies) * 0.99)] * 1000:.0f} ms, "
        f"max {latencies[-1] * 1000:.0f} ms"
    )
    if lost:
        print(f"  values: {values}\n  readings: {readings}")
    return bool(lost == 0)


def _seconds(stamp: str) -> float:
    from datetime import datetime  # noqa: PLC0415

    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--machines", type=int, default=QUICK_MACHINES, help="2000 is the promise (default: 200)")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--qos", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(Path(folder), arguments.machines, arguments.seconds, arguments.qos) else 1


if __name__ == "__main__":
    sys.exit(main())
