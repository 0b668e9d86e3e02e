"""From tags on a broker to an alarm on the same broker, through the bridge, a nucleus stand-in and the inference component."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from greengrass_sandbox import BackgroundNucleus
from support.bridge import Authority, Bridge, Broker, tls_of
from support.clocks import until
from support.line import NAME, Line, own_recipe
from support.models import ABNORMAL, NORMAL, over_time


def test_tags_become_readings_become_an_alarm_that_is_back_on_the_broker(  # noqa: PLR0917 - fixtures
    start: Callable[..., Bridge],
    broker: Broker,
    authority: Authority,
    nucleus: BackgroundNucleus,
    model_directory: Path,
    tmp_path: Path,
) -> None:
    work = tmp_path / "component"
    work.mkdir()
    model = over_time(Path(shutil.copytree(model_directory, tmp_path / "model")), usual=False)
    line = Line(nucleus, model, work, os.environ | nucleus.credentials(NAME, own_recipe(tmp_path)))
    line.start(AlarmSmoothingSeconds=1)
    source = {
        "type": "mqtt", "name": "broker", "host": "127.0.0.1", "port": broker.tls_port, "tls": tls_of(authority),
        "read": [{"topic": "line/{machine}/{tag}", "value": "v", "time": "t"}],
    }  # fmt: skip
    topics = {"result_topic": "scada/{equipmentId}/result", "alarm_topic": "scada/{equipmentId}/alarm"}
    bridge = start(
        {
            "features": {feature: {"tags": feature.lower()} for feature in NORMAL},
            "assemble": {"when": "all_new"},
            "sources": [source],
            "machine_name": "cylinder-{machine}",
            "outputs": [{"type": "mqtt", "source": "broker", **topics}],
        }
    )
    heard: dict[str, list[dict[str, Any]]] = {"result": [], "alarm": []}

    def hear(_client: Any, _data: Any, message: Any) -> None:
        prefix, _, kind = message.topic.rpartition("/")
        assert prefix == "scada/cylinder-7"
        heard[kind].append(json.loads(message.payload))

    client = broker.client()
    client.on_message = hear
    client.subscribe("scada/#", 1)
    bridge.until(
        lambda _: {"ml/inference/result", "ml/inference/alarm"} <= {each.resource for each in nucleus.subscriptions}
    )
    began = time.time() - 3000  # a machine is known after ten minutes

    def answered(count: int) -> bool:
        return len(heard["result"]) >= count

    for number, reading in enumerate((NORMAL, NORMAL, ABNORMAL, ABNORMAL)):
        for feature, value in reading.items():
            client.publish(f"line/7/{feature.lower()}", json.dumps({"v": value, "t": began + 700 * number}), qos=1)
        until(partial(answered, number + 1))
    assert [result["abnormal"] for result in heard["result"]] == [False, False, True, True]
    until(lambda: heard["alarm"])
    alarm = heard["alarm"][0]
    assert (alarm["event"], alarm["kind"], alarm["equipment_id"]) == ("opened", "equipment", "cylinder-7")
    accounts = bridge.stop()
    assert (accounts["values"]["assembled"], accounts["readings"]["published"]) == (24, 4)
    client.disconnect()
    client.loop_stop()
    line.finish()
    line.end()
