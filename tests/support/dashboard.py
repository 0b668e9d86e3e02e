"""The dashboard as a process of its own on a nucleus stand-in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from greengrass_sandbox import BackgroundNucleus
from support import told
from support.clocks import SECONDS

NAME = "com.example.MLInference.Dashboard"
PROJECT = Path(__file__).parents[2] / "components" / "dashboard"
STOP_SECONDS = 4.0
"""The classic nucleus kills after 5."""


@dataclass
class Dashboard:
    """The component's process."""

    nucleus: BackgroundNucleus
    work: Path
    configuration: Mapping[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    address: str = ""

    @property
    def log(self) -> str:
        path = self.work / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *, wait: bool = True, port: int = 0) -> None:
        recipe = yaml.safe_load((PROJECT / "recipe.yaml").read_text(encoding="utf-8"))
        recipe |= {"ComponentName": NAME, "ComponentVersion": "1.0.0"}
        environment = self.nucleus.credentials(NAME, recipe, configuration={"Port": port, **self.configuration})
        before = self.log.count("the page is at")
        with (self.work / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "inference_dashboard", "--work", str(self.work)],
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.says("the page is at", before)
            self.says("connected to the nucleus", before)
            self.address = re.findall(r"the page is at (\S+)", self.log)[-1]

    def says(self, text: str, before: int = 0) -> None:
        """Wait until the log has said something once more."""
        deadline = time.monotonic() + SECONDS
        while self.log.count(text) <= before:
            assert time.monotonic() < deadline, f"no {text!r} in: {self.log}"
            time.sleep(0.02)

    def send(self, topic: str, document: Any) -> None:
        self.nucleus.publish(topic, document if isinstance(document, bytes) else told.payload(document))

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str, dict[str, str]]:
        """An answer's status, text and headers."""
        request = urllib.request.Request(self.address.rstrip("/") + path, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), dict(error.headers)

    def stop(self) -> int:
        """SIGTERM, which must end it in time; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = self.process.wait(SECONDS)
        assert time.monotonic() - began < STOP_SECONDS, self.log
        return code

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert "Traceback" not in self.log, self.log
