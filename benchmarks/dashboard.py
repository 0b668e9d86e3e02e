"""The dashboard with 2,000 machines at one reading a second: memory, processor time, and how old a browser's picture is.

The line is played by a nucleus stand-in in this process, in batches as a nucleus carries them; the dashboard is a process of its own,
with one browser's live connection. The two figures that it promises, memory and share of a core, are compared with their bounds.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import yaml

from greengrass_sandbox import BackgroundNucleus, Nucleus

MACHINES = 2_000
BATCH = 20
SECONDS = 420
"""Longer than the five minutes that memory holds of each machine."""
WARM_SECONDS = 15
MAX_MIB, MAX_CORE, MAX_AGE = 120.0, 0.34, 2.0
NAME = "com.example.MLInference.Dashboard"
SENSORS = {
    "rVibration_Temp": 69.71,
    "rVibration_Z_RMS_Velocity": 89.42,
    "rVibration_X_RMS_Velocity": 50.58,
    "wRMSCurrent": 106.94,
    "wCurrentLoad": 107.94,
    "wEncoderVelocity": 25.88,
}


class Browser(threading.Thread):
    """Reads live events, and knows how old the results in them are."""

    def __init__(self, host: str) -> None:
        super().__init__(daemon=True)
        self.host = host
        self.bytes = 0
        self.sent: dict[float, float] = {}
        self.ages: list[float] = []

    def run(self) -> None:
        """Read until the server ends it."""
        connection = http.client.HTTPConnection(self.host)
        connection.request("GET", "/api/live")
        answer = connection.getresponse()
        while line := answer.readline():
            self.bytes += len(line)
            if line.startswith(b"data: ") and b'"moved":[[' in line:
                moved = json.loads(line[6:])["moved"]
                sent = self.sent.get(moved[-1][1])
                if sent is not None:
                    self.ages.append(time.time() - sent)


def batches(second: int) -> list[tuple[str, bytes]]:
    """The messages of a second; the score tells which second it is."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    score = round(second / 10_000, 4)
    messages = []
    for first in range(0, MACHINES, BATCH):
        names = [f"cylinder-{number}" for number in range(first, first + BATCH)]
        common = {"timestamp": stamp, "correlation_id": second}
        readings = [{"equipment_id": name, **common, **SENSORS} for name in names]
        results = [
            {"equipment_id": name, **common, "score": score, "smoothed_score": score, "threshold": 0.35, "abnormal": False,
             "state": "normal", "model": {"name": "cylinder-anomaly", "version": "1.0.0"}}
            for name in names
        ]  # fmt: skip
        messages.append(("ml/inference/request", json.dumps(readings, separators=(",", ":")).encode()))
        messages.append(("ml/inference/result", json.dumps({"results": results}, separators=(",", ":")).encode()))
    return messages


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    project = Path(__file__).parents[1] / "components" / "dashboard"
    recipe = yaml.safe_load((project / "recipe.yaml").read_text()) | {
        "ComponentName": NAME,
        "ComponentVersion": "1.0.0",
    }
    with tempfile.TemporaryDirectory() as folder, BackgroundNucleus(Path(folder) / "nucleus", "classic") as nucleus:
        environment = os.environ | nucleus.credentials(NAME, recipe, configuration={"Port": 0})
        log = Path(folder) / "log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "inference_dashboard", "--work", folder]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        while not (found := re.search(r"the page is at http://(\S+)/", log.read_text())):
            time.sleep(0.1)
        browser = Browser(found[1])
        browser.start()
        watched = psutil.Process(process.pid)
        used = began = 0.0
        largest = 0

        async def play(nucleus: Nucleus, messages: list[tuple[str, bytes]]) -> None:
            for topic, payload in messages:
                await nucleus.publish(topic, payload)

        start = time.monotonic()
        for second in range(1, seconds + 1):
            messages = batches(second)
            browser.sent[round(second / 10_000, 4)] = time.time()
            nucleus.call(partial(play, messages=messages))
            largest = max(largest, watched.memory_info().rss)
            if second == WARM_SECONDS:
                used, began = sum(watched.cpu_times()[:2]), time.monotonic()
                browser.ages.clear()
            time.sleep(max(0.0, start + second - time.monotonic()))
        share = (sum(watched.cpu_times()[:2]) - used) / (time.monotonic() - began)
        process.terminate()
        process.wait(10)
        ages = sorted(browser.ages)
        history = sum(path.stat().st_size for path in Path(folder, "history").iterdir())
    age = ages[int(0.99 * len(ages))]
    mib = largest / 2**20
    print(
        f"{MACHINES} machines, {seconds} s, batches of {BATCH}: {mib:.0f} MiB at most (promised {MAX_MIB:.0f}), {share:.2f} of a core"
    )
    print(
        f"a browser's picture: {age:.2f} s old (99 of 100), {browser.bytes / seconds / 1000:.0f} kB a second; history {history / 1e6:.1f} MB"
    )
    return int(mib > MAX_MIB or share > MAX_CORE or age > MAX_AGE)


if __name__ == "__main__":
    sys.exit(main())
