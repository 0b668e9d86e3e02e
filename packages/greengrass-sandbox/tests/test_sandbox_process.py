"""Components as processes: installed, started, failing, stopped. Every process here is real."""

from __future__ import annotations

import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from greengrass_sandbox import BackgroundNucleus, DeploymentError, LogLine, StateChange

NAME = "com.example.Worker"
Files = Callable[..., Path]


def wait_until_gone(pid: int, timeout: float = 10) -> None:
    """Waits until a process is gone; a zombie counts as gone."""
    deadline = time.monotonic() + timeout
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def states(nucleus: BackgroundNucleus, *, until: str) -> list[str]:
    """Collects a component's states from now until one of them."""
    tap, seen = nucleus.events(), [""]
    while seen[-1] != until:
        event = tap.get()
        if isinstance(event, StateChange):
            seen.append(event.state)
    return seen[1:]


def test_a_component_is_installed_and_run_with_its_environment(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    run = "'env > environment; pwd; echo \"{configuration:/greeting}\"; exec sleep 60'"
    events = nucleus.events()
    component = nucleus.deploy(
        component_files(install="echo installed > mark", run=run, configuration="{greeting: hello}"),
        configuration={"merge": {"greeting": "hi"}},
    )
    assert component.state == "RUNNING"
    lines: list[str] = []
    while "hi" not in lines:
        event = events.get()
        if isinstance(event, LogLine):
            lines.append(event.line)
    assert lines == [str(component.work_path), "hi"]
    assert (component.work_path / "mark").read_text() == "installed\n"
    assert component.log_path.read_text() == f"{component.work_path}\nhi\n"
    environment = dict(
        line.split("=", 1) for line in (component.work_path / "environment").read_text().splitlines() if "=" in line
    )
    expected = nucleus.credentials(NAME)
    for key in ("SVCUID", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "AWS_IOT_THING_NAME", "GGC_VERSION"):
        assert environment[key] == expected[key]


def test_artifacts_are_copied_and_unpacked(nucleus: BackgroundNucleus, tmp_path: Path) -> None:
    build = tmp_path / "greengrass-build"
    packed = build / "artifacts" / NAME / "1.0.0"
    packed.mkdir(parents=True)
    with zipfile.ZipFile(packed / "code.zip", "w") as archive:
        archive.writestr("folder/main.txt", "unpacked")
    (build / "recipes").mkdir()
    (build / "recipes" / "recipe.yaml").write_text(
        f"ComponentName: {NAME}\nComponentVersion: 1.0.0\nManifests:\n"
        '  - Platform: {os: linux, runtime: "*"}\n'
        f"    Artifacts: [{{Uri: 's3://BUCKET_NAME/{NAME}/1.0.0/code.zip', Unarchive: ZIP}}]\n"
        '    Lifecycle: {run: "cat {artifacts:decompressedPath}/code/folder/main.txt; ls {artifacts:path}"}\n'
    )
    component = nucleus.deploy(build)
    component.wait_for("FINISHED")
    assert component.log_path.read_text() == "unpackedcode.zip\n"
    (packed / "code.zip").unlink()
    with pytest.raises(DeploymentError, match=r"code\.zip"):
        nucleus.deploy(build)


@pytest.mark.parametrize(("profile", "unpacked"), [("lite", False), ("classic", True)])
def test_a_local_deployment_leaves_archives_packed_on_lite(
    nucleus: BackgroundNucleus, tmp_path: Path, unpacked: bool
) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("main.txt", "")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"ComponentName: {NAME}\nComponentVersion: 1.0.0\nManifests:\n"
        '  - Platform: {os: linux, runtime: "*"}\n'
        "    Artifacts: [{Uri: 's3://b/code.zip', Unarchive: ZIP}]\n"
        '    Lifecycle: {run: "ls {artifacts:decompressedPath}"}\n'
    )
    component = nucleus.deploy(recipe, tmp_path, local=True)
    component.wait_for("FINISHED")
    assert component.log_path.read_text() == ("code\n" if unpacked else "")


def test_a_script_that_ends_well_is_finished_and_not_started_again(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    component = nucleus.deploy(component_files(run="echo once"))
    component.wait_for("FINISHED")
    assert component.log_path.read_text() == "once\n"
    assert component.pid is None


def test_three_failures_break_a_component_until_the_next_deployment(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    events = nucleus.events()
    component = nucleus.deploy(component_files(run="exit 7"))
    component.wait_for("BROKEN")
    seen = ["INSTALLED"]
    while seen[-1] != "BROKEN":
        event = events.get()
        if isinstance(event, StateChange):
            seen.append(event.state)
    assert [state for state in seen if state == "ERRORED"] == ["ERRORED"] * 3
    assert nucleus.deploy(component_files(version="1.0.1", run="exec sleep 60")).state == "RUNNING"


def test_a_component_that_fails_twice_runs_on(nucleus: BackgroundNucleus, component_files: Files) -> None:
    script = "'echo x >> tries; test $(wc -l < tries) -ge 3 || exit 1; echo up; exec sleep 60'"
    events = nucleus.events()
    component = nucleus.deploy(component_files(run=script))
    while True:
        event = events.get()
        if isinstance(event, LogLine) and event.line == "up":
            break
    assert component.state == "RUNNING"


def test_an_install_that_fails_keeps_the_old_version_running(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    component = nucleus.deploy(component_files(run="exec sleep 60"))
    with pytest.raises(DeploymentError, match="install failed 3 times"):
        nucleus.deploy(component_files(version="2.0.0", install="'echo try >> tries; exit 1'", run="exec sleep 60"))
    assert (component.state, component.version) == ("RUNNING", "1.0.0")
    assert psutil.pid_exists(component.pid or 0)
    assert (component.work_path / "tries").read_text() == "try\n" * 3


def test_lite_installs_beside_the_running_version_and_classic_stops_it_first(
    nucleus: BackgroundNucleus, component_files: Files, profile: str
) -> None:
    component = nucleus.deploy(component_files(run="echo $$ > pid; exec sleep 60"))
    old = component.pid
    alive = f"'if kill -0 {old} 2>/dev/null; then echo yes; else echo no; fi > alive'"
    nucleus.deploy(component_files(version="2.0.0", install=alive, run="exec sleep 60"))
    assert (component.work_path / "alive").read_text().strip() == ("yes" if profile == "lite" else "no")
    assert component.version == "2.0.0"
    wait_until_gone(old or 0)


def test_an_install_that_takes_too_long_is_killed(nucleus: BackgroundNucleus, component_files: Files) -> None:
    install = "{Script: 'echo $$ >> pids; exec sleep 60', Timeout: 0.2}"
    with pytest.raises(DeploymentError, match="install failed"):
        nucleus.deploy(component_files(install=install, run="exec sleep 60"))
    pids = (nucleus.component(NAME).work_path / "pids").read_text().split()
    assert len(pids) == 3
    for pid in pids:
        wait_until_gone(int(pid))


def test_a_component_is_asked_to_stop_before_it_is_killed(nucleus: BackgroundNucleus, component_files: Files) -> None:
    run = "'trap \"echo bye; exit 0\" TERM; echo up; while :; do sleep 0.05; done'"
    events = nucleus.events()
    component = nucleus.deploy(component_files(run=run))
    while not (isinstance(event := events.get(), LogLine) and event.line == "up"):
        pass
    component.stop()
    assert component.state == "FINISHED"
    assert component.log_path.read_text().splitlines()[-1] == "bye"


@pytest.mark.parametrize(("profile", "grace"), [("lite", 1.0), ("classic", 5.0)])
def test_a_component_that_ignores_sigterm_is_killed_after_the_runtimes_time(
    nucleus: BackgroundNucleus, component_files: Files, grace: float
) -> None:
    run = "{Script: 'trap \"\" TERM; echo up; while :; do sleep 0.05; done', Timeout: 1}"
    events = nucleus.events()
    component = nucleus.deploy(component_files(run=run))
    while not (isinstance(event := events.get(), LogLine) and event.line == "up"):
        pass
    pid = component.pid or 0
    begun = time.monotonic()
    component.stop()
    assert grace <= time.monotonic() - begun < grace + 2
    wait_until_gone(pid)


def test_a_stopped_component_can_be_started_again(nucleus: BackgroundNucleus, component_files: Files) -> None:
    component = nucleus.deploy(component_files(run="exec sleep 60"))
    first = component.pid
    component.stop()
    assert (component.state, component.pid) == ("FINISHED", None)
    component.start()
    assert component.state == "RUNNING"
    assert component.pid != first


def test_nothing_outlives_the_nucleus(tmp_path: Path, component_files: Files, profile: str) -> None:
    with BackgroundNucleus(tmp_path / "root", profile) as nucleus:  # type: ignore[arg-type]
        events = nucleus.events()
        component = nucleus.deploy(component_files(run="'sleep 61 & echo $!; sleep 62 & echo $!; wait'"))
        lines: list[str] = []
        while len(lines) < 2:
            event = events.get()
            if isinstance(event, LogLine):
                lines.append(event.line)
        pids = [component.pid or 0, *map(int, lines)]
        assert all(psutil.pid_exists(pid) for pid in pids)
    for pid in pids:
        wait_until_gone(pid)


def test_what_a_script_leaves_running_is_ended_with_it(nucleus: BackgroundNucleus, component_files: Files) -> None:
    component = nucleus.deploy(component_files(run="'sleep 63 & echo $! > pid; exit 0'"))
    component.wait_for("FINISHED")
    wait_until_gone(int((component.work_path / "pid").read_text()))


@pytest.mark.parametrize(("profile", "expected"), [("lite", "FINISHED"), ("classic", "ERRORED")])
def test_a_signal_from_elsewhere_is_a_clean_end_for_systemd_only(
    nucleus: BackgroundNucleus, component_files: Files, expected: str
) -> None:
    component = nucleus.deploy(component_files(run="exec sleep 60"))
    events = nucleus.events()
    os.kill(component.pid or 0, 15)
    while not isinstance(event := events.get(), StateChange):
        pass
    assert event.state == expected


def test_a_killed_component_is_started_again(nucleus: BackgroundNucleus, component_files: Files) -> None:
    component = nucleus.deploy(component_files(run="exec sleep 60"))
    first = component.pid
    events = nucleus.events()
    os.kill(first or 0, 9)
    seen = []
    while "RUNNING" not in seen:
        event = events.get()
        if isinstance(event, StateChange):
            seen.append(event.state)
    assert seen == ["ERRORED", "STARTING", "RUNNING"]
    assert component.pid != first


@pytest.mark.parametrize(("profile", "expected"), [("lite", "one\n"), ("classic", "one\ntwo\n")])
def test_a_script_with_a_foreign_brace_runs_only_up_to_it_on_lite(
    nucleus: BackgroundNucleus, component_files: Files, expected: str
) -> None:
    component = nucleus.deploy(component_files(run="'echo one; { echo two; }'"))
    component.wait_for("FINISHED")
    assert component.log_path.read_text() == expected


@pytest.mark.parametrize(
    ("profile", "merge", "restarted"),
    [("classic", {"other": 2}, False), ("classic", {"shown": 2}, True), ("lite", {"other": 2}, True)],
)
def test_a_configuration_change_restarts_as_the_runtime_does(
    nucleus: BackgroundNucleus, component_files: Files, merge: dict[str, int], restarted: bool
) -> None:
    files = component_files(run="': {configuration:/shown}; exec sleep 60'", configuration="{shown: 1, other: 1}")
    component = nucleus.deploy(files)
    first = component.pid
    nucleus.update_configuration(NAME, merge)
    assert (component.pid != first) is restarted


def test_a_failed_classic_deployment_takes_its_configuration_back_and_lite_does_not(
    nucleus: BackgroundNucleus, component_files: Files, profile: str
) -> None:
    nucleus.deploy(component_files(run="exec sleep 60", configuration="{a: 1}"))
    with pytest.raises(DeploymentError):
        nucleus.deploy(
            component_files(version="2.0.0", install="exit 1", run="exec sleep 60"), configuration={"merge": {"a": 2}}
        )

    async def read(running: object) -> object:
        return nucleus.nucleus.configuration(NAME).read(("a",))

    assert nucleus.call(read) == (2 if profile == "lite" else 1)


def test_a_component_waits_for_its_dependencies_to_be_deployed(nucleus: BackgroundNucleus, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"ComponentName: {NAME}\nComponentVersion: 1.0.0\n"
        "ComponentDependencies: {com.example.Model: {VersionRequirement: '1'}, aws.greengrass.TokenExchangeService: {VersionRequirement: '2'}}\n"
        'Manifests: [{Platform: {os: linux, runtime: "*"}, Lifecycle: {run: "true"}}]\n'
    )
    with pytest.raises(DeploymentError, match=r"com\.example\.Model"):
        nucleus.deploy(recipe)


def test_a_component_can_report_an_error_on_classic(classic: BackgroundNucleus, component_files: Files) -> None:
    code = (
        "from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2 as Client;"
        'Client().update_state(state=\\"ERRORED\\");import time;time.sleep(60)'
    )
    component = classic.deploy(component_files(run=f'\'exec "{sys.executable}" -c "{code}"\''))
    component.wait_for("ERRORED")


def test_waiting_for_a_state_that_does_not_come_says_which_one_it_is(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    component = nucleus.deploy(component_files(run="exec sleep 60"))
    with pytest.raises(TimeoutError, match="RUNNING, not BROKEN"):
        component.wait_for("BROKEN", 0.01)


def test_startup_runs_once_and_stays_up_on_classic(classic: BackgroundNucleus, component_files: Files) -> None:
    component = classic.deploy(component_files(startup="echo ready", shutdown="echo down"))
    component.wait_for("RUNNING")
    component.stop()
    assert component.log_path.read_text() == "ready\ndown\n"


def test_startup_breaks_on_lite(lite: BackgroundNucleus, component_files: Files) -> None:
    lite.deploy(component_files(startup="echo ready")).wait_for("BROKEN")


def test_files_beside_the_artifacts_that_a_recipe_names_come_along(
    nucleus: BackgroundNucleus, component_files: Files, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts" / NAME / "1.0.0" / "library"
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("not named in the recipe")
    component = nucleus.deploy(component_files(run='"cat {artifacts:path}/library/text.txt"'), tmp_path / "artifacts")
    component.wait_for("FINISHED")
    assert component.log_path.read_text() == "not named in the recipe"


@pytest.mark.parametrize(("profile", "ran"), [("lite", True), ("classic", False)])
def test_skipif_skips_a_step_on_classic(nucleus: BackgroundNucleus, component_files: Files, ran: bool) -> None:
    for number, condition in enumerate(("onpath sh", "exists /proc")):
        step = f"{{Script: touch mark{number}, Skipif: {condition}}}"
        component = nucleus.deploy(component_files(version=f"1.0.{number}", install=step, run="exec sleep 60"))
        assert (component.work_path / f"mark{number}").exists() is ran
    step = "{Script: touch done, Skipif: onpath no-such-program}"
    component = nucleus.deploy(component_files(version="2.0.0", install=step, run="exec sleep 60"))
    assert (component.work_path / "done").exists()


@pytest.mark.parametrize(("profile", "times"), [("lite", 0), ("classic", 3)])
def test_recover_runs_after_each_failure_on_classic(
    nucleus: BackgroundNucleus, component_files: Files, times: int
) -> None:
    component = nucleus.deploy(component_files(run="exit 1", recover="echo x >> recoveries"))
    component.wait_for("BROKEN")
    path = component.work_path / "recoveries"
    assert (len(path.read_text().split()) if path.exists() else 0) == times


@pytest.mark.parametrize("profile", ["classic"])
def test_a_container_image_is_not_pulled_and_anything_else_is_asked_for(
    nucleus: BackgroundNucleus, component_files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = component_files(run="exec sleep 60")
    text = recipe.read_text()
    recipe.write_text(text + "    Artifacts: [{Uri: 'docker:registry/image:1'}]\n")
    assert nucleus.deploy(recipe).state == "RUNNING"
    assert "docker:registry/image:1 is not pulled" in caplog.text
    recipe.write_text(text + "    Artifacts: [{Uri: 's3://bucket/model.bin'}]\n")
    with pytest.raises(DeploymentError, match=r"s3://bucket/model\.bin, and no folder of artifacts was given"):
        nucleus.deploy(recipe)
    with pytest.raises(DeploymentError, match=r"a file stands in for it: neither .*model\.bin nor "):
        nucleus.deploy(recipe, tmp_path)


def test_a_dependency_in_a_version_that_will_not_do_fails_the_deployment(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    nucleus.deploy(component_files(name="com.example.Base", version="1.5.0", run="exec sleep 60"))
    recipe = component_files(run="exec sleep 60")
    text = recipe.read_text()
    recipe.write_text(text + "ComponentDependencies: {com.example.Base: {VersionRequirement: '>=2.0.0'}}\n")
    with pytest.raises(DeploymentError, match=r"needs com\.example\.Base >=2\.0\.0, and 1\.5\.0 is deployed"):
        nucleus.deploy(recipe)
    recipe.write_text(text + "ComponentDependencies: {com.example.Base: {VersionRequirement: ~1.5.0}}\n")
    assert nucleus.deploy(recipe).state == "RUNNING"


@pytest.mark.parametrize("profile", ["lite"])
def test_a_deployment_can_wait_until_the_component_is_stable(
    nucleus: BackgroundNucleus, component_files: Files
) -> None:
    with pytest.raises(DeploymentError, match="ended 3 times"):
        nucleus.deploy(component_files(run="exit 1"), until_stable=True)
    assert nucleus.deploy(component_files(version="1.0.1", run="exec sleep 60"), until_stable=True).state == "RUNNING"
