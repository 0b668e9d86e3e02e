from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from support.clocks import until
from support.line import NAME, Line, accounted
from support.models import ABNORMAL, NORMAL

REAL_MESSAGE = {
    "rVibration_Temp": 69.71,
    "rVibration_Z_RMS_Velocity": 89.42,
    "rVibration_X_RMS_Velocity": 50.58,
    "wRMSCurrent": 106.94,
    "wCurrentLoad": 107.94,
    "wEncoderVelocity": 25.88,
    "wCylinderStatus": 0.0,
    "sDateTime": "2022-07-06 22:56:30.503",
    "timeInSeconds": 1657148190,
}


def test_the_lines_real_message_is_scored_locally_and_in_the_cloud_with_its_own_time(line: Line) -> None:
    line.send_json(REAL_MESSAGE)
    result = line.results.next()
    assert result["timestamp"] == "2022-07-06T22:56:30.503Z"
    assert 0 <= result["score"] <= 1
    raw = line.cloud.raw()
    assert raw.topic == "greengrass/ml/inference/sandbox-core"
    cloud = json.loads(raw.payload)
    assert cloud.pop("thing_name") == "sandbox-core"
    assert cloud.pop("id")
    assert cloud.pop("sequence") == 1
    assert cloud == result


def test_a_json_message_is_as_good_as_a_binary_one_and_results_are_binary(line: Line) -> None:
    line.send(REAL_MESSAGE | {"correlation_id": 1})
    line.send_json(REAL_MESSAGE | {"correlation_id": 2})
    first, second = line.results.raw(), line.results.raw()
    assert (first.kind, second.kind) == ("binary", "binary")
    assert json.loads(first.payload)["score"] == json.loads(second.payload)["score"]


def test_a_rejected_message_is_told_on_the_error_topic_and_the_next_one_is_scored(line: Line) -> None:
    line.send(b"\x00\xff")
    line.send_json({"equipment_id": "cylinder-7", "correlation_id": "a1"})
    line.send_json(NORMAL | {"wCurrentLoad": "12"})
    line.send_json(NORMAL | {"correlation_id": "good"})
    invalid, missing, text = line.errors.take(3)
    assert invalid["errors"][0]["type"] == "json_invalid"
    assert (missing["equipment_id"], missing["correlation_id"], len(missing["errors"])) == ("cylinder-7", "a1", 6)
    assert text["errors"] == [{"loc": ["wCurrentLoad"], "type": "float_type", "msg": "Input should be a valid number"}]
    assert line.results.next()["correlation_id"] == "good"


def test_a_batch_is_answered_in_its_order_with_the_bad_reading_marked(line: Line) -> None:
    batch = [NORMAL | {"equipment_id": "a"}, {"equipment_id": "b"}, ABNORMAL | {"equipment_id": "c"}]
    line.send_json({"readings": batch, "correlation_id": "batch-1"})
    result = line.results.next()
    assert result["correlation_id"] == "batch-1"
    assert [(item["index"], item["equipment_id"]) for item in result["results"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert ["score" in item for item in result["results"]] == [True, False, True]
    assert result["results"][1]["error"][0]["type"] == "missing"
    assert line.errors.next()["index"] == 1


def test_a_large_batch_comes_in_parts_that_lite_can_carry(line: Line) -> None:
    line.send_json([ABNORMAL | {"correlation_id": number} for number in range(32)])
    first = line.results.next()
    parts = [first, *line.results.take(first["parts"] - 1)]
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert [item["correlation_id"] for part in parts for item in part["results"]] == list(range(32))


def test_results_leave_in_the_order_in_which_readings_came(line: Line) -> None:
    for number in range(300):
        line.send_json((ABNORMAL if number % 3 else NORMAL) | {"correlation_id": number})
    assert [result["correlation_id"] for result in line.results.take(300)] == list(range(300))
    assert [result["correlation_id"] for result in line.cloud.take(300)] == list(range(300))


def test_each_requester_can_have_a_topic_of_its_own(make_line: Callable[..., Line]) -> None:
    line = make_line(ResultTopic="ml/inference/result/{equipmentId}")
    line.send_json([NORMAL | {"equipment_id": "a/1"}, NORMAL | {"equipment_id": "b"}, NORMAL | {"equipment_id": "a/1"}])
    first, second = line.results.raw(), line.results.raw()
    assert (first.topic, second.topic) == ("ml/inference/result/a%2F1", "ml/inference/result/b")
    assert [item["index"] for item in json.loads(first.payload)["results"]] == [0, 2]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("all", [0, 1, 2, 3]), ("abnormal", [1, 2]), ("changes", [0, 1, 3]), ("none", [])],
)
def test_the_cloud_gets_what_the_policy_wants(make_line: Callable[..., Line], policy: str, expected: list[int]) -> None:
    line = make_line(CloudPublish=policy)
    for number, document in enumerate([NORMAL, ABNORMAL, ABNORMAL, NORMAL]):
        line.send_json(document | {"correlation_id": number})
    line.results.take(4)
    assert line.terminate() == 0
    health = line.health.until(lambda health: health["state"] == "stopping")
    assert accounted(health)
    assert health["cloud"]["unwanted"] == 4 - len(expected)
    assert [message["correlation_id"] for message in line.in_cloud()] == expected


def test_health_tells_state_model_and_counters(line: Line) -> None:
    line.send_json(NORMAL)
    line.send(b"?")
    line.send_json([NORMAL, {}, NORMAL])
    line.results.take(2)
    line.cloud.take(2)
    assert line.terminate() == 0
    health = line.health.until(lambda health: health["state"] == "stopping")
    assert health["model"]["name"] == "small"
    assert health["counters"] == {"received": 5, "scored": 3, "rejected": 2, "dropped": 0, "queued": 0}
    assert accounted(health)


@pytest.mark.parametrize("profile", ["lite"])
def test_the_log_says_which_machine_is_rejected_in_one_line_however_many_there_are(
    make_line: Callable[..., Line],
) -> None:
    line = make_line(HealthIntervalSeconds=1)
    name = "cylinder-7\nERROR forged" + "x" * 80
    line.send_all([{"equipment_id": name}] * 500)
    until(lambda: line.says("readings were rejected"), "the log does not say so")
    line.health.until(lambda health: health["counters"]["rejected"] == 500)
    line.finish()
    (said,) = [row for row in line.log.read_text().splitlines() if "rejected" in row and "stopped" not in row]
    assert "of machine 'cylinder-7\\nERROR forgedx" in said
    assert said.endswith("…': rVibration_Temp: Field required")


def test_on_sigterm_everything_received_is_scored_and_published_in_order(line: Line) -> None:
    for number in range(1_000):
        line.send_json(NORMAL | {"correlation_id": number})
    line.results.next()
    assert line.terminate() == 0
    counts = line.health.until(lambda health: health["state"] == "stopping")["counters"]
    assert counts == {
        "received": counts["scored"],
        "scored": counts["scored"],
        "rejected": 0,
        "dropped": 0,
        "queued": 0,
    }
    following = line.results.take(counts["scored"] - 1)
    assert [result["correlation_id"] for result in following] == list(range(1, counts["scored"]))


def test_it_cannot_start_with_a_bad_model_or_configuration_and_says_why(make_line: Callable[..., Line]) -> None:
    line = make_line(start=False)
    for setting, reason in (
        (f"ModelDirectory={line.work}", "manifest: cannot read"),
        ("Threshold=high", "Threshold: Input should be a valid number (got 'high')"),
    ):
        settings = ["--set", f"ModelDirectory={line.model}", "--set", setting]
        done = line.run(*settings)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr


def test_a_missing_permission_on_the_input_topic_is_a_problem_that_a_deployment_cures(
    make_line: Callable[..., Line],
) -> None:
    line = make_line(start=False)
    line.start(wait=False, InputTopic="elsewhere", timing={"listen_retry": 0.1})
    health = line.health.until(lambda health: "input" in health["problems"])
    assert health["problems"]["input"].startswith("InputTopic: cannot subscribe to 'elsewhere': UnauthorizedError")
    assert health["state"] == "starting"
    operations = ["aws.greengrass#SubscribeToTopic", "aws.greengrass#PublishToTopic"]
    policy = {f"{NAME}:pubsub:more": {"operations": operations, "resources": ["elsewhere"]}}
    line.configure(accessControl={"aws.greengrass.ipc.pubsub": policy})
    assert line.health.until(lambda health: health["state"] == "running")["problems"] == {}
    line.nucleus.publish("elsewhere", json.dumps(NORMAL).encode())
    assert "score" in line.results.next()
    assert line.log.read_text().count("cannot subscribe") == 1


def test_it_cannot_start_outside_greengrass_and_says_so(make_line: Callable[..., Line]) -> None:
    line = make_line(start=False)
    del line.environment["SVCUID"]
    done = line.run()
    assert done.returncode == 1
    assert done.stderr == "ml-inference run: SVCUID is not set: this command is started by a Greengrass nucleus\n"


def test_a_refused_token_ends_it_with_the_code_that_asks_for_a_restart(make_line: Callable[..., Line]) -> None:
    line = make_line(start=False)
    line.environment["SVCUID"] = "AAAAAAAAAAAAAAAA"
    done = line.run()
    assert done.returncode == 75, done.stdout


def test_health_lists_the_models_features_once_with_the_model(make_line: Callable[..., Line]) -> None:
    line = make_line(start=False)
    listed = line.watch("ml/inference/health")
    line.start()
    first = listed.until(lambda health: "features" in health)
    assert (first["part"], first["parts"]) == (1, 1)
    assert [feature["name"] for feature in first["features"]] == list(NORMAL)
    line.configure(HealthIntervalSeconds=1)
    later = [listed.until(lambda health: health["state"] == "running") for _ in range(2)]
    assert not any("features" in health for health in later)
