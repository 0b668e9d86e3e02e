"""Configuration that changes while the component runs, right and wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import DeploymentError, Nucleus
from ml_inference.delivery.local import WINDOW
from support.clocks import until
from support.line import NAME, REQUEST, Line
from support.models import ABNORMAL, NORMAL

MakeLine = Callable[..., Line]


def score(line: Line, reading: dict[str, float] | None = None) -> dict[str, Any]:
    line.send_json(reading or NORMAL)
    return line.results.next()


def in_force(line: Line, **settings: Any) -> dict[str, Any]:
    """Change the configuration as a deployment does, and wait until the component says how it took that."""
    line.health.here()
    line.configure(**settings)
    return line.health.next()


def policy(topic: str) -> dict[str, Any]:
    operations = ["aws.greengrass#SubscribeToTopic", "aws.greengrass#PublishToTopic"]
    return {"aws.greengrass.ipc.pubsub": {f"{NAME}:pubsub:more": {"operations": operations, "resources": [topic]}}}


def test_what_is_judged_abnormal_follows_the_configuration(line: Line) -> None:
    assert score(line)["abnormal"] is False
    in_force(line, Threshold=0.0)
    assert (score(line)["threshold"], score(line)["abnormal"]) == (0.0, True)
    in_force(line, Threshold="null", DebounceReadings="2", ExplainTopK="1.0")  # as nucleus lite sends them
    assert score(line)["state"] == "abnormal"
    assert score(line)["state"] == "normal"
    assert score(line, ABNORMAL)["state"] == "normal"
    last = score(line, ABNORMAL)
    assert (last["state"], len(last["explanation"])) == ("abnormal", 1)


def test_topics_change_without_a_lost_message(line: Line) -> None:
    in_force(line, ResultTopic="ml/inference/result/here")
    score(line)
    in_force(line, accessControl=policy("line/*/telemetry"))
    in_force(line, InputTopic="line/+/telemetry")
    # Classic tells of the change before the new permission is in force.
    until(lambda: line.subscriptions == ["line/+/telemetry"], "it did not subscribe to the new topic")
    line.nucleus.publish("line/a/telemetry", NORMAL)
    assert line.results.raw().topic == "ml/inference/result/here"
    line.nucleus.faults.drop_connections(NAME)
    until(lambda: line.subscriptions == ["line/+/telemetry"], "it did not subscribe again")


@pytest.mark.parametrize("profile", ["lite"])
def test_what_goes_to_the_cloud_follows_the_configuration(line: Line) -> None:
    score(line)
    in_force(line, CloudPublish="none")
    score(line)
    in_force(line, CloudPublish="all", CloudQos=0, CloudTopic="greengrass/ml/inference/elsewhere")
    score(line)
    line.cloud.next()
    raw = line.cloud.raw()
    assert (raw.topic, raw.qos) == ("greengrass/ml/inference/elsewhere", 0)
    cloud = line.finish()["cloud"]
    assert (cloud["delivered"], cloud["unwanted"]) == (2, 1)


@pytest.mark.parametrize("profile", ["lite"])
def test_the_queue_gets_its_new_bound(make_line: MakeLine) -> None:
    line = make_line(CloudPublish="none")
    in_force(line, MaxQueue=5)
    line.hold_up()
    line.send_all([NORMAL] * 50)
    line.let_go()
    line.results.take(WINDOW + 5)
    assert line.finish()["counters"]["dropped"] in (50 - 5 - 1, 50 - 5)


@pytest.mark.parametrize("profile", ["lite"])
def test_the_outbox_gets_its_new_bound(line: Line) -> None:
    line.nucleus.faults.cloud_offline()
    for _ in range(10):
        score(line)
    in_force(line, OutboxMaxMegabytes=0)
    assert line.finish()["cloud"]["expired"] == 10


@pytest.mark.parametrize("profile", ["lite"])
def test_the_log_level_changes(line: Line) -> None:
    in_force(line, LogLevel="debug")
    line.nucleus.faults.drop_connections(NAME)
    until(lambda: line.says("DEBUG ml_inference"), "nothing was logged at this level")


@pytest.mark.parametrize("profile", ["lite"])
def test_an_event_without_a_change_changes_nothing(line: Line) -> None:
    in_force(line, Threshold=0.9)

    async def tell_again(nucleus: Nucleus) -> None:
        await nucleus.configuration_changed(NAME, [("Threshold",)] * 5)

    line.nucleus.call(tell_again)
    in_force(line, Threshold=0.8)
    line.finish()  # behind all events
    assert line.log.read_text().count("a new configuration is in force") == 2


@pytest.mark.parametrize("profile", ["lite"])
def test_a_change_is_found_although_the_subscription_to_changes_has_died(make_line: MakeLine) -> None:
    line = make_line(timing={"configuration_poll": 0.2})
    assert line.nucleus.faults.forget_streams(NAME, "SubscribeToConfigurationUpdate") == 1
    assert in_force(line, Threshold=0.9)["model"]["threshold"] == 0.9


@pytest.mark.parametrize("profile", ["lite"])
def test_a_wrong_value_leaves_the_old_configuration_in_force_and_says_so_until_it_is_right(line: Line) -> None:
    problem = in_force(line, Threshold="high", DebounceReadings=2)["problems"]["configuration"]
    assert problem == "Threshold: Input should be a valid number (got 'high')"
    result = score(line, ABNORMAL)
    assert (result["threshold"], result["state"]) == (0.5, "abnormal")
    health = in_force(line, Threshold=0.4)
    assert "configuration" not in health["problems"]
    assert score(line)["threshold"] == 0.4


def test_an_input_topic_that_is_refused_leaves_the_old_subscription_until_it_is_allowed(make_line: MakeLine) -> None:
    line = make_line(timing={"listen_grace": 0.2, "listen_retry": 0.1})
    in_force(line, InputTopic="not/allowed", Threshold=0.9)
    problem = line.health.until(lambda health: "input" in health["problems"])["problems"]["input"]
    assert problem.startswith("InputTopic: cannot subscribe to 'not/allowed': UnauthorizedError")
    assert line.subscriptions == [REQUEST]
    assert score(line)["threshold"] == 0.9
    line.nucleus.faults.drop_connections(NAME)
    line.health.next()
    assert score(line)["threshold"] == 0.9
    line.configure(accessControl=policy("not/allowed"))
    line.health.until(lambda health: "input" not in health["problems"])
    assert line.subscriptions == ["not/allowed"]
    assert line.log.read_text().count("tried again until a deployment allows it") == 1


@pytest.mark.parametrize("profile", ["lite"])
def test_an_input_topic_that_is_not_answered_is_asked_for_again(make_line: MakeLine) -> None:
    line = make_line(timing={"call": 0.3})
    line.configure(accessControl=policy("line/telemetry"))
    line.nucleus.faults.answer_never("SubscribeToTopic", NAME, times=1, carried_out=True)
    line.configure(InputTopic="line/telemetry")
    line.health.until(lambda _: line.subscriptions == ["line/telemetry"])
    line.nucleus.publish("line/telemetry", NORMAL)
    line.results.next()
    assert line.finish()["counters"]["received"] == 1


@pytest.mark.parametrize("profile", ["lite"])
def test_an_unknown_key_is_a_warning(line: Line) -> None:
    assert in_force(line, Treshold=0.9)["problems"] == {}  # codespell:ignore
    assert line.says("configuration: unknown key 'Treshold' is ignored")  # codespell:ignore


@pytest.mark.parametrize("profile", ["classic"])
def test_on_classic_a_wrong_value_fails_the_deployment_where_that_is_wanted(make_line: MakeLine) -> None:
    line = make_line(start=False)
    line.configure(ValidateConfiguration=True)
    line.start()
    with pytest.raises(DeploymentError, match="rejected its configuration: Threshold: Input should be a valid number"):
        line.configure(Threshold="high")
    assert score(line)["threshold"] == 0.5
    assert in_force(line, Threshold=0.9)["model"]["threshold"] == 0.9
    line.nucleus.faults.drop_connections(NAME)
    line.health.next()
    with pytest.raises(DeploymentError, match="rejected its configuration"):
        line.configure(MaxQueue=-1)


@pytest.mark.parametrize("profile", ["classic"])
def test_whether_classic_asks_follows_the_configuration_without_a_restart(make_line: MakeLine) -> None:
    line = make_line()
    in_force(line, ValidateConfiguration=True)
    with pytest.raises(DeploymentError, match="rejected its configuration"):
        line.configure(Threshold="high")
    in_force(line, ValidateConfiguration=False)
    line.configure(Threshold="high")
    until(lambda: "configuration" in line.health.next()["problems"])


def other_component(directory: Path) -> Path:
    recipe = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "com.example.Other",
        "ComponentVersion": "1.0.0",
        "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {"install": "true"}}],
    }
    path = directory / "other.json"
    path.write_text(json.dumps(recipe))
    return path


@pytest.mark.parametrize("profile", ["classic"])
def test_an_update_waits_for_the_queue(make_line: MakeLine, tmp_path: Path) -> None:
    line = make_line(timing={"defer": 0.1})
    line.nucleus.faults.answer_late(1.0, "PublishToTopic", NAME, times=WINDOW)
    line.send_all([NORMAL] * (WINDOW + 20))
    line.nucleus.faults.answer_late(0.0, "DeferComponentUpdate", NAME, times=2)
    with ThreadPoolExecutor(1) as executor:
        deployment = executor.submit(line.nucleus.deploy, other_component(tmp_path))
        line.until_faults_happened()  # it was put off twice
        deployment.result(20)
    line.results.take(WINDOW + 20)


@pytest.mark.parametrize("profile", ["classic"])
def test_an_update_does_not_wait_for_ever(make_line: MakeLine, tmp_path: Path) -> None:
    line = make_line(timing={"defer": 0.1, "longest_defer": 0.5})
    line.hold_up()
    line.send_all([NORMAL] * 20)
    line.nucleus.deploy(other_component(tmp_path))
    assert line.results.here() == []


@pytest.mark.parametrize("profile", ["lite"])
def test_nothing_of_a_configuration_is_logged_as_it_came(line: Line) -> None:
    line.configure(**{"Bad\nKey": "x"})
    until(lambda: line.says("unknown key"), "no warning")
    assert line.says(r"unknown key 'Bad\nKey' is ignored")
