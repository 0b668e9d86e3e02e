"""The README's examples run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

from greengrass_sandbox.__main__ import _FAULTS
from greengrass_sandbox.faults import Faults

PACKAGE = Path(__file__).parents[1]
PAGE = (PACKAGE / "README.md").read_text()
BLOCKS = [block for _, block in re.findall(r"```(python|yaml)\n(.*?)```", PAGE, re.DOTALL)]
FILES = [path.read_text() for path in (PACKAGE / "examples" / "doubler").iterdir() if path.is_file()]
SCRIPTS = [block for block in BLOCKS if block not in FILES]


def test_the_first_test_is_the_example_that_the_tests_run() -> None:
    assert len(BLOCKS) - len(SCRIPTS) == len(FILES) == 3


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_the_pages_scripts_run(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SCRIPTS[number].replace("/tmp/gg", str(tmp_path / "gg")), f"README.md:{number}", "exec"), {})
    assert capsys.readouterr().out


def test_the_page_names_every_fault_verb() -> None:
    verbs = {name for name, value in vars(Faults).items() if not name.startswith("_") and callable(value)} - {"attach"}
    assert {name.replace("-", "_") for name in _FAULTS} == verbs - {"inject_event"}
    assert [verb for verb in sorted(verbs) if f"`{verb}(" not in PAGE] == []


def test_the_page_names_every_operation_of_the_sdk() -> None:
    operations = {name.removeprefix("new_") for name in vars(GreengrassCoreIPCClient) if name.startswith("new_")}
    named = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in re.findall(r"\b[A-Z][A-Za-z]+\b", PAGE)}
    named |= {name.replace("io_t_", "iot_") for name in named}
    assert operations - named == set()
