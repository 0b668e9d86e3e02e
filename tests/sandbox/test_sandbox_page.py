"""The examples of the page in the documentation run as they stand there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from greengrass_sandbox.__main__ import _FAULTS
from greengrass_sandbox.faults import Faults

PAGE = Path(__file__).parents[2] / "docs" / "sandbox.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

COMPONENT = """
import threading
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

client = GreengrassCoreIPCClientV2()
def publish(topic):
    message = model.PublishMessage(binary_message=model.BinaryMessage(message=b"{}"))
    client.publish_to_topic(topic=topic, publish_message=message)
client.subscribe_to_topic(topic="ml/inference/request", on_stream_event=lambda _: publish("ml/inference/result"))
publish("ml/inference/health")
threading.Event().wait()
"""


@pytest.fixture
def build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A component in the current folder that answers the first example."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "greengrass-build"
    (folder / "recipes").mkdir(parents=True)
    script = tmp_path / "component.py"
    script.write_text(COMPONENT)
    (folder / "recipes" / "recipe.yaml").write_text(
        "ComponentName: com.example.Test\nComponentVersion: 1.0.0\nComponentConfiguration: {DefaultConfiguration: {accessControl: "
        "{aws.greengrass.ipc.pubsub: {p: {operations: ['*'], resources: ['*']}}}}}\n"
        f'Manifests: [{{Platform: {{os: linux, runtime: "*"}}, Lifecycle: {{run: "exec {sys.executable} {script}"}}}}]\n'
    )
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_pages_examples_run(
    number: int, tmp_path: Path, build_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(EXAMPLES[number].replace("/tmp/gg", str(tmp_path / "gg")), f"{PAGE.name}:{number}", "exec"), {})
    assert capsys.readouterr().out


def test_the_page_names_every_fault_verb() -> None:
    verbs = {name for name in vars(Faults) if not name.startswith("_")} - {"attach"}
    assert {name.replace("-", "_") for name in _FAULTS} == verbs
    assert [verb for verb in sorted(verbs) if f"`{verb}(" not in PAGE.read_text()] == []
