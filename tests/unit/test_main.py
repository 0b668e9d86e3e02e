from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from ml_inference import __version__
from ml_inference.cli import main as module
from ml_inference.cli.main import COMMANDS, main


def ml_inference(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; or some code instead."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "ml_inference"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command module in the place of `verify`."""
    fake = ModuleType("ml_inference.cli.verify")
    fake.__spec__ = ModuleSpec("ml_inference.cli.verify", None)
    fake.configure = lambda parser: parser.add_argument("--code", type=int, default=0)  # type: ignore[attr-defined]
    fake.run = lambda arguments: arguments.code  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ml_inference.cli.verify", fake)
    return fake


def test_a_command_gets_its_arguments_and_gives_the_exit_code(fake: ModuleType) -> None:
    assert main(["verify"]) == 0
    assert main(["verify", "--code", "7"]) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["--fast", "verify"], "unrecognized arguments: --fast"),
        (["verify", "--code", "x"], "argument --code: invalid int value: 'x'"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_what_is_wrong(
    fake: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_every_command_is_listed_and_has_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, (_, text) in COMMANDS.items():
        assert f" {name} {text}" in said


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ml-inference {name}")


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"ml-inference {__version__}\n"


def test_commands_that_a_device_does_not_have_are_not_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = module._is_here
    monkeypatch.setattr(
        module, "_is_here", lambda package: not package.endswith(".workbench.commands") and here(package)
    )
    with pytest.raises(SystemExit):
        main(["train"])
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "ml_inference.workbench.commands.demo", raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    for name in [name for name in sys.modules if name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ml-inference demo: needs rich")
    assert said.endswith(": pip install '.[all]' in a checkout of the repository\n")


def test_a_missing_module_of_our_own_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", lost)
    with pytest.raises(ModuleNotFoundError):
        main(["verify"])


def test_openmps_idle_threads_are_kept_from_spinning_unless_somebody_decided_otherwise(
    fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    main(["verify"])
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    main(["verify"])
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_ctrl_c_is_no_traceback(fake: ModuleType) -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    fake.run = interrupted  # type: ignore[attr-defined]
    assert main(["verify"]) == 130


def test_a_reader_that_has_seen_enough_ends_it_in_peace() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ml_inference", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_as_a_module_it_is_the_same_command() -> None:
    assert ml_inference("--version").stdout == f"ml-inference {__version__}\n"


def test_only_the_command_that_is_called_is_imported() -> None:
    done = ml_inference(
        code="import sys\nfrom ml_inference.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'xgboost', 'numpy', 'pydantic', 'awscrt', 'rich'}))"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
