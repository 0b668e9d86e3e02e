import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ml_inference.cli.main import main
from ml_inference.model.bundle import load_verified
from ml_inference.model.isolation import MEBIBYTE, IsolationError, run_isolated
from ml_inference.model.manifest import ModelCheckDeferredError, ModelError, read_manifest
from ml_inference.model.verification import verify_in_child
from support.clocks import until
from support.damage import copy_of, crashing, edit_manifest, filling, replace_booster, set_node

SECONDS = 60.0


@pytest.fixture
def copied(model_directory: Path, tmp_path: Path) -> Path:
    return copy_of(model_directory, tmp_path / "model")


def isolated(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **limits: float) -> tuple[int, bytes, bytes]:
    (tmp_path / "child_under_test.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    memory = int(limits.get("memory_bytes", 256 * MEBIBYTE))
    return run_isolated("child_under_test", ["one", "two"], memory_bytes=memory, seconds=limits.get("seconds", 60))


def test_a_model_that_passed_is_described_by_the_manifest_that_was_checked(model_directory: Path) -> None:
    assert verify_in_child(model_directory) == read_manifest(model_directory)


def test_a_failed_check_in_the_child_keeps_its_reason(copied: Path) -> None:
    edit_manifest(copied, objective="reg:squarederror")
    with pytest.raises(ModelError, match=r"^objective: the booster's is 'binary:logistic'"):
        verify_in_child(copied)


def test_a_booster_that_crashes_xgboost_is_refused_with_a_reason(copied: Path) -> None:
    replace_booster(copied, crashing((copied / "booster.ubj").read_bytes()))
    with pytest.raises(ModelError, match=r"^booster: checking it crashed XGBoost \(SIGSEGV\)$"):
        verify_in_child(copied)


def test_a_check_that_does_not_end_in_time_is_a_refusal_that_may_pass(model_directory: Path) -> None:
    with pytest.raises(ModelCheckDeferredError, match=r"^booster: checking it took longer than 0\.5 seconds$"):
        verify_in_child(model_directory, seconds=0.1)


def test_a_booster_that_fills_the_memory_is_refused_with_a_reason(copied: Path) -> None:
    replace_booster(copied, filling((copied / "booster.ubj").read_bytes()))
    with pytest.raises(ModelError, match="asks for more memory than there is"):
        verify_in_child(copied)


def test_a_wrong_manifest_is_refused_without_a_child(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_inference.model.verification.run_isolated", lambda *_, **__: pytest.fail("a child"))
    edit_manifest(copied, version="not a version")
    with pytest.raises(ModelError, match=r"^manifest: version"):
        verify_in_child(copied)
    (copied / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"^manifest: cannot read"):
        verify_in_child(copied)


def test_a_verified_model_is_loaded_and_scores(model_directory: Path) -> None:
    model = load_verified(model_directory)
    golden = model.manifest.golden[0]
    assert model.scorer.score([model.manifest.row(golden.reading)]) == [pytest.approx(golden.score, abs=1e-6)]


def test_a_model_that_is_replaced_while_it_is_checked_is_not_loaded(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked_then_replaced(directory: Path, **_: object) -> object:
        manifest = read_manifest(directory)
        edit_manifest(directory, version="6.6.6")
        return manifest

    monkeypatch.setattr("ml_inference.model.bundle.verify_in_child", checked_then_replaced)
    with pytest.raises(ModelError, match="changed while the model was being checked"):
        load_verified(copied)


def test_the_command_succeeds_for_a_model_that_is_ready(
    model_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(model_directory)]) == 0
    assert "small 1.0.0 is ready: 6 features, binary:logistic, " in capsys.readouterr().out


def test_the_command_fails_with_the_reason(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace_booster(copied, crashing((copied / "booster.ubj").read_bytes()))
    assert main(["verify", str(copied)]) == 1
    said = capsys.readouterr()
    assert said.err == f"{copied}: not usable: booster: checking it crashed XGBoost (SIGSEGV)\n"
    assert said.out == ""


def test_the_command_speaks_json(model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--json", str(model_directory)]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["ready"], verdict["name"], verdict["features"]) == (True, "small", 6)
    assert main(["verify", "--json", str(tmp_path)]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["ready"] is False
    assert "cannot read" in verdict["reason"]


def test_a_child_gets_its_arguments_and_gives_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys\nprint(sys.argv[1:])\nprint('x', file=sys.stderr)\nsys.exit(3)"
    assert isolated(code, tmp_path, monkeypatch) == (3, b"['one', 'two']\n", b"x\n")


def test_a_child_sees_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SVCUID", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    _, out, _ = isolated("import os, json\nprint(json.dumps(dict(os.environ)))", tmp_path, monkeypatch)
    assert "secret" not in json.loads(out).values()
    assert os.environ["SVCUID"] == "secret"


def test_a_child_that_takes_too_much_memory_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IsolationError, match=r"^needed more than 64 MiB of memory$") as caught:
        isolated("x = bytearray(200 * 1024 * 1024)", tmp_path, monkeypatch, memory_bytes=64 * MEBIBYTE)
    assert not caught.value.transient


def test_a_child_that_takes_too_long_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IsolationError, match=r"^took longer than 0\.5 seconds$") as caught:
        isolated("import time\ntime.sleep(60)", tmp_path, monkeypatch, seconds=0.1)
    assert caught.value.transient


@pytest.mark.parametrize(
    ("signal", "reason", "transient"),
    [
        ("SIGABRT", r"^crashed XGBoost \(SIGABRT\)$", False),
        ("SIGKILL", "^was killed, most likely because", True),
        ("SIGXCPU", "longer", False),
    ],
)
def test_a_child_that_dies_of_a_signal_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal: str, reason: str, transient: bool
) -> None:
    with pytest.raises(IsolationError, match=reason) as caught:
        isolated(f"import os, signal\nos.kill(os.getpid(), signal.{signal})", tmp_path, monkeypatch)
    assert caught.value.transient == transient


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_machine_without_room_for_a_process_puts_the_check_off(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ml_inference.model.isolation.subprocess.run", exhausted)
    with pytest.raises(ModelCheckDeferredError, match="no room for"):
        verify_in_child(model_directory)


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "child_that_waits.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from ml_inference.model.isolation import run_isolated as run;"  # noqa: ISC004
            "run('child_that_waits', [], memory_bytes=2**28, seconds=600)",
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    try:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the child did not start")
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        parent.kill()
        parent.wait(SECONDS)
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child goes on")
    finally:
        parent.kill()


def test_a_split_that_no_golden_reading_reaches_is_found_by_walking_the_trees(copied: Path) -> None:
    booster = (copied / "booster.ubj").read_bytes()
    replace_booster(copied, set_node(booster, "split_indices", 0, 1_000))
    with pytest.raises(ModelError, match="tree 0 splits by a feature that does not exist"):
        verify_in_child(copied)


def test_limits_that_reject_a_models_own_golden_reading_are_refused(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    feature = manifest["features"][0]
    golden = manifest["golden"][0]["reading"][feature["name"]]
    features = [feature | {"maximum": golden - 1}, *manifest["features"][1:]]
    edit_manifest(copied, features=features)
    with pytest.raises(ModelError, match=r"golden\[0\]\.reading: .* outside the feature's own limits"):
        verify_in_child(copied)
