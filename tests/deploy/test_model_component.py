"""The model component on a device: a model appears whole or not at all, and the one before stays at hand."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]
MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(checkout: Path, tmp_path: Path) -> MakeModel:
    """Artifacts of the model component; the content of the booster file is the version."""

    def make(version: str, **changes: Any) -> Path:
        folder = tmp_path / "artifacts" / version
        folder.mkdir(parents=True, exist_ok=True)
        booster = {"file": "booster.ubj", "sha256": hashlib.sha256(version.encode()).hexdigest()}
        manifest = {"name": "cylinders", "version": version, "booster": booster} | changes
        with zipfile.ZipFile(folder / "model.zip", "w") as archive:
            archive.write(checkout / "components" / "model" / "place_model.py", "__main__.py")
            archive.write(checkout / "device" / "launcher.py", "launcher.py")
            archive.writestr("model/manifest.json", json.dumps(manifest))
            archive.writestr("model/booster.ubj", version)
        return folder / "model.zip"

    return make


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work of a model"
    path.mkdir()
    return path


@pytest.fixture
def deploy(command: Command, work: Path) -> Callable[[Path], None]:
    """Installs and runs, as a nucleus does."""

    def deploy(archive: Path) -> None:
        for step in ("install", "run"):
            done = command("python3", archive, step, work)
            assert done.returncode == 0, done.stderr

    return deploy


def current(work: Path) -> str:
    version: str = json.loads((work / "current" / "manifest.json").read_text())["version"]
    return version


def test_installing_does_not_change_the_current_model_and_running_does(
    work: Path, make_model: MakeModel, deploy: Callable[[Path], None], command: Command
) -> None:
    deploy(make_model("1.0.0"))
    assert current(work) == "1.0.0"
    second = make_model("2.0.0")
    assert command("python3", second, "install", work).returncode == 0
    assert current(work) == "1.0.0"
    done = command("python3", second, "run", work)
    assert done.returncode == 0
    assert current(work) == "2.0.0"
    assert (work / "current" / "booster.ubj").read_text() == "2.0.0"


def test_the_model_before_is_kept_and_older_ones_go(
    work: Path, make_model: MakeModel, deploy: Callable[[Path], None]
) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        deploy(make_model(version))
    assert current(work) == "3.0.0"
    assert (work / "previous" / "booster.ubj").read_text() == "2.0.0"
    assert len(list((work / "models").iterdir())) == 2


def test_going_back_to_the_model_before_swaps_the_two(
    work: Path, make_model: MakeModel, deploy: Callable[[Path], None]
) -> None:
    for version in ("1.0.0", "2.0.0", "1.0.0"):
        deploy(make_model(version))
    assert current(work) == "1.0.0"
    assert (work / "previous" / "booster.ubj").read_text() == "2.0.0"


def test_the_same_model_again_changes_nothing(
    work: Path, make_model: MakeModel, deploy: Callable[[Path], None]
) -> None:
    for version in ("1.0.0", "2.0.0"):
        deploy(make_model(version))
    before = [path.stat().st_ino for path in (work / "current", work / "previous")]
    deploy(make_model("2.0.0"))
    assert [path.stat().st_ino for path in (work / "current", work / "previous")] == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"booster": {"file": "booster.ubj", "sha256": "0" * 64}}, "checksum: booster.ubj is not the file"),
        ({"booster": {"file": "other.ubj", "sha256": "0" * 64}}, "not a model directory: KeyError('other.ubj')"),
        ({"booster": None}, "not a model directory: TypeError"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line_and_the_current_one_stays(
    *,
    work: Path,
    make_model: MakeModel,
    deploy: Callable[[Path], None],
    command: Command,
    changes: dict[str, Any],
    complaint: str,
) -> None:
    deploy(make_model("1.0.0"))
    damaged = make_model("2.0.0", **changes)
    for step in ("install", "run"):
        done = command("python3", damaged, step, work)
        assert done.returncode == 1
        assert done.stderr.startswith(f"model.zip {step}: {complaint}")
        assert len(done.stderr.splitlines()) == 1
        assert current(work) == "1.0.0"


def test_who_reads_while_models_change_always_finds_a_whole_one(
    work: Path, make_model: MakeModel, deploy: Callable[[Path], None]
) -> None:
    models = [make_model("1.0.0"), make_model("2.0.0")]
    deploy(models[0])
    done, torn = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            directory = (work / "current").resolve()  # once, as the inference component does
            manifest = json.loads((directory / "manifest.json").read_text())
            if (directory / "booster.ubj").read_text() != manifest["version"]:
                torn.append(manifest["version"])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(6):
            deploy(models[(number + 1) % 2])
    finally:
        done.set()
        reader.join()
    assert not torn


@pytest.mark.parametrize("name", ["../../outside", "/outside", "sub/../../../outside", "//outside", "a/./b"])
def test_an_archive_that_would_write_elsewhere_is_refused_in_one_line(
    work: Path, make_model: MakeModel, command: Command, name: str
) -> None:
    archive = make_model("1.0.0")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(f"model/{name}", "x")
    done = command("python3", archive, "install", work)
    assert done.returncode == 1
    assert done.stderr.startswith("model.zip install: not a model directory: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(work.iterdir()) == []


def test_a_models_name_cannot_forge_a_line_of_the_log(work: Path, make_model: MakeModel, command: Command) -> None:
    done = command("python3", make_model("1.0.0", name="evil\nERROR all is lost\x1b[2J" + "x" * 500), "install", work)
    assert done.returncode == 0
    assert done.stdout.startswith("evil\\nERROR all is lost\\x1b[2Jx")
    assert len(done.stdout.splitlines()) == 1
    assert "x" * 64 not in done.stdout


def test_wrong_arguments_are_answered_with_the_usage(make_model: MakeModel, command: Command) -> None:
    done = command("python3", make_model("1.0.0"), "install")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
