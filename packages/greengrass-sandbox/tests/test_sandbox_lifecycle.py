"""The lifecycle as it was measured on running nuclei: what a deployment, a failure and a restart of the nucleus do to components."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from awsiot.greengrasscoreipc import model

from greengrass_sandbox import BackgroundComponent, BackgroundNucleus, DeploymentError, LogLine

NAME = "com.example.Worker"
RUN = "exec sleep 60"
COUNTED = "echo x >> installs"
Connect = Callable[..., Any]
Files = Callable[..., Path]
MakeNucleus = Callable[..., BackgroundNucleus]


def state(component: BackgroundComponent) -> str:
    """Its present state; of an attribute a type checker believes that it stays what it was."""
    return component.state


def installs(nucleus: BackgroundNucleus, name: str = NAME) -> int:
    path = nucleus.component(name).work_path / "installs"
    return len(path.read_text().split()) if path.exists() else 0


def configured(nucleus: BackgroundNucleus, key: str, name: str = NAME) -> Any:
    return nucleus.configuration(name, [key])


# Validation, on classic.


@pytest.fixture
def quick_classic(make_nucleus: MakeNucleus) -> BackgroundNucleus:
    """A classic nucleus that does not wait long for a component's word."""
    return make_nucleus("classic", validation_timeout=0.3)


def test_a_change_of_a_component_that_validates_and_of_one_that_does_not_fails(
    quick_classic: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(quick_classic, configuration={"a": 1})
    quick_classic.credentials("com.example.Other", configuration={"b": 1})
    requests = client.stream("subscribe_to_validate_configuration_updates")

    def accept() -> None:
        event = requests.get().validate_configuration_update_event
        report = model.ConfigurationValidityReport(status="ACCEPTED", deployment_id=event.deployment_id)
        client.call("send_configuration_validity_report", configuration_validity_report=report)

    both = {"com.example.Test": {"merge": {"a": 2}}, "com.example.Other": {"merge": {"b": 2}}}
    with ThreadPoolExecutor(1) as executor:
        accepting = executor.submit(accept)
        with pytest.raises(DeploymentError, match=r"com\.example\.Other did not validate"):
            quick_classic.configure(both)
        accepting.result(10)
        accepting = executor.submit(accept)
        quick_classic.configure({"com.example.Test": {"merge": {"a": 2}}})
        accepting.result(10)
    quick_classic.configure({"com.example.Other": {"merge": {"b": 2}}})
    assert (
        configured(quick_classic, "a", "com.example.Test"),
        configured(quick_classic, "b", "com.example.Other"),
    ) == (2, 2)


def test_a_silent_component_is_waited_for_and_fails_the_deployment(
    quick_classic: BackgroundNucleus, connect: Connect
) -> None:
    connect(quick_classic, configuration={"a": 1}).stream("subscribe_to_validate_configuration_updates")
    with pytest.raises(DeploymentError, match="did not validate"):
        quick_classic.update_configuration("com.example.Test", {"a": 2})
    assert configured(quick_classic, "a", "com.example.Test") == 1


def test_a_new_version_is_not_validated(
    quick_classic: BackgroundNucleus, connect: Connect, component_files: Files
) -> None:
    quick_classic.deploy(component_files(run=RUN, configuration="{a: 1}"))
    connect(quick_classic, NAME).stream("subscribe_to_validate_configuration_updates")
    quick_classic.deploy(component_files(run=RUN, version="1.0.1"), configuration={"merge": {"a": "bad"}})
    assert configured(quick_classic, "a") == "bad"
    with pytest.raises(DeploymentError, match="did not validate"):
        quick_classic.deploy(component_files(run=RUN, version="1.0.1"), configuration={"merge": {"a": 3}})


def test_the_event_of_a_change_comes_before_the_new_permission_is_in_force(
    classic: BackgroundNucleus, connect: Connect
) -> None:
    def allowed(topic: str) -> dict[str, Any]:
        return {"aws.greengrass.ipc.pubsub": {"all": {"operations": ["*"], "resources": [topic]}}}

    client = connect(classic, access=allowed("old"), configuration={"Topic": "old"})
    changes = client.stream("subscribe_to_configuration_update", key_path=[])
    classic.update_configuration("com.example.Test", {"accessControl": allowed("new"), "Topic": "new"})
    assert changes.get()
    with pytest.raises(model.UnauthorizedError):
        client.subscribe("new")
    deadline = time.monotonic() + 20
    while True:
        try:
            client.subscribe("new")
            break
        except model.UnauthorizedError:
            assert time.monotonic() < deadline


# Failed deployments.


def test_a_local_deployment_rolls_back_only_if_it_is_asked_to(
    classic: BackgroundNucleus, component_files: Files
) -> None:
    component = classic.deploy(component_files(run=RUN, configuration="{a: 1}"))
    bad = component_files(run=RUN, install="exit 1", version="2.0.0")
    change = {"merge": {"a": 2}}
    with pytest.raises(DeploymentError):
        classic.deploy(bad, configuration=change, local=True, on_failure="ROLLBACK")
    assert (component.state, component.version, configured(classic, "a")) == ("RUNNING", "1.0.0", 1)
    with pytest.raises(DeploymentError):
        classic.deploy(bad, configuration=change, local=True)
    assert (component.state, component.version, configured(classic, "a")) == ("BROKEN", "2.0.0", 2)


@pytest.mark.parametrize(("timeout", "again"), [("30", True), ("'30'", False)])
def test_a_rollback_starts_other_components_anew_whose_timeout_is_an_integer(
    classic: BackgroundNucleus, component_files: Files, timeout: str, again: bool
) -> None:
    step = f"{{Script: {COUNTED}, Timeout: {timeout}}}"
    other = classic.deploy(component_files(name="com.example.Other", install=step, run=RUN))
    before = other.pid
    classic.deploy(component_files(run=RUN))
    with pytest.raises(DeploymentError):
        classic.deploy(component_files(run=RUN, install="exit 1", version="2.0.0"))
    assert (other.pid != before, installs(classic, "com.example.Other")) == (again, 1 + again)


def test_a_failed_deployment_on_lite_leaves_the_old_version_without_a_unit(
    lite: BackgroundNucleus, component_files: Files
) -> None:
    component = lite.deploy(component_files(run=RUN))
    with pytest.raises(DeploymentError):
        lite.deploy(component_files(run=RUN, install="exit 1", version="2.0.0"))
    assert state(component) == "RUNNING"
    os.kill(component.pid or 0, 9)
    component.wait_for("BROKEN")
    component.start()
    assert state(component) == "BROKEN"
    lite.update_configuration(NAME, {"a": 1})  # a deployment, too
    assert state(component) == "RUNNING"
    os.kill(component.pid or 0, 9)
    component.wait_for("RUNNING")
    assert lite.deploy(component_files(run=RUN, version="2.0.1")).state == "RUNNING"


def test_an_entry_for_another_component_restarts_it_on_lite_only(
    nucleus: BackgroundNucleus, component_files: Files, profile: str
) -> None:
    other = nucleus.deploy(component_files(name="com.example.Other", run=RUN, configuration="{a: 1}"))
    before = other.pid
    nucleus.deploy(component_files(run=RUN))
    assert other.pid == before
    nucleus.deploy(component_files(run=RUN, version="1.0.1"), others={"com.example.Other": {"merge": {"a": 2}}})
    assert (other.pid != before) is (profile == "lite")
    assert configured(nucleus, "a", "com.example.Other") == 2


@pytest.mark.parametrize(("profile", "again"), [("lite", 1), ("classic", 2)])
def test_a_broken_component_is_installed_again_by_classic_when_it_is_started(
    nucleus: BackgroundNucleus, component_files: Files, again: int
) -> None:
    component = nucleus.deploy(component_files(install=COUNTED, run="exit 1"))
    component.wait_for("BROKEN")
    component.start()
    assert installs(nucleus) == again


def test_lite_allows_three_starts_an_hour_whatever_ended_the_process(
    lite: BackgroundNucleus, component_files: Files
) -> None:
    component = lite.deploy(component_files(run=RUN))
    for _ in range(2):
        component.restart(counted=True)
        assert state(component) == "RUNNING"
    component.restart(counted=True)
    assert state(component) == "BROKEN"
    component.start()  # a deployment, or the operator
    assert state(component) == "RUNNING"


# The nucleus itself.


def test_a_restart_of_the_nucleus_ends_connections_and_tokens(nucleus: BackgroundNucleus, connect: Connect) -> None:
    client = connect(nucleus, configuration={"a": 1})
    old = nucleus.credentials("com.example.Test")["SVCUID"]
    nucleus.restart()
    client.lifecycle.lost.result(10)
    assert nucleus.credentials("com.example.Test")["SVCUID"] != old
    assert connect(nucleus).call("get_configuration", key_path=["a"]).value == {"a": 1}


@pytest.mark.parametrize(("profile", "again"), [("lite", 1), ("classic", 2)])
def test_a_restart_of_the_nucleus_restarts_components_and_installs_them_on_classic(
    nucleus: BackgroundNucleus, component_files: Files, again: int
) -> None:
    component = nucleus.deploy(component_files(install=COUNTED, run=RUN))
    before = component.pid
    nucleus.restart()
    assert (component.state, component.pid != before, installs(nucleus)) == ("RUNNING", True, again)


@pytest.mark.parametrize(("profile", "dies"), [("lite", False), ("classic", True)])
def test_a_killed_nucleus_takes_its_components_with_it_on_classic(
    nucleus: BackgroundNucleus, component_files: Files, connect: Connect, dies: bool
) -> None:
    component, client = nucleus.deploy(component_files(run=RUN)), connect(nucleus)
    before = component.pid
    nucleus.kill()
    client.lifecycle.lost.result(10)
    assert not nucleus.socket_path.exists()
    assert (component.pid is None) is dies
    nucleus.start()
    assert (component.state, component.pid != before) == ("RUNNING", dies)
    connect(nucleus)
    with pytest.raises(RuntimeError, match="is running"):
        nucleus.start()


def test_after_a_failed_deployment_a_restart_of_lite_leaves_the_component_dead(
    lite: BackgroundNucleus, component_files: Files
) -> None:
    component = lite.deploy(component_files(run=RUN))
    with pytest.raises(DeploymentError):
        lite.deploy(component_files(run=RUN, install="exit 1", version="2.0.0"))
    lite.restart()
    assert (component.state, component.pid) == ("BROKEN", None)


def test_a_restart_starts_a_component_after_what_it_depends_on(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    for name in ("com.example.B", "com.example.A"):
        nucleus.deploy(component_files(name=name, run=RUN))
    path = component_files(name="com.example.B", version="1.0.1", run=RUN)
    path.write_text(path.read_text() + "ComponentDependencies: {com.example.A: {VersionRequirement: ^1.0.0}}\n")
    nucleus.deploy(path)
    events = nucleus.events()
    nucleus.restart()
    running = [event.component for event in events.drain() if getattr(event, "state", None) == "RUNNING"]
    assert running == ["com.example.A", "com.example.B"]


# The cloud.


def test_the_spool_is_in_memory(classic: BackgroundNucleus, connect: Connect) -> None:
    client = connect(classic)
    classic.iot_core.online = False
    client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"accepted")
    classic.restart()
    classic.iot_core.online = True
    connect(classic).call("publish_to_iot_core", topic_name="up", qos="1", payload=b"after")
    assert [message.payload for message in classic.iot_core.messages] == [b"after"]


def test_what_lite_has_only_written_to_its_socket_is_lost_with_the_connection(
    lite: BackgroundNucleus, connect: Connect
) -> None:
    client = connect(lite)
    lost, arrived = 0, 0
    while not lost:  # on a busy machine all ten may arrive before the connection goes
        for number in range(10):
            client.start("publish_to_iot_core", topic_name="up", qos="1", payload=bytes([number]))
        client.call("get_configuration")  # behind them
        lite.iot_core.online = False
        arrived, before = len(lite.iot_core.messages), arrived
        lost = 10 - (arrived - before)
        assert 0 <= lost <= 10
        lite.faults.clear()
    client.call("publish_to_iot_core", topic_name="up", qos="1", payload=b"after")
    assert len(lite.iot_core.messages) == arrived + 1


# What components write.


@pytest.mark.parametrize(("profile", "level"), [("lite", "INFO"), ("classic", "WARN")])
def test_stdout_is_info_whatever_it_says_and_stderr_is_warn_on_classic(
    nucleus: BackgroundNucleus, component_files: Files, level: str
) -> None:
    events = nucleus.events()
    nucleus.deploy(component_files(run="'echo ERROR it burns; echo fine >&2; exec sleep 60'"))
    levels: dict[str, str] = {}
    while len(levels) < 2:
        event = events.get()
        if isinstance(event, LogLine):
            levels[event.line] = event.level
    assert levels == {"ERROR it burns": "INFO", "fine": level}
