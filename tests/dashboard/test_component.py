"""The component as a process of its own, over the real SDK and a real socket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus
from support import told
from support.clocks import SECONDS, until
from support.dashboard import NAME, PROJECT, Dashboard

Start = Callable[..., Dashboard]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the component on a nucleus of a profile."""
    running: list[Dashboard] = []
    nuclei: list[BackgroundNucleus] = []

    def start(profile: str = "lite", *, wait: bool = True, **configuration: Any) -> Dashboard:
        nucleus = BackgroundNucleus(tmp_path / f"nucleus-{len(nuclei)}", profile).__enter__()  # type: ignore[arg-type]
        nuclei.append(nucleus)
        work = tmp_path / f"work-{len(nuclei)}"
        work.mkdir()
        dashboard = Dashboard(nucleus, work, configuration)
        running.append(dashboard)
        dashboard.start(wait=wait)
        return dashboard

    yield start
    for dashboard in running:
        dashboard.end()
    for nucleus in nuclei:
        nucleus.__exit__(None, None, None)


def metric(dashboard: Dashboard, name: str) -> float | None:
    _, text, _ = dashboard.get("/metrics")
    values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name} ")]
    return values[0] if values else None


def test_it_hears_binary_and_json_messages_publishes_nothing_and_survives_a_lost_connection(start: Start) -> None:
    dashboard = start()
    tap = dashboard.nucleus.watch()
    dashboard.send(told.RESULT, told.result("a", time.time()))
    dashboard.nucleus.publish(told.RESULT, told.result("b", time.time()))
    until(lambda: metric(dashboard, "ml_inference_dashboard_results_total") == 2)
    connected = dashboard.log.count("connected to the nucleus")
    dashboard.nucleus.faults.drop_connections(NAME)
    dashboard.says("connected to the nucleus", connected)
    dashboard.send(told.RESULT, told.result("a", time.time()))
    until(lambda: metric(dashboard, "ml_inference_dashboard_results_total") == 3)
    senders = {message.component for message in tap.take(3)}
    assert senders == {None}
    assert dashboard.stop() == 0


def test_what_was_known_is_there_after_a_restart_and_nothing_is_lost_to_sigterm(start: Start) -> None:
    dashboard = start("classic")
    now = time.time()
    dashboard.send(told.HEALTH, told.features())
    dashboard.send(told.RESULT, told.result("a", now, 0.9))
    dashboard.send(told.ALARM, told.alarm("x", "a", now - 60))
    dashboard.send(told.READING, told.reading("a", now, wRMSCurrent=99.5))
    until(lambda: metric(dashboard, "ml_inference_dashboard_readings_total") == 1)
    assert dashboard.stop() == 0
    dashboard.start()
    _, text, _ = dashboard.get("/api/alarms")
    assert [(alarm["id"], alarm["closed"]) for alarm in json.loads(text)["alarms"]] == [("x", None)]
    _, text, _ = dashboard.get("/api/history?n=1&range=1h")
    history = json.loads(text)
    assert [row[1] for row in history["score"]] == pytest.approx([0.9])
    assert [row[1] for row in history["sensors"]["wRMSCurrent"]] == pytest.approx([99.5])
    assert list(history["sensors"]) == list(told.SENSORS)
    assert metric(dashboard, 'ml_inference_alarms_open{kind="equipment"}') == 1.0


def test_an_alarm_is_in_the_list_as_soon_as_it_is_known(start: Start) -> None:
    dashboard, now = start(), time.time()
    for number in range(1, 4):
        dashboard.send(told.ALARM, told.alarm(f"x{number}", "a", now - 60, event="closed", closed=now))
        dashboard.send(told.RESULT, told.result("a", now))
        until(lambda: metric(dashboard, "ml_inference_dashboard_results_total") == number)  # noqa: B023 - waited for
        _, text, _ = dashboard.get("/api/alarms")
        assert len(json.loads(text)["alarms"]) == number


def test_a_wrong_configuration_ends_it_with_1_at_the_start_and_changes_nothing_later(start: Start) -> None:
    refused = start(wait=False, ListenAddress="0.0.0.0")
    assert refused.process is not None
    assert refused.process.wait(SECONDS) == 1
    assert "Token: is needed where others can connect" in refused.log
    dashboard = start()
    dashboard.nucleus.update_configuration(NAME, {"ListenAddress": "0.0.0.0"})
    dashboard.says("configuration: Token")
    assert dashboard.get("/")[0] == 200
    dashboard.nucleus.update_configuration(NAME, {"ListenAddress": "127.0.0.1", "Token": "0123456789abcdef"})
    dashboard.says("the page is at", 1)
    dashboard.address = dashboard.log.rsplit("the page is at ", 1)[1].split()[0]
    assert dashboard.get("/metrics")[0] == 401
    assert dashboard.get("/metrics", {"Authorization": "Bearer 0123456789abcdef"})[0] == 200
    assert "0123456789abcdef" not in dashboard.log


def test_a_refused_token_ends_it_with_75(start: Start) -> None:
    dashboard = start()
    credentials = dashboard.nucleus.credentials(NAME) | {"SVCUID": "AAAAAAAAAAAAAAAA"}
    done = subprocess.run(
        [sys.executable, "-m", "inference_dashboard", "--work", str(dashboard.work / "other")],
        env=os.environ | credentials,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 75, done.stderr


def test_without_a_nucleus_it_says_so_and_ends_with_1() -> None:
    clean = {key: value for key, value in os.environ.items() if key != "SVCUID" and not key.startswith("AWS_GG")}
    done = subprocess.run(
        [sys.executable, "-m", "inference_dashboard"],
        env=clean,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "started by a Greengrass nucleus" in done.stderr


def test_the_artifact_holds_all_of_ours_that_it_imports(tmp_path: Path) -> None:
    options = json.loads((PROJECT / "gdk-config.json").read_text())["component"][NAME]["build"]["options"]
    for place, source in options["includes"].items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (PROJECT / source).is_dir() else shutil.copy
        copy(PROJECT / source, tmp_path / place)
    # The path of the artifact comes before that of the checkout, and what it lacks would be found there.
    check = "import sys, inference_dashboard.application; print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('ml_inference', 'inference_dashboard')))"
    done = subprocess.run(
        [sys.executable, "-c", check],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())


def test_it_imports_neither_xgboost_nor_numpy() -> None:
    check = "import sys, inference_dashboard.application; print({'xgboost', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert done.stdout.strip() == "set()"
