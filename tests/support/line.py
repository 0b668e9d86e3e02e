"""A running component: its own process, the real SDK, a nucleus stand-in on a real socket."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greengrass_sandbox.background import BackgroundNucleus, BackgroundTap
from greengrass_sandbox.topics import Message

ROOT = Path(__file__).parents[2]
NAME = "com.example.MLInference"
REQUEST = "ml/inference/request"
SECONDS = 20.0
"""Far more than anything here takes; only a failure waits that long."""


def own_recipe(directory: Path) -> Path:
    """The recipe at the repository's root, with GDK's placeholders filled in."""
    text = (ROOT / "recipe.yaml").read_text()
    for key, value in {"{COMPONENT_NAME}": NAME, "{COMPONENT_VERSION}": "1.0.0", "{COMPONENT_AUTHOR}": "test"}.items():
        text = text.replace(key, value)
    path = directory / "recipe.yaml"
    path.write_text(text)
    return path


class Watch:
    """Messages of some topics as JSON, in the order of the nucleus."""

    def __init__(self, tap: BackgroundTap[Message]) -> None:
        self._tap = tap

    def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._tap.get(SECONDS).payload)
        return message

    def take(self, count: int) -> list[dict[str, Any]]:
        return [self.next() for _ in range(count)]

    def until(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The next message that is as wanted; those before it are passed over."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            message = self.next()
            if wanted(message):
                return message
        raise AssertionError("no such message came")

    def raw(self) -> Message:
        return self._tap.get(SECONDS)


@dataclass
class Line:
    """A nucleus and the component on it."""

    nucleus: BackgroundNucleus
    model: Path
    work: Path
    environment: dict[str, str]
    process: subprocess.Popen[str] | None = None
    log: Path = field(default=Path())

    def __post_init__(self) -> None:
        self.log = self.work / "component.log"
        self.results = self.watch("ml/inference/result/#")
        self.errors = self.watch("ml/inference/error")
        self.health = self.watch("ml/inference/health")
        self.cloud = Watch(self.nucleus.iot_core.watch("greengrass/ml/inference/#"))

    def watch(self, topic: str) -> Watch:
        return Watch(self.nucleus.watch(topic))

    def start(self, **settings: Any) -> None:
        """Start `ml-inference run` and wait until it listens."""
        settings = {"ModelDirectory": str(self.model), **settings}
        command = [sys.executable, "-m", "ml_inference", "run"]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self.work, stdout=log, stderr=subprocess.STDOUT, text=True
            )
        self.health.until(lambda health: health["state"] == "running")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the component to its end."""
        command = [sys.executable, "-m", "ml_inference", "run", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.work, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def send(self, message: Any) -> None:
        """Publish to the input topic: bytes as a binary message, anything else as a JSON message."""
        self.nucleus.publish(REQUEST, message)

    def send_json(self, document: Any) -> None:
        self.send(json.dumps(document, separators=(",", ":")).encode())

    def configure(self, **settings: Any) -> None:
        self.nucleus.update_configuration(NAME, settings)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def accounted(health: Mapping[str, Any]) -> bool:
    """Whether the accounting of a health message holds."""
    counts, cloud = health["counters"], health["cloud"]
    return bool(
        counts["received"] == counts["scored"] + counts["rejected"] + counts["dropped"] + counts["queued"]
        and counts["scored"] + cloud["carried_over"]
        == cloud["delivered"] + cloud["waiting"] + cloud["expired"] + cloud["unwanted"]
    )
