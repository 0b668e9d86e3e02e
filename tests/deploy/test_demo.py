"""The demo: the whole line in processes of its own, with names that `gdk-config.json` alone decides, and without a cloud for a while."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_inference.workbench.commands.demo import Books, DemoError

Command = Callable[..., Any]
MakeCheckout = Callable[[], Path]


def rename(project: Path, name: str) -> None:
    path = project / "gdk-config.json"
    config = json.loads(path.read_text())
    ((_, component),) = config["component"].items()
    path.write_text(json.dumps(config | {"component": {name: component}}))


@pytest.fixture
def renamed(make_checkout: MakeCheckout) -> Path:
    """A checkout whose components have other names, and run in the tests' environment instead of making their own."""
    copy = make_checkout()
    for project, name in ((copy, "com.acme.Judge"), (copy / "components" / "simulator", "com.acme.Line")):
        rename(project, name)
        recipe = project / "recipe.yaml"
        text = re.sub(r"'exec python3 [^']* install [^']*'", "'true'", recipe.read_text())
        text, runs = re.subn(r"'exec python3 \"[^\"]*\" run \"[^\"]*\" ", f'\'exec "{sys.executable}" ', text)
        assert runs == 2  # one for each architecture
        recipe.write_text(text)
    return copy


def counts(printed: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"^  (\w+) +(\d+)  ", printed, re.MULTILINE)}


@pytest.mark.parametrize("profile", ["lite", "classic"])
def test_components_with_other_names_lose_nothing_although_the_cloud_goes_away(
    renamed: Path, command: Command, profile: str
) -> None:
    arguments = ("--profile", profile, "--machines", 8, "--offline-after", 2, "--seconds", 4)
    done = command(sys.executable, "-m", "ml_inference", "demo", *arguments, cwd=renamed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the cloud is out of reach" in done.stdout
    books = counts(done.stdout)
    assert books["lost"] == 0
    assert books["published"] == books["scored"] > 8
    assert books["sent"] == books["scored"] + books["rejected"]


def test_a_component_that_cannot_be_built_is_one_line(renamed: Path, command: Command) -> None:
    rename(renamed, "a name with blanks")
    done = command(sys.executable, "-m", "ml_inference", "demo", cwd=renamed)
    assert done.returncode == 1
    assert done.stderr.startswith("ml-inference demo: build_component: ")
    assert done.stderr.count("\n") == 1


def test_an_installation_that_fails_says_why(renamed: Path, command: Command) -> None:
    recipe = renamed / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("Script: 'true'", "Script: 'echo no room; exit 1'"))
    done = command(sys.executable, "-m", "ml_inference", "demo", cwd=renamed)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "com.acme.Judge 1.0.0: install failed 3 times, see " in line
    assert line.endswith(": no room")


def test_a_nucleus_that_has_ended_is_one_line(renamed: Path, command: Command) -> None:
    (renamed / ".sandbox").write_text("in the place of the stand-in's folder")
    done = command(sys.executable, "-m", "ml_inference", "demo", cwd=renamed)
    assert done.returncode == 1
    assert done.stderr.startswith("ml-inference demo: cannot use ")
    assert done.stderr.count("\n") == 1


def test_without_the_stand_in_the_demo_says_what_installs_it(command: Command, checkout: Path) -> None:
    code = "import sys; sys.modules['greengrass_sandbox'] = None; from ml_inference.cli.main import main; sys.exit(main(['demo']))"
    done = command(sys.executable, "-c", code, cwd=checkout)
    assert done.returncode == 1
    assert done.stderr == "ml-inference demo: needs the nucleus stand-in: pip install ./packages/greengrass-sandbox\n"


def test_a_result_that_reaches_the_cloud_twice_counts_once() -> None:
    books = Books(simulator="com.acme.Line", sent=2, scored=2)
    for identifier in ("a", "b", "b"):
        books.take({"event": "cloud", "topic": "t", "payload": {"id": identifier}})
    assert (books.cloud, books.repeats, books.lost) == (2, 1, 0)
    assert counts(books.summary()) == {"sent": 2, "scored": 2, "rejected": 0, "published": 2, "repeated": 1, "lost": 0}


def test_what_the_stand_in_refuses_ends_the_demo() -> None:
    with pytest.raises(DemoError, match="no such component"):
        Books(simulator="com.acme.Line").take({"event": "error", "message": "no such component"})
