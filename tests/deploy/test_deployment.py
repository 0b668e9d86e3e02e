"""What the build made, deployed to the nucleus stand-in: installed and run as the recipes say, updated, and refused when bad.

The first deployment fetches the locked packages from the package index that pip is set to. The devices of the tests then
have that environment in their work directories already, as a device has that was deployed to before.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from greengrass_sandbox import BackgroundComponent, BackgroundNucleus, DeploymentError, StateChange

Profile = Literal["classic", "lite"]
Build = Callable[..., Path]
MakeCheckout = Callable[[], Path]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

INFERENCE, SIMULATOR, MODEL = (
    f"com.example.{name}" for name in ("MLInference", "SensorSimulator", "MLInference.Model")
)
READING = {
    "rVibration_Temp": 60.0,
    "rVibration_Z_RMS_Velocity": 80.0,
    "rVibration_X_RMS_Velocity": 50.0,
    "wRMSCurrent": 100.0,
    "wCurrentLoad": 100.0,
    "wEncoderVelocity": 25.0,
    "sDateTime": "2022-07-06 22:56:30.503",
}
VERSION = "7.8.9"
DEADLINE = 120.0

# In one worker of a parallel run, so that the environment is built once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("device")]


@pytest.fixture(scope="session")
def first_device(built: dict[str, Path], environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a device on which each component was deployed once, from nothing."""
    root = tmp_path_factory.mktemp("first") / "greengrass"
    with BackgroundNucleus(root, "lite", environment=environment) as nucleus:
        for name, component in ((INFERENCE, "inference"), (SIMULATOR, "simulator")):
            try:
                nucleus.deploy(built[component], local=True)
            except DeploymentError:
                log = (root / "logs" / f"{name}.log").read_text()
                if "the package index cannot be reached" in log:
                    pytest.skip("no package index to install from")
                raise AssertionError(log) from None
    return root


@pytest.fixture(scope="module", params=["lite", "classic"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def device(
    profile: Profile, first_device: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackgroundNucleus]:
    """A device that has the environments at first, and then what the tests deployed one after another."""
    root = tmp_path_factory.mktemp("device") / "a root with spaces"
    for built in first_device.glob("work/*/runtime/venv-*"):
        link = root / built.relative_to(first_device)
        link.parent.mkdir(parents=True)
        link.symlink_to(built)
    with BackgroundNucleus(root, profile, environment=environment) as nucleus:
        yield nucleus


@pytest.fixture(scope="module")
def good(make_checkout: MakeCheckout, build: Build) -> Path:
    """A version that works, with a number of its own."""
    return build(make_checkout(), version=VERSION)


@pytest.fixture
def component(device: BackgroundNucleus, good: Path) -> BackgroundComponent:
    """The component, running and scoring: as the test before left it, or deployed anew."""
    if (INFERENCE, VERSION) not in [(each.name, each.version) for each in device.components]:
        device.deploy(good)
    score(device)
    return device.component(INFERENCE)


def score(nucleus: BackgroundNucleus) -> dict[str, Any]:
    """Sends a reading until a result for it comes: a component that just started may not listen yet."""
    results = nucleus.watch("ml/inference/result")
    with contextlib.closing(results):
        deadline = time.monotonic() + DEADLINE
        for number in range(1_000):
            nucleus.publish("ml/inference/request", json.dumps(READING | {"correlation_id": number}).encode())
            with contextlib.suppress(TimeoutError):
                while True:
                    result: dict[str, Any] = json.loads(results.get(0.3).payload)
                    if result["correlation_id"] == number:
                        return result
            if time.monotonic() > deadline:
                break
    raise AssertionError(f"no result within {DEADLINE} s:\n{nucleus.component(INFERENCE).log_path.read_text()}")


def score_with(nucleus: BackgroundNucleus, version: str) -> None:
    """Sends readings until the model of that version scores them."""
    deadline = time.monotonic() + DEADLINE
    while (found := score(nucleus)["model"]["version"]) != version:
        assert time.monotonic() < deadline, f"model {found} goes on scoring"


def break_module(checkout: Path, place: str) -> None:
    """Makes one module of the component no Python."""
    with (checkout / "src" / "ml_inference" / place).open("a") as file:
        file.write("\ndef broken(:\n")


def test_the_first_deployment_needs_no_manual_step_and_at_most_300_mib(first_device: Path) -> None:
    log = (first_device / "logs" / f"{INFERENCE}.log").read_text()
    assert "building the environment" in log
    assert "is ready: 6 features" in log
    size = sum(path.lstat().st_blocks * 512 for path in (first_device / "work" / INFERENCE).rglob("*"))
    assert size < 300 * 1024 * 1024


@pytest.mark.parametrize(
    ("profile", "local"), [("lite", True), ("lite", False), ("classic", False)], indirect=["profile"]
)
def test_six_sensors_go_in_and_predictions_come_out_for_every_machine(
    device: BackgroundNucleus, good: Path, built: dict[str, Path], local: bool
) -> None:
    for earlier in device.components:
        device.remove(earlier.name)
    results, cloud = device.watch("ml/inference/result"), device.iot_core.watch("greengrass/ml/inference/+")
    with contextlib.closing(results), contextlib.closing(cloud):
        component = device.deploy(good, local=local)
        device.deploy(built["simulator"], local=local, configuration={"merge": {"Machines": 3, "RateHz": 5}})
        machines: set[str] = set()
        deadline = time.monotonic() + DEADLINE
        while len(machines) < 3:
            result = json.loads(results.get(DEADLINE).payload)
            assert 0 <= result["score"] <= 1
            assert result["model"] == {"name": "small", "version": "1.0.0"}
            machines.add(result["equipment_id"])
            assert time.monotonic() < deadline
        uploaded = cloud.get(DEADLINE)
    device.remove(SIMULATOR)
    assert uploaded.topic == "greengrass/ml/inference/sandbox-core"
    assert json.loads(uploaded.payload)["thing_name"] == "sandbox-core"
    assert component.state == "RUNNING"
    assert "building the environment" not in component.log_path.read_text()  # it took over the one it found


def test_health_and_log_say_the_version_that_is_deployed(
    device: BackgroundNucleus, component: BackgroundComponent
) -> None:
    with contextlib.closing(device.watch("ml/inference/health")) as health:
        component.restart()
        assert json.loads(health.get(DEADLINE).payload)["component_version"] == VERSION
    assert f" version {VERSION}: ml-inference " in component.log_path.read_text()


def test_a_version_with_a_broken_model_is_refused_and_the_one_before_goes_on(
    device: BackgroundNucleus, component: BackgroundComponent, make_checkout: MakeCheckout, build: Build
) -> None:
    copy = make_checkout()
    booster = copy / "artifacts" / "model" / "booster.ubj"
    data = bytearray(booster.read_bytes())
    data[len(data) // 2] ^= 1
    booster.write_bytes(data)
    with pytest.raises(DeploymentError, match="install failed 3 times"):
        device.deploy(build(copy, version="8.1.0"))
    assert "ml_inference verify: artifacts/model: not usable: checksum: booster.ubj" in component.log_path.read_text()
    component.wait_for("RUNNING", DEADLINE)
    assert component.version == VERSION
    assert score(device)["model"]["version"] == "1.0.0"


@pytest.mark.parametrize("place", ["serving/component.py", "serving/worker.py", "cli/verify.py"])
def test_the_gate_fails_for_a_module_that_cannot_be_imported(
    make_checkout: MakeCheckout, command: Command, place: str
) -> None:
    copy = make_checkout()
    break_module(copy, place)
    done = command(
        *(sys.executable, "-m", "ml_inference", "verify", "--component", "artifacts/model"),
        cwd=copy,
        variables={"PYTHONPATH": str(copy / "src")},
    )
    assert done.returncode == 1
    assert "SyntaxError: invalid syntax" in done.stderr


def test_a_forgotten_token_costs_lite_no_start(
    device: BackgroundNucleus, component: BackgroundComponent, profile: Profile
) -> None:
    pid = component.pid
    device.faults.rotate_token(INFERENCE)
    device.faults.drop_connections(INFERENCE)
    assert score(device)["model"]["version"] == "1.0.0"
    assert (component.pid == pid) == (profile == "lite")  # classic: exit 75 and a start with the new token
    assert ("connected as com.example.MLInference" in component.log_path.read_text()) == (profile == "lite")


@pytest.mark.parametrize("profile", ["lite"], indirect=True)
def test_a_version_that_exits_at_start_is_broken_after_three_failures_and_the_one_before_can_come_back(
    device: BackgroundNucleus, component: BackgroundComponent, good: Path, make_checkout: MakeCheckout, build: Build
) -> None:
    copy = make_checkout()
    with (copy / "src" / "ml_inference" / "cli" / "run.py").open("a") as file:
        file.write("\n\ndef run(arguments):\n    raise SystemExit(3)\n")
    failing = build(copy, version="8.3.0")
    states: list[str] = []
    with contextlib.closing(device.events()) as events:
        device.deploy(failing)
        while "BROKEN" not in states:
            event = events.get(DEADLINE)
            if isinstance(event, StateChange):
                states.append(event.state)
    assert states.count("ERRORED") == 3
    assert component.version == "8.3.0"
    device.deploy(good)
    assert component.version == VERSION
    assert score(device)["model"]["version"] == "1.0.0"


def test_a_model_is_rolled_out_without_code_and_a_damaged_one_is_refused(
    device: BackgroundNucleus, component: BackgroundComponent, make_checkout: MakeCheckout, build: Build
) -> None:
    def model_component(version: str, *, damaged: bool = False) -> Path:
        copy = make_checkout()
        manifest = copy / "artifacts" / "model" / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": version}))
        if damaged:
            (manifest.parent / "booster.ubj").write_bytes(b"damaged")
        return build(copy / "components" / "model", version=version)

    device.deploy(model_component("2.0.0")).wait_for("FINISHED", DEADLINE)
    work = device.component(MODEL).work_path
    device.update_configuration(INFERENCE, {"ModelDirectory": str(work / "current")})
    score_with(device, "2.0.0")
    pid = component.pid
    device.deploy(model_component("3.0.0")).wait_for("FINISHED", DEADLINE)
    score_with(device, "3.0.0")
    with pytest.raises(DeploymentError):
        device.deploy(model_component("4.0.0", damaged=True))
    assert "checksum" in device.component(MODEL).log_path.read_text()
    assert json.loads((work / "current" / "manifest.json").read_text())["version"] == "3.0.0"
    assert score(device)["model"]["version"] == "3.0.0"
    assert component.pid == pid
