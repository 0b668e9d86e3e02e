"""A running component: its own process, the real SDK, a nucleus stand-in on a real socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from greengrass_sandbox import BackgroundNucleus, BackgroundTap, Message, Nucleus
from ml_inference.delivery.local import WINDOW
from support.clocks import SECONDS, until
from support.models import NORMAL
from support.nursery import Child, Nursery

ROOT = Path(__file__).parents[2]
NAME = "com.example.MLInference"
REQUEST = "ml/inference/request"
CONTROL = "ml/inference/control"
STOP_SECONDS = 4.0
"""Promised from SIGTERM to the end; the classic nucleus kills after 5."""
QUICK = {"tick": 0.05, "first_reconnect": 0.02, "longest_reconnect": 0.2, "model_poll": 0.1}
"""Timing in tests, where a test says nothing else: what happens by itself happens soon."""


def own_recipe(directory: Path) -> Path:
    """The recipe at the repository's root, with GDK's placeholders filled in."""
    text = (ROOT / "recipe.yaml").read_text()
    for key, value in {"{COMPONENT_NAME}": NAME, "{COMPONENT_VERSION}": "1.0.0", "{COMPONENT_AUTHOR}": "test"}.items():
        text = text.replace(key, value)
    path = directory / "recipe.yaml"
    path.write_text(text)
    return path


@cache
def nursery() -> Nursery:
    """This process's; scikit-learn stays away from it, as it does from a device."""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests" / "support" / "device"), os.environ.get("PYTHONPATH")]))
    return Nursery({**os.environ, "PYTHONPATH": path})


class Watch:
    """Messages of some topics as JSON, in the order of the nucleus; without those whose topic ends in `but`."""

    def __init__(self, tap: BackgroundTap[Message], but: str = "\n") -> None:
        self._tap = tap
        self._but = but

    def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.raw().payload)
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
        while (message := self._tap.get(SECONDS)).topic.endswith(self._but):
            pass
        return message

    def here(self) -> list[dict[str, Any]]:
        """What has come and was not taken yet."""
        return [json.loads(message.payload) for message in self._tap.drain() if not message.topic.endswith(self._but)]


@dataclass
class Line:
    """A nucleus and the component on it."""

    nucleus: BackgroundNucleus
    model: Path
    work: Path
    environment: dict[str, str]
    process: subprocess.Popen[str] | Child | None = None
    log: Path = field(default=Path())

    def __post_init__(self) -> None:
        path = [str(ROOT / "tests" / "support" / "device"), self.environment.get("PYTHONPATH")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        self.log = self.work / "component.log"
        self.results = self.watch("ml/inference/result/#")
        self.errors = self.watch("ml/inference/error")
        self.health = self.watch("ml/inference/health")
        self.cloud = Watch(self.nucleus.iot_core.watch("greengrass/ml/inference/#"), but="/probe")
        self._told = self.watch("ml/inference/health")

    def watch(self, topic: str) -> Watch:
        return Watch(self.nucleus.watch(topic))

    def start(
        self,
        *,
        command: Iterable[str] | None = None,
        timing: Mapping[str, float] | None = None,
        wait: bool = True,
        choose_model: bool = True,
        child: bool = False,
        **settings: Any,
    ) -> None:
        """Start the component and wait until it listens.

        Args:
            command: What to run instead of the quick component, in a Python of its own.
            timing: Fields of the component's `Timing`, beside `QUICK`.
            wait: Whether to wait.
            child: Whether models are checked in a child process first, as they are in production.
            choose_model: Whether the line's model wins over the nucleus's configuration.
            settings: Configuration that wins over the nucleus's.
        """
        if choose_model:
            settings = {"ModelDirectory": str(self.model), **settings}
        chosen = [text for key, value in settings.items() for text in ("--set", f"{key}={json.dumps(value)}")]
        self.log.touch()
        if command is None:
            quick = [json.dumps({**QUICK, **(timing or {})}), *["--child"][:child]]
            self.process = nursery().start([*quick, *chosen], self.environment, self.work, self.log)
        else:
            with self.log.open("a") as log:
                self.process = subprocess.Popen(
                    [sys.executable, *command, *chosen],
                    env=self.environment,
                    cwd=self.work,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
        if wait:
            self.health.until(lambda health: health["state"] == "running")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `ml-inference run` to its end."""
        command = [sys.executable, "-m", "ml_inference", "run", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.work, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def send(self, message: Any) -> None:
        """Publish to the input topic: bytes as a binary message, anything else as a JSON message."""
        self.nucleus.publish(REQUEST, message)

    def send_json(self, document: Any) -> None:
        self.send(json.dumps(document, separators=(",", ":")).encode())

    def send_all(self, documents: Iterable[Any]) -> None:
        """Publish one after the other, as fast as the nucleus can."""
        payloads = [json.dumps(document, separators=(",", ":")).encode() for document in documents]

        async def publish(nucleus: Nucleus) -> None:
            for payload in payloads:
                await nucleus.publish(REQUEST, payload)

        self.nucleus.call(publish)

    def configure(self, **settings: Any) -> None:
        self.nucleus.update_configuration(NAME, settings)

    def hold_up(self) -> list[dict[str, Any]]:
        """Answer no publish any more, so that the component has as many results on their way as it may have.

        Until `let_go` the next one waits in the worker's hands, and what comes after it in the queue.

        Returns:
            The results on their way, which are sent again after `let_go`.
        """
        self.nucleus.faults.answer_never("PublishToTopic", NAME, carried_out=True)
        results = []
        for number in range(WINDOW):
            self.send_json(NORMAL | {"equipment_id": "first", "correlation_id": number})
            results.append(self.results.next())
        return results

    def let_go(self) -> None:
        """End `hold_up`, over another connection."""
        self.nucleus.faults.clear()
        self.nucleus.faults.drop_connections(NAME)

    @property
    def subscriptions(self) -> list[str]:
        """Topics of readings to which the component is subscribed, as the nucleus sees it."""
        return [
            each.resource
            for each in self.nucleus.subscriptions
            if each.component == NAME and each.operation == "SubscribeToTopic" and each.resource != CONTROL
        ]

    @property
    def connections(self) -> int:
        """The component's connections, as the nucleus sees it."""
        return self.nucleus.connections.count(NAME)

    def in_cloud(self) -> list[dict[str, Any]]:
        """All that has arrived in the cloud, but for the probes that ask the classic nucleus whether it is online."""
        return [message.json() for message in self.nucleus.iot_core.messages if not message.topic.endswith("/probe")]

    def until_faults_happened(self) -> None:
        """Wait until the faults that were asked for a number of times have happened so often."""
        until(lambda: not self.nucleus.faults.pending, "the component did not call so often")

    def says(self, text: str) -> bool:
        """Whether the component's log holds the text."""
        return text in self.log.read_text()

    def terminate(self) -> int:
        """SIGTERM, which must end it in time; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = self.process.wait(SECONDS)
        assert time.monotonic() - began < STOP_SECONDS
        return code

    def finish(self) -> dict[str, Any]:
        """SIGTERM, which must end it well; its last health message."""
        assert self.terminate() == 0
        return self.health.until(lambda health: health["state"] == "stopping")

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it, and look at what must hold in every test: the accounting in each health message, no internal error."""
        if self.process and self.process.poll() is None:
            self.kill()
        for health in self._told.here():
            assert accounted(health), health
        if self.log.exists():
            for sign in ("Traceback", "internal error"):
                assert sign not in self.log.read_text(), self.log.read_text()


def accounted(health: Mapping[str, Any]) -> bool:
    """Whether the accounting of a health message holds."""
    counts, cloud = health["counters"], health["cloud"]
    return bool(
        counts["received"] == counts["scored"] + counts["rejected"] + counts["dropped"] + counts["queued"]
        and counts["scored"] + cloud["carried_over"]
        == cloud["delivered"] + cloud["waiting"] + cloud["expired"] + cloud["unwanted"]
        and min(*counts.values(), *(count for count in cloud.values())) >= 0
    )
