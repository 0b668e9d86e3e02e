"""The client that users copy: in a process and under an access control of its own, beside others that ask."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from greengrass_sandbox import BackgroundNucleus
from support.clocks import SECONDS
from support.line import ROOT, Line
from support.models import ABNORMAL, NORMAL

CLIENT = ROOT / "examples" / "client" / "inference_client.py"
ACCESS = {
    "aws.greengrass.ipc.pubsub": {
        "com.example.Asks:pubsub:1": {
            "operations": ["aws.greengrass#PublishToTopic"],
            "resources": ["ml/inference/request"],
        },
        "com.example.Asks:pubsub:2": {
            "operations": ["aws.greengrass#SubscribeToTopic"],
            "resources": ["ml/inference/result", "ml/inference/error"],
        },
    }
}


class Asker:
    """The example as a program, which answers line by line."""

    def __init__(self, nucleus: BackgroundNucleus, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CLIENT)],
            env=os.environ | nucleus.credentials("com.example.Asks", ACCESS),
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: Any) -> Any:
        return self.say(json.dumps(question))

    def say(self, text: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline() or "null")

    def end(self) -> tuple[int, str]:
        _, errors = self._process.communicate(timeout=SECONDS)
        return self._process.returncode, errors


@pytest.fixture
def asker(line: Line, tmp_path: Path) -> Iterator[Asker]:
    asker = Asker(line.nucleus, tmp_path)
    yield asker
    asker._process.kill()
    asker._process.communicate()


def test_it_gets_its_own_answers_though_others_ask_and_say_what_is_no_answer(line: Line, asker: Asker) -> None:
    assert asker.ask(NORMAL | {"equipment_id": "press-1"})["equipment_id"] == "press-1"
    for noise in (b"\xff", b"[1]", {"correlation_id": "a"}, b'{"correlation_id": ["a"]}'):
        line.nucleus.publish("ml/inference/result", noise)
        line.nucleus.publish("ml/inference/error", noise)
    line.send_json(NORMAL | {"equipment_id": "somebody's"})
    answer = asker.ask(ABNORMAL | {"equipment_id": "press-2"})
    assert (answer["equipment_id"], answer["abnormal"]) == ("press-2", True)
    assert asker.end() == (0, "")


def test_a_refusal_names_the_field(asker: Asker) -> None:
    refusal = asker.ask(NORMAL | {"wRMSCurrent": "12"})
    assert refusal == {
        "rejected": [{"loc": ["wRMSCurrent"], "type": "float_type", "msg": "Input should be a valid number"}]
    }
    assert "score" in asker.ask(NORMAL)


def test_a_batch_whose_answer_comes_in_parts_is_put_together_in_its_order(asker: Asker) -> None:
    batch: list[dict[str, Any]] = [ABNORMAL | {"equipment_id": f"press-{number:03}" + "x" * 60} for number in range(24)]
    del batch[5]["wRMSCurrent"]
    answer = asker.ask({"readings": batch, "correlation_id": "another's"})
    assert asker.ask(batch) == [item | {"timestamp": ANY} if "score" in item else item for item in answer]
    assert [item["equipment_id"][:9] for item in answer] == [f"press-{number:03}" for number in range(24)]
    assert ["score" in item for item in answer] == [number != 5 for number in range(24)]


def test_what_cannot_be_asked_is_said_and_the_next_question_is_answered(asker: Asker) -> None:
    assert "nucleus lite carries" in asker.ask([NORMAL] * 100)["error"]
    assert "Out of range float" in asker.ask(NORMAL | {"wRMSCurrent": float("nan")})["error"]
    assert "Expecting" in asker.say("?")["error"]
    assert "mapping" in asker.ask(5)["error"]
    assert asker.ask([]) == []
    assert "score" in asker.ask(NORMAL)
    assert asker.end() == (0, "")


def test_a_lost_connection_is_an_error_at_the_next_question(line: Line, asker: Asker) -> None:
    assert "score" in asker.ask(NORMAL)
    line.nucleus.faults.drop_connections("com.example.Asks")
    assert asker.ask(NORMAL) is None
    code, errors = asker.end()
    assert code == 1
    assert errors.startswith("the nucleus cannot be asked: ")
    assert len(errors.splitlines()) == 1


def test_outside_greengrass_it_says_so_in_a_line() -> None:
    greengrass = ("SVCUID", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT")
    environment = {name: value for name, value in os.environ.items() if name not in greengrass}
    done = subprocess.run([sys.executable, str(CLIENT)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"not started by Greengrass: {greengrass[1]} is not set\n"


@pytest.fixture
def client(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example within this process."""
    for name, value in line.nucleus.credentials("com.example.Asks", ACCESS).items():
        monkeypatch.setenv(name, value)
    client = runpy.run_path(str(CLIENT))["InferenceClient"]()
    yield client
    client.close()


def test_after_a_question_without_any_answer_it_subscribes_again(line: Line, client: Any) -> None:
    assert "score" in client.predict(NORMAL, SECONDS)
    assert line.nucleus.faults.forget_streams("com.example.Asks", "SubscribeToTopic") == 2
    with pytest.raises(TimeoutError, match="inference component"):
        client.predict(NORMAL, 0.2)
    assert "score" in client.predict(NORMAL, SECONDS)
    assert [item["index"] for item in client.predict_batch([NORMAL, ABNORMAL], SECONDS)] == [0, 1]


def test_it_leaves_no_subscription_behind_while_nobody_answers(line: Line, client: Any) -> None:
    line.kill()
    for _ in range(3):
        with pytest.raises(TimeoutError, match="inference component"):
            client.predict(NORMAL, 0.1)
    assert line.nucleus.faults.forget_streams("com.example.Asks", "SubscribeToTopic") == 2


def test_a_nucleus_that_does_not_answer_costs_no_more_than_the_time_for_the_question(line: Line, client: Any) -> None:
    line.nucleus.faults.answer_never("PublishToTopic", "com.example.Asks", times=1)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="nucleus"):
        client.predict(NORMAL, 0.2)
    assert time.monotonic() - began < 5
    assert "score" in client.predict(NORMAL, SECONDS)
