"""The command, driven as another program drives it: JSON lines out, verbs in."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from shlex import quote
from typing import Any

import psutil
import pytest

from greengrass_sandbox.__main__ import main

NAME = "com.example.Worker"
DEADLINE = 120.0


class Sandbox:
    """The running command."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "greengrass_sandbox", "--json", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self, event: str, **fields: Any) -> dict[str, Any]:
        """Skips lines up to one with this event and these fields."""
        while True:
            line: dict[str, Any] = json.loads(self._lines.get(timeout=DEADLINE))
            if line["event"] == event and all(line.get(key) == value for key, value in fields.items()):
                return line

    def close(self) -> None:
        self.process.terminate()  # not SIGKILL: that would leave its components behind
        self.process.wait(DEADLINE)
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@pytest.fixture
def sandbox() -> Iterator[Callable[..., Sandbox]]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> Sandbox:
            started = Sandbox(*arguments)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture
def recipe(component_files: Callable[..., Path]) -> Path:
    run = "'echo \"say {configuration:/word}\"; exec sleep 60'"
    return component_files(run=run, configuration="{word: hello}")


def test_the_command_deploys_tells_and_obeys(sandbox: Callable[..., Sandbox], recipe: Path) -> None:
    running = sandbox(
        "--deploy", str(recipe), "--merge", f'{NAME}={{"word": "hi"}}', "--watch", "in/#", "--watch-cloud", "#"
    )
    for state in ("INSTALLED", "STARTING", "RUNNING"):
        running.hear("state", component=NAME, state=state)
    ready = running.hear("ready", profile="lite")
    assert Path(ready["socket"]).is_socket()
    running.say('publish in/a {"x": 1}')
    local = running.hear("local", topic="in/a")
    assert (local["payload"], local["kind"], local["component"]) == ({"x": 1}, "json", None)
    running.say(f'configure {NAME} {{"word": "bye"}}')
    assert running.hear("log", component=NAME, line="say bye")
    running.say(f"stop {NAME}")
    running.hear("state", component=NAME, state="FINISHED")
    running.say(f"start {NAME}")
    running.hear("state", component=NAME, state="RUNNING")
    running.say("quit")
    running.hear("state", component=NAME, state="FINISHED")
    assert running.process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("dance", "no such verb"),
        ("stop com.example.None", "no such component, there are none"),
        ("restart", "no such component, there are none"),
        ('configure com.example.None {"a": 1}', "no such component, there are none"),
        ("configure com.example.None a=1", "expected configure NAME JSON, such as "),
        ("publish in {", "(Expecting"),
        ("publish foo", "expected publish TOPIC JSON, such as "),
        ("cloud cuckoo", "no such verb"),
    ],
)
def test_a_verb_that_cannot_be_carried_out_is_an_error_line(
    sandbox: Callable[..., Sandbox], line: str, reason: str
) -> None:
    running = sandbox("--profile", "classic", "--watch", "#")
    running.hear("ready", profile="classic")
    running.say(line)
    assert reason in running.hear("error")["message"]
    running.say("publish still/alive 1")
    running.hear("local", topic="still/alive", payload=1)


@pytest.mark.parametrize("profile", ["lite", "classic"])
def test_a_corrected_value_starts_a_broken_component_as_a_deployment_does(
    sandbox: Callable[..., Sandbox], component_files: Callable[..., Path], profile: str
) -> None:
    # On classic the value must not stand in the script's text, which alone would start it.
    script = "'test -f good && exec sleep 60; exit 1'"
    running = sandbox("--profile", profile, "--deploy", str(component_files(run=script, configuration="{a: 1}")))
    root = Path(running.hear("ready")["root"])
    running.hear("state", component=NAME, state="BROKEN")
    (root / "work" / NAME / "good").touch()
    running.say(f'configure {NAME} {{"a": 2}}')
    running.hear("state", component=NAME, state="RUNNING")


def test_it_explains_itself_without_pyyaml_and_says_that_a_recipe_needs_it(recipe: Path) -> None:
    code = "import sys; sys.modules['yaml'] = None; from greengrass_sandbox.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [sys.executable, "-c", code, "--deploy", recipe], capture_output=True, text=True, check=False, timeout=DEADLINE
    )
    assert done.returncode == 1
    assert "a recipe in YAML needs yaml: pip install pyyaml" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_of_input_ends_nothing_and_a_signal_ends_everything(
    sandbox: Callable[..., Sandbox], recipe: Path, number: signal.Signals
) -> None:
    running = sandbox("--deploy", str(recipe))
    running.hear("ready")
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert children
    assert running.process.stdin
    running.process.stdin.close()
    running.process.send_signal(number)
    running.hear("state", state="FINISHED")
    assert running.process.wait(DEADLINE) == 0
    assert not [child for child in children if child.is_running()]


def test_a_signal_during_an_install_ends_the_install(
    sandbox: Callable[..., Sandbox], component_files: Callable[..., Path]
) -> None:
    running = sandbox("--deploy", str(component_files(install="echo begun; exec sleep 60", run="exec sleep 60")))
    running.hear("log", line="begun")
    children = psutil.Process(running.process.pid).children(recursive=True)
    running.process.terminate()
    assert running.process.wait(DEADLINE) == 0
    assert not [child for child in children if child.is_running()]


def test_a_deployment_that_fails_ends_the_command_with_one(
    sandbox: Callable[..., Sandbox], component_files: Callable[..., Path]
) -> None:
    running = sandbox("--profile", "classic", "--deploy", str(component_files(install="exit 1", run="exec sleep 60")))
    assert "install failed" in running.hear("error")["message"]
    assert running.process.wait(DEADLINE) == 1


def test_payloads_that_are_no_json_come_in_base64(
    sandbox: Callable[..., Sandbox], component_files: Callable[..., Path]
) -> None:
    code = (
        "from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2 as C; C().publish_to_iot_core("
        'topic_name="up", qos="1", payload=bytes([0, 255]))'
    )
    script = component_files().with_name("publish.py")
    script.write_text(code)
    access = "{accessControl: {aws.greengrass.ipc.mqttproxy: {p: {operations: ['*'], resources: ['*']}}}}"
    running = sandbox(
        "--deploy",
        str(component_files(run=f"exec {quote(sys.executable)} {quote(str(script))}", configuration=access)),
        "--watch-cloud",
        "#",
    )
    cloud = running.hear("cloud", topic="up")
    assert (cloud["payload"], cloud["encoding"], cloud["qos"], cloud["component"]) == ("AP8=", "base64", 1, NAME)


def test_without_json_it_prints_lines_for_people(component_files: Callable[..., Path]) -> None:
    recipe = component_files(install="echo ready to go", run="exec sleep 60")
    command = [sys.executable, "-m", "greengrass_sandbox", "--deploy", str(recipe), "--watch", "#"]
    asked = subprocess.run(
        command, input='publish in {"x": 1}\nquit\n', capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line.partition(" ")[2] for line in asked.stdout.splitlines()]
    assert f"state {NAME} RUNNING" in lines
    assert f"log {NAME} ready to go" in lines
    assert 'local in {"x": 1}' in lines


def test_a_merge_that_is_no_json_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"--merge com\.example\.A"):
        main(["--merge", "com.example.A={"])


def test_fault_verbs_are_carried_out(sandbox: Callable[..., Sandbox], component_files: Callable[..., Path]) -> None:
    script = component_files().with_name("ask.py")
    script.write_text(
        "from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2\n"
        "client = GreengrassCoreIPCClientV2()\n"
        "print('connected', flush=True)\n"
        "while True: client.get_configuration(key_path=[])\n"
    )
    running = sandbox("--deploy", str(component_files(run=f"exec {quote(sys.executable)} {quote(str(script))}")))
    running.hear("log", line="connected")
    running.say("fault refuse-tokens times=1")
    running.say(f"fault drop-connections component={NAME}")
    running.hear("state", component=NAME, state="ERRORED")  # the lost connection
    running.hear("state", component=NAME, state="ERRORED")  # the refused token
    running.hear("log", line="connected")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fault dance", "no such fault"),
        ("fault drop-connections speed=2", "takes no speed"),
        ("fault answer-late", "needs seconds=NUMBER"),
        ("fault answer-never times=often", "needs times=NUMBER"),
        ("fault spool-full", "no spool"),
    ],
)
def test_a_fault_verb_that_cannot_be_is_an_error_line(sandbox: Callable[..., Sandbox], line: str, reason: str) -> None:
    running = sandbox()
    running.hear("ready")
    running.say(line)
    assert reason in running.hear("error")["message"]


def test_verbs_of_greengrass_cli_are_obeyed(
    sandbox: Callable[..., Sandbox], component_files: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = component_files(run="'echo hello; exec sleep 60'", configuration="{a: 1}")
    running = sandbox("--profile", "classic")
    running.hear("ready")
    change = shlex.quote(json.dumps({NAME: {"MERGE": {"a": 2}}}))
    running.say(f"deployment create --recipeDir {recipe.parent} --merge {NAME}=1.0.0 --update-config {change}")
    identity = running.hear("deployment", state="QUEUED")["id"]
    running.hear("state", component=NAME, state="RUNNING")
    running.hear("log", line="hello")
    while True:
        running.say(f"deployment status {identity}")
        if running.hear("deployment", id=identity)["state"] == "SUCCEEDED":
            break
    running.say("deployment list")
    assert running.hear("deployment")["id"] == identity
    running.say("component list")
    assert running.hear("component", component=NAME)["version"] == "1.0.0"
    running.say(f"component details {NAME}")
    assert running.hear("component", component=NAME)["configuration"] == {"a": 2}
    running.say(f"logs {NAME} 1")
    assert running.hear("log", component=NAME)["line"] == "hello"
    running.say(f"component restart {NAME}")
    running.hear("state", component=NAME, state="STOPPING")
    running.hear("state", component=NAME, state="RUNNING")
    running.say("nucleus restart")
    running.hear("state", component=NAME, state="STOPPING")
    running.hear("state", component=NAME, state="RUNNING")
    for wrong in (
        "component",
        "component dance",
        "deployment",
        "deployment create --colour red",
        "nucleus",
        "logs",
        "dance now",
    ):
        running.say(wrong)
        assert wrong in running.hear("error")["message"]
