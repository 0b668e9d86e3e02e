"""The examples of the page in the documentation run as they stand there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from greengrass_sandbox.__main__ import _FAULTS
from greengrass_sandbox.faults import Faults

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "packages" / "greengrass-sandbox" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_on_a_device: None) -> Path:
    """The inference component's build in the current folder, which runs in the tests' environment and makes none of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "greengrass-build"
    (folder / "recipes").mkdir(parents=True)
    recipe = (CHECKOUT / "recipe.yaml").read_text()
    recipe = recipe.replace("{COMPONENT_NAME}", "com.example.MLInference").replace("{COMPONENT_VERSION}", "1.0.0")
    recipe = re.sub(r"'exec python3 [^']* install [^']*'", "'true'", recipe)
    recipe, runs = re.subn(
        r"'exec python3 [^']* run [^']* -m ml_inference run'",
        f"'exec \"{sys.executable}\" -m ml_inference run'",
        recipe,
    )
    assert runs == 2  # one for each architecture
    (folder / "recipes" / "recipe.yaml").write_text(recipe)
    artifact = folder / "artifacts" / "com.example.MLInference" / "1.0.0" / "ml-inference.zip"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_pages_examples_run(
    number: int, tmp_path: Path, build_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(EXAMPLES[number].replace("/tmp/gg", str(tmp_path / "gg")), f"{PAGE.name}:{number}", "exec"), {})
    printed = capsys.readouterr().out
    assert printed
    assert number > 0 or printed == "abnormal\n"  # as the first one's comment says


def test_the_page_names_every_fault_verb() -> None:
    verbs = {name for name in vars(Faults) if not name.startswith("_")} - {"attach"}
    assert {name.replace("-", "_") for name in _FAULTS} == verbs
    assert [verb for verb in sorted(verbs) if f"`{verb}(" not in PAGE.read_text()] == []
