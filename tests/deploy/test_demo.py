"""The demo: the whole line in processes of its own, with names that `gdk-config.json` alone decides, and without a cloud for a while."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_inference.workbench.commands.demo import LISTENERS, Books, DemoError, Part

CHECKOUT = Path(__file__).parents[2]
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
    for project, name in (
        (copy, "com.acme.Judge"),
        (copy / "components" / "simulator", "com.acme.Line"),
        (copy / "components" / "dashboard", "com.acme.Page"),
    ):
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
    assert re.search(r"the line in a browser: http://127\.0\.0\.1:\d+/", done.stdout)
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
    assert "com.acme.Judge 1.1.0: install failed 3 times, see " in line
    assert line.endswith(": no room")


def test_a_checkout_that_cannot_be_written_to_is_one_line(renamed: Path, command: Command) -> None:
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


def test_the_demos_lock_covers_the_lock_of_each_component_with_the_same_versions(checkout: Path) -> None:
    def pins(path: Path) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", path.read_text(), re.MULTILINE))

    demo = pins(checkout / "requirements-demo.lock")
    for part in (*LISTENERS, Part("components/simulator", {})):
        assert pins(checkout / part.project / "requirements.lock") <= demo


def test_a_second_demo_in_one_checkout_says_so(renamed: Path, command: Command, checkout: Path) -> None:
    folder = renamed / ".sandbox"
    folder.mkdir()
    with (folder / "demo.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for program in ((sys.executable, "-m", "ml_inference", "demo"), ("python3", "scripts/demo.py")):
            done = command(*program, cwd=renamed)
            assert done.returncode == 1
            assert done.stderr.endswith(f": a demo already runs in this checkout ({folder}): end it first\n")
            assert done.stderr.count("\n") == 1


# `make demo-line`: a PLC, the bridge, and all behind it.

LINE = ("scripts/demo_line.py", "--seconds", "2")


def test_from_the_plc_to_the_score_that_is_written_back_nothing_is_lost(
    make_checkout: MakeCheckout, command: Command
) -> None:
    done = command(sys.executable, *LINE, cwd=make_checkout())
    assert done.returncode == 0, done.stdout + done.stderr
    (changed,) = re.findall(r"changed in the PLC (\d+), and 24 before it began", done.stdout)
    assert int(changed) >= 24
    assert f"received {int(changed) + 24}: " in done.stdout
    (published, judged, back) = re.findall(
        r"published (\d+), scored or rejected (\d+); written back (\d+)", done.stdout
    )[0]
    assert int(published) == int(judged) >= int(back) > 0
    assert done.stdout.endswith("  lost 0\n")


def test_a_demo_of_a_line_that_cannot_begin_is_one_line(
    make_checkout: MakeCheckout, command: Command, tmp_path: Path
) -> None:
    copy = make_checkout()
    mapping = tmp_path / "line.json"
    mapping.write_text('{"features": {"a": {"unit": "furlong", "from_unit": "mm"}}}')
    (copy / ".sandbox").mkdir()
    for name, says in ((mapping, "'furlong' is not known"), (tmp_path / "none.json", "No such file")):
        done = command(sys.executable, *LINE, "--mapping", name, cwd=copy)
        assert done.returncode == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    with (copy / ".sandbox" / "line.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = command(sys.executable, *LINE, cwd=copy)
    assert done.returncode == 1
    assert "a demo already runs in this checkout" in done.stderr


def start(checkout: Path, command: Command, **variables: str) -> Any:
    """The demo in a checkout that has what it needs to prepare its environment."""
    shutil.copyfile(CHECKOUT / "requirements-demo.lock", checkout / "requirements-demo.lock")
    return command("python3", "scripts/demo.py", cwd=checkout, variables=variables)


def test_without_a_package_index_the_demo_says_so_and_leaves_nothing_half_made(
    make_checkout: MakeCheckout, command: Command
) -> None:
    copy = make_checkout()
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    done = start(copy, command, **nowhere, PIP_CONFIG_FILE=os.devnull)
    assert done.returncode != 0
    assert done.stderr.startswith("make demo: pip install: the package index cannot be reached")
    assert "Traceback" not in done.stderr
    assert [path.name for path in (copy / ".sandbox").iterdir()] == ["demo.lock"]


def test_a_python_that_cannot_make_environments_is_one_line(make_checkout: MakeCheckout, command: Command) -> None:
    code = (
        "import sys; sys.path[:0] = ['scripts', 'device']; import launcher; launcher.SUPPORTED = ('3.99',); import demo; "
        "sys.exit(demo.main())"
    )
    done = command(sys.executable, "-c", code, cwd=make_checkout())
    assert done.returncode == 1
    assert done.stderr.startswith("make demo: needs a Python 3.99; found: ")
    assert done.stderr.count("\n") == 1


def test_progress_in_a_log_is_a_line_a_step(checkout: Path, command: Command) -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import demo; progress = demo.Progress(2); "
        "[progress(line) for line in ('Collecting numpy==2 (from -r x)', 'Downloading numpy', 'Installing collected packages: n')]; "
        "progress.end()"
    )
    done = command(sys.executable, "-c", code, cwd=checkout)
    first, second, last = done.stdout.splitlines()
    assert first.startswith("make demo: preparing its environment")
    assert second == "  unpacking the packages"
    assert re.fullmatch(r"  ready after \d+ s", last)
