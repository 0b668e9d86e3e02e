"""The fixtures as a stranger uses them, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus, BrokenComponentError

Files = Callable[..., Path]
NAME = "com.example.Worker"

FAILING = """
from pathlib import Path


def test_an_answer(lite):
    answers = lite.watch("demo/#")
    lite.deploy(Path(__file__).parent / "recipe.yaml", Path(__file__).parent)
    assert answers.get(timeout=60)
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        *arguments,
        str(folder),
    ]
    return subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=100, check=False)


def test_a_failed_test_shows_the_components_log_and_traceback_and_does_not_wait_for_what_cannot_come(
    tmp_path: Path, component_files: Files
) -> None:
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "test_it.py").write_text(FAILING)
    code = "import missing_package_of_a_stranger"
    component_files(run=f"exec python3 -c '{code}'").rename(folder / "recipe.yaml")
    done = run_pytest(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BrokenComponentError" in done.stdout
    assert f"Greengrass component {NAME} (BROKEN)" in done.stdout
    assert "ModuleNotFoundError: No module named 'missing_package_of_a_stranger'" in done.stdout
    assert "its last run ended with exit code 1" in done.stdout
    assert "background.py" not in done.stdout  # where the package noticed it is of no interest


def test_python3_in_a_recipe_is_the_interpreter_of_the_tests_with_its_packages(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    code = "import sys, pytest; print(sys.prefix)"
    component = nucleus.deploy(component_files(run=f"python3 -c '{code}'"))
    component.wait_for("FINISHED")
    assert component.log_path.read_text() == f"{sys.prefix}\n"


def test_another_python3_can_be_asked_for_or_that_of_the_path(
    make_nucleus: Callable[..., BackgroundNucleus], component_files: Files, tmp_path: Path
) -> None:
    recipe = component_files(run="python3 --version")
    for name in ("asked for", "found"):
        script = tmp_path / name / "python3"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\necho {name}\n")
        script.chmod(0o755)
    path = {"PATH": f"{tmp_path / 'found'}{os.pathsep}{os.environ['PATH']}"}
    for python, said in ((tmp_path / "asked for" / "python3", "asked for\n"), (None, "found\n")):
        component = make_nucleus("lite", environment=path, python=python).deploy(recipe)
        component.wait_for("FINISHED")
        assert component.log_path.read_text() == said


def test_waiting_for_what_a_broken_component_will_not_send_ends_with_its_log(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    messages, cloud = nucleus.watch(), nucleus.iot_core.watch()
    component = nucleus.deploy(component_files(run="'echo the reason; exit 7'"))
    with pytest.raises(BrokenComponentError, match=r"(?s)BROKEN.*exit code 7.*the reason"):
        messages.get(timeout=60)
    with pytest.raises(BrokenComponentError):
        cloud.get(timeout=60)
    with pytest.raises(BrokenComponentError):
        nucleus.wait_for_subscriber("a", timeout=60)
    assert component.exit_code == 7


def test_waiting_for_a_state_ends_when_the_component_breaks(nucleus: BackgroundNucleus, component_files: Files) -> None:
    component = nucleus.deploy(component_files(run="'echo the reason; exit 7'"))
    with pytest.raises(TimeoutError, match=r"(?s)BROKEN, not FINISHED.*the reason"):
        component.wait_for("FINISHED", 60)


def test_while_somebody_else_is_connected_a_message_can_still_come(
    nucleus: BackgroundNucleus, component_files: Files, connect: Callable[..., Any]
) -> None:
    messages = nucleus.watch()
    connect(nucleus)
    nucleus.deploy(component_files(run="exit 7")).wait_for("BROKEN")
    with pytest.raises(TimeoutError, match=r"nothing came within 0\.2 s\n.*BROKEN"):
        messages.get(timeout=0.2)


def test_everything_that_has_come_can_be_taken_at_once(nucleus: BackgroundNucleus) -> None:
    messages = nucleus.watch("a")
    for number in range(3):
        nucleus.publish("a", number)
    assert [message.json() for message in messages.drain()] == [0, 1, 2]
    assert messages.drain() == []


def test_subscriptions_and_connections_are_seen(nucleus: BackgroundNucleus, connect: Callable[..., Any]) -> None:
    client = connect(nucleus, configuration={"key": {"a": 1}})
    assert nucleus.connections == ["com.example.Test"]
    client.subscribe("a/+")
    client.stream("subscribe_to_configuration_update", key_path=["key", "a"])
    assert [(each.operation, each.resource) for each in nucleus.subscriptions] == [
        ("SubscribeToTopic", "a/+"),
        ("SubscribeToConfigurationUpdate", "key/a"),
    ]
    nucleus.wait_for_subscriber("a/b", "com.example.Test")
    with pytest.raises(TimeoutError, match="nobody subscribed to b within"):
        nucleus.wait_for_subscriber("b", timeout=0.1)


def test_faults_that_wait_for_their_time_are_seen(nucleus: BackgroundNucleus, connect: Callable[..., Any]) -> None:
    client = connect(nucleus)
    nucleus.faults.answer_late(0.01, "GetConfiguration", times=1)
    (pending,) = nucleus.faults.pending
    assert (pending.verb, pending.operation, pending.times) == ("answer_late", "GetConfiguration", 1)
    assert client.call("get_configuration").value is not None
    assert nucleus.faults.pending == []


def test_any_bytes_can_be_sent_as_an_event(nucleus: BackgroundNucleus, connect: Callable[..., Any]) -> None:
    inbox = connect(nucleus).subscribe("a")
    assert nucleus.faults.inject_event('{"jsonMessage": {"message": {"b": 1}}}', component="com.example.Test") == 1
    assert inbox.payload() == {"b": 1}
    assert nucleus.faults.inject_event(b"", component="com.example.Nobody") == 0
    with pytest.raises(ValueError, match="does not subscribe"):
        nucleus.faults.inject_event(b"", "PublishToTopic")
