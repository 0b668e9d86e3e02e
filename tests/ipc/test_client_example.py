"""The client that users copy: in a process and under an access control of its own, beside others that ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox.background import BackgroundNucleus
from support.line import ROOT, SECONDS, Line
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
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
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
    answer = asker.ask(batch)
    assert [item["equipment_id"][:9] for item in answer] == [f"press-{number:03}" for number in range(24)]
    assert ["score" in item for item in answer] == [number != 5 for number in range(24)]


def test_a_batch_that_is_too_large_for_nucleus_lite_is_not_sent(line: Line, asker: Asker) -> None:
    assert asker.ask([NORMAL] * 100) is None
    code, errors = asker.end()
    assert code == 1
    assert "ValueError" in errors.splitlines()[-1]
    assert "nucleus lite carries" in errors


def test_a_lost_connection_is_an_error_at_the_next_question(line: Line, asker: Asker) -> None:
    assert "score" in asker.ask(NORMAL)
    line.nucleus.faults.drop_connections("com.example.Asks")
    assert asker.ask(NORMAL) is None
    code, errors = asker.end()
    assert code == 1
    assert errors.splitlines()[-1].startswith("ConnectionError: the nucleus did not take the question")
