"""What runs on a device before the component does: unpack, make an environment, check, hand over.

The environments are real: pip makes them without a network, from a wheel that is written here.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]
MakeArchive = Callable[..., Path]

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
HERE = f"{platform.machine()}-{VERSION}"
WHEEL = "part-1.0-py3-none-any.whl"
pytestmark = pytest.mark.xdist_group("launcher")  # the first environment is built once

GATE = ("-c", "import part, own; print('checked', part.NUMBER, own.NAME)")


def write_zip(path: Path, contents: Mapping[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return path


@pytest.fixture(scope="session")
def make_archive(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeArchive:
    """Artifacts with a package `own` that knows its name, and a lock that pins a package `part` with a constant."""

    def make(name: str, part: int = 1, *, wheels_for: str = HERE, digest: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("artifact")
        wheel = write_zip(
            folder / WHEEL,
            {
                "part.py": f"NUMBER = {part}\n",
                "part-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: part\nVersion: 1.0\n",
                "part-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                "part-1.0.dist-info/RECORD": "part.py,,\n",
            },
        ).read_bytes()
        digest = digest or hashlib.sha256(wheel).hexdigest()
        return write_zip(
            folder / "app.zip",
            {
                "__main__.py": (checkout / "device" / "launcher.py").read_bytes(),
                "requirements.lock": f"part==1.0 --hash=sha256:{digest}\n",
                "src/own.py": f"NAME = {name!r}\n",
                "data/file": name,
                f"wheelhouse/{wheels_for}/{WHEEL}": wheel,
            },
        )

    return make


@pytest.fixture(scope="session")
def first(make_archive: MakeArchive) -> Path:
    """The first version."""
    return make_archive("first")


@pytest.fixture(scope="session")
def installation(
    first: Path, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    work = tmp_path_factory.mktemp("device") / "work of a component"
    return work, command("python3", first, "install", work, *GATE)


@pytest.fixture
def work(installation: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> Path:
    """A work directory, with spaces in its path, in which the first version is installed."""
    source, done = installation
    assert done.returncode == 0, done.stderr
    shutil.copytree(source, tmp_path / source.name, symlinks=True)
    return tmp_path / source.name


def entries(work: Path) -> dict[str, int]:
    """What is in the launcher's directory, and which directory it really is."""
    return {path.name: path.stat().st_ino for path in (work / "runtime").iterdir()}


def say(work: Path, archive: Path, command: Command) -> str:
    """What a version says when it runs."""
    done = command("python3", archive, "run", work, *GATE)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_only_what_python_3_6_can_read_is_in_the_launcher(checkout: Path) -> None:
    for path in ("device/launcher.py", "components/model/place_model.py"):
        ast.parse((checkout / path).read_text(), feature_version=(3, 6))


def test_an_installation_without_a_network_passes_its_gate_and_the_component_runs(
    installation: tuple[Path, subprocess.CompletedProcess[str]], first: Path, work: Path, command: Command
) -> None:
    assert installation[1].stdout.splitlines()[-1] == "checked 1 first"
    assert say(work, first, command) == "checked 1 first"


def test_the_component_replaces_the_launcher_and_gets_the_signals_of_the_runtime(
    first: Path, work: Path, environment: dict[str, str]
) -> None:
    script = "import json, os, sys, time; print(json.dumps([os.getpid(), os.getcwd(), sys.prefix]), flush=True); time.sleep(60)"
    with subprocess.Popen(
        ["python3", first, "run", work, "-c", script], cwd=work, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            pid, directory, prefix = json.loads(process.stdout.readline())
            assert (pid, directory) == (process.pid, str(work))
            assert Path(prefix).parent == work / "runtime"
            process.terminate()
            assert process.wait(10) == -signal.SIGTERM
        finally:
            process.kill()


def test_packages_of_other_environments_are_out_of_sight(
    first: Path, work: Path, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own.py").write_text("NAME = 'stranger'\n")
    done = command("python3", first, "run", work, *GATE, variables={"PYTHONPATH": str(tmp_path / "elsewhere")})
    assert done.stdout == "checked 1 first\n"


def test_installing_the_same_again_changes_nothing(first: Path, work: Path, command: Command) -> None:
    before = entries(work)
    done = command("python3", first, "install", work, *GATE)
    assert done.stdout == "checked 1 first\n"
    after = entries(work)
    assert after.pop("installed")
    assert before.pop("installed")
    assert after == before


def test_a_version_with_the_same_lock_takes_over_the_environment(
    work: Path, make_archive: MakeArchive, command: Command
) -> None:
    before = entries(work)
    second = make_archive("second")
    done = command("python3", second, "install", work, *GATE)
    assert done.stdout == "checked 1 second\n"
    assert {name for name in entries(work) if name.startswith("venv-")} == {
        name for name in before if name.startswith("venv-")
    }


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_gate_that_fails_fails_the_installation_in_one_line_and_the_version_before_runs_on(
    first: Path, work: Path, make_archive: MakeArchive, command: Command, unbuffered: str
) -> None:
    second = make_archive("second")
    gate = ("-c", "import sys; print('many words'); sys.exit('the model is bad')")
    done = command("python3", second, "install", work, *gate, variables={"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"app.zip install: -c {gate[1]}: the model is bad"]
    assert say(work, first, command) == "checked 1 first"


def test_what_a_gate_warns_of_goes_to_standard_error(first: Path, work: Path, command: Command) -> None:
    gate = ("-c", "import sys; print('result'); print('warning', file=sys.stderr)")
    done = command("python3", first, "install", work, *gate)
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "warning\n")


def test_a_gate_that_fails_without_an_error_message_is_named_with_its_last_line(
    first: Path, work: Path, command: Command
) -> None:
    done = command("python3", first, "install", work, "-c", "print('first'); print('last'); raise SystemExit(3)")
    assert (done.returncode, done.stderr.rpartition(": ")[2]) == (1, "last\n")


def test_a_gate_that_crashes_is_named_with_its_signal(first: Path, work: Path, command: Command) -> None:
    done = command("python3", first, "install", work, "-c", "import os; os.kill(os.getpid(), 11)")
    assert done.returncode == 1
    assert done.stderr.endswith("killed by signal 11\n")


@pytest.mark.slow
def test_a_package_that_is_not_the_locked_one_is_refused_and_the_version_before_runs_on(
    first: Path, work: Path, make_archive: MakeArchive, command: Command
) -> None:
    before = set(entries(work))
    forged = make_archive("forged", part=2, digest="0" * 64)
    done = command("python3", forged, "install", work, *GATE)
    assert done.returncode == 1
    assert "app.zip install: pip install: ERROR: " in done.stderr
    assert "HASH" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (left,) = set(entries(work)) - before
    assert left.startswith("app-")  # no half-made environment
    assert say(work, first, command) == "checked 1 first"


@pytest.mark.slow
def test_the_version_before_stays_and_older_ones_go(
    first: Path, work: Path, make_archive: MakeArchive, command: Command
) -> None:
    (first_environment,) = (name for name in entries(work) if name.startswith("venv-"))
    second, third = make_archive("second", part=2), make_archive("third", part=2)
    for archive in (second, third):
        assert command("python3", archive, "install", work, *GATE).returncode == 0
        if archive == second:
            assert first_environment in entries(work)
    assert first_environment not in entries(work)
    kinds = sorted(name.split("-")[0] for name in entries(work))
    assert kinds == ["app", "app", "installed", "venv"]
    before = entries(work)
    done = command("python3", second, "install", work, *GATE)  # back to it, as a roll-back does
    assert done.stdout == "checked 2 second\n"
    assert {name: inode for name, inode in entries(work).items() if name != "installed"} == {
        name: inode for name, inode in before.items() if name != "installed"
    }


def test_what_a_killed_installation_left_is_removed(first: Path, work: Path, command: Command) -> None:
    (work / "runtime" / "tmp-killed" / "venv").mkdir(parents=True)
    assert command("python3", first, "install", work).returncode == 0
    assert "tmp-killed" not in entries(work)


def test_what_the_component_keeps_in_its_work_directory_is_left_alone(
    first: Path, work: Path, command: Command
) -> None:
    (work / "outbox").mkdir()
    (work / "outbox" / "data").write_text("kept")
    assert command("python3", first, "install", work).returncode == 0
    assert (work / "outbox" / "data").read_text() == "kept"


@pytest.mark.slow
def test_an_environment_whose_python_is_gone_is_built_anew_when_the_component_starts(
    first: Path, work: Path, command: Command
) -> None:
    (environment,) = (work / "runtime").glob("venv-*")
    (environment / "bin" / "python").unlink()  # as after an upgrade of the system
    done = command("python3", first, "run", work, *GATE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "checked 1 first"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "emptied"])
@pytest.mark.parametrize("place", ["venv-*/lib/python*/site-packages/part.py", "app-*/src/own.py"])
def test_what_is_damaged_is_built_anew_by_the_next_installation(
    *, first: Path, work: Path, command: Command, place: str, damage: str
) -> None:
    (path,) = (work / "runtime").glob(place)
    path.unlink()
    if damage == "emptied":
        path.touch()
    before = entries(work)
    done = command("python3", first, "install", work, *GATE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "checked 1 first"
    damaged = path.relative_to(work / "runtime").parts[0]
    assert done.stderr.endswith(f"; built anew, since damaged: {damaged}\n")
    anew = {name for name, inode in entries(work).items() if before[name] != inode}
    assert anew == {damaged, "installed"}
    assert say(work, first, command) == "checked 1 first"


def test_a_gate_that_fails_with_nothing_damaged_builds_nothing_anew(first: Path, work: Path, command: Command) -> None:
    before = entries(work)
    done = command("python3", first, "install", work, "-c", "import own, sys; sys.exit('bad')")
    assert done.stderr.splitlines()[1:] == []
    assert entries(work) == before


@pytest.mark.parametrize(("built", "reported"), [("2.3.4", "2.3.4"), ("NEXT_PATCH", "1.0.7")])
def test_the_component_is_told_its_version_even_where_the_cloud_chose_it(
    *, first: Path, work: Path, command: Command, tmp_path: Path, built: str, reported: str
) -> None:
    with zipfile.ZipFile(first) as whole:
        contents: dict[str, str | bytes] = {name: whole.read(name) for name in whole.namelist()}
    contents["component.json"] = json.dumps({"name": "com.example.A", "version": built})
    archive = write_zip(tmp_path / "artifacts" / "com.example.A" / "1.0.7" / "app.zip", contents)
    done = command("python3", archive, "run", work, "-c", "import os; print(os.environ['COMPONENT_VERSION'])")
    assert done.stdout == f"{reported}\n"


def test_what_is_damaged_and_cannot_be_built_anew_leaves_the_gates_reason(
    *, first: Path, work: Path, command: Command, tmp_path: Path
) -> None:
    (path,) = (work / "runtime").glob("venv-*/lib/python*/site-packages/part.py")
    path.unlink()
    wrong = f"wheelhouse/riscv64-{VERSION}/{WHEEL}"
    with zipfile.ZipFile(first) as whole:
        contents = {name if WHEEL not in name else wrong: whole.read(name) for name in whole.namelist()}
    done = command("python3", write_zip(tmp_path / "app.zip", contents), "install", work, *GATE)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "ModuleNotFoundError: No module named 'part'; something is damaged and cannot be built anew: " in line
    assert line.count("the artifact has wheels for riscv64") == 1


def test_an_environment_holds_what_the_lock_names_and_no_installer(work: Path) -> None:
    (packages,) = (work / "runtime").glob("venv-*/lib/python*/site-packages")
    assert {path.name for path in packages.iterdir()} - {"__pycache__"} == {"part.py", "part-1.0.dist-info"}
    assert not list((work / "runtime").glob("venv-*/bin/pip*"))


SETTINGS = """
import json, pathlib, sys; sys.path.insert(0, sys.argv[1]); import launcher
print(json.dumps(launcher.index_settings([sys.executable, "-m", "pip"], launcher._own_environment())))
"""


def test_pip_hears_of_the_index_the_way_to_it_and_its_certificates_and_of_nothing_else(
    checkout: Path, command: Command, tmp_path: Path
) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://private.example/simple\nproxy = http://proxy.example\nno-deps = true\n"
        "[install]\nfind-links =\n  /first\n  /second\ntarget = /elsewhere\n[download]\nindex-url = https://other\n"
    )
    variables = {"PIP_DRY_RUN": "1", "PIP_USER": "1", "PIP_TARGET": "/x", "PIP_PROXY": "http://mine", "PIP_CERT": "/ca"}
    variables |= {"PIP_CONFIG_FILE": str(configuration), "PIP_FIND_LINKS": "", "HOME": str(tmp_path)}
    done = command(sys.executable, "-c", SETTINGS, checkout / "device", variables=variables)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("PIP_FIND_LINKS").split() in (
        [],
        ["/first", "/second"],
    )  # an empty variable counts for some versions
    found.pop("PIP_DEFAULT_TIMEOUT", None)
    assert found == {
        "PIP_INDEX_URL": "https://private.example/simple", "PIP_PROXY": "http://mine", "PIP_CERT": "/ca",
    }  # fmt: skip


@pytest.mark.slow
def test_a_user_who_tells_pip_to_install_nothing_or_elsewhere_gets_a_whole_environment(
    first: Path, command: Command, tmp_path: Path
) -> None:
    variables = {"PIP_DRY_RUN": "1", "PIP_TARGET": str(tmp_path / "elsewhere"), "PYTHONSAFEPATH": "1"}
    done = command("python3", first, "install", tmp_path / "work", *GATE, variables=variables)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_wheels_for_another_machine_are_refused_by_name(
    make_archive: MakeArchive, command: Command, tmp_path: Path
) -> None:
    archive = make_archive("first", wheels_for=f"riscv64-{VERSION}")
    done = command("python3", archive, "install", tmp_path / "work")
    assert done.returncode == 1
    assert done.stderr == (
        f"app.zip install: the artifact has wheels for riscv64-{VERSION}, and this machine is {platform.machine()}: build it "
        "with wheels for this machine, too (make wheelhouse), or without its folder wheelhouse\n"
    )


@pytest.mark.slow
def test_no_index_in_reach_is_named_as_the_cause(
    checkout: Path, make_archive: MakeArchive, command: Command, tmp_path: Path
) -> None:
    with zipfile.ZipFile(make_archive("first")) as whole:
        contents = {name: whole.read(name) for name in whole.namelist() if not name.startswith("wheelhouse/")}
    archive = write_zip(tmp_path / "app.zip", contents)
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1", "PIP_FIND_LINKS": ""}
    done = command("python3", archive, "install", tmp_path / "work", variables=nowhere)
    assert done.returncode == 1
    assert "app.zip install: pip install: the package index cannot be reached: " in done.stderr
    assert "Connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def other_pythons(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """A PATH with interpreters that answer the launcher's question as they are told."""

    def make(**answers: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, answer in answers.items():
            program = folder / name.replace("_", ".")
            program.write_text(f"#!/bin/sh\n{answer}\n")
            program.chmod(0o755)
        return {"PATH": str(folder)}

    return make


def find(launcher: Path, versions: list[str], variables: Mapping[str, str], command: Command) -> tuple[str, str, str]:
    """What `find_python` finds, asked by a Python whose own version is none of the versions."""
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import launcher\n"
        "try: print(json.dumps(launcher.find_python(json.loads(sys.argv[2]))))\n"
        "except launcher.InstallError as error: print(json.dumps(['', str(error), '']))"
    )
    done = command(sys.executable, "-c", script, launcher.parent, json.dumps(versions), variables=variables)
    assert done.returncode == 0, done.stderr
    found, version, pip = json.loads(done.stdout)
    return found, version, pip


def answer(*of: str | int) -> str:
    return f"echo '{json.dumps(of)}'"


def test_the_python_that_runs_it_is_taken_if_it_will_do(checkout: Path, command: Command) -> None:
    found, version, pip = find(checkout / "device" / "launcher.py", ["3.99", VERSION], {}, command)
    assert version == VERSION
    assert found == os.path.realpath(sys.executable)
    assert Path(pip).name.startswith("pip-")


def test_a_newer_python_beside_one_that_is_too_old_is_found(
    checkout: Path, command: Command, other_pythons: Callable[..., dict[str, str]]
) -> None:
    path = other_pythons(
        python3_98=answer("/opt/a path/python3.98", "3.98", 64, "/pip.whl"), python3_97=answer("/x", "3.97", 64, "/p")
    )
    assert find(checkout / "device" / "launcher.py", ["3.99", "3.98", "3.97"], path, command) == (
        "/opt/a path/python3.98",
        "3.98",
        "/pip.whl",
    )


def test_a_python_that_cannot_be_used_is_named_with_the_reason(
    checkout: Path, command: Command, other_pythons: Callable[..., dict[str, str]]
) -> None:
    path = other_pythons(
        python3_99=answer("/x", "3.99", 32, "/p"),
        python3_98=answer("/x", "3.98", 64, ""),
        python3_97="echo not selected; exit 127",
    )
    found, reason, _ = find(checkout / "device" / "launcher.py", ["3.99", "3.98", "3.97"], path, command)
    assert found == ""
    assert reason.startswith("needs a Python 3.99, 3.98, 3.97; found: ")
    assert f"{sys.executable} is {VERSION}" in reason
    assert "python3.99 is a 32-bit program" in reason
    assert "python3.98 has no venv and ensurepip (on Debian and Ubuntu: apt install python3.98-venv)" in reason


@pytest.mark.parametrize("arguments", [(), ("install",), ("install", ""), ("remove", "work")])
def test_wrong_arguments_are_answered_with_the_usage(first: Path, command: Command, arguments: tuple[str, ...]) -> None:
    done = command("python3", first, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
