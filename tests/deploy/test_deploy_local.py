"""Local deployments: the nucleus's own command gets the built files where the nucleus can read them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Build = Callable[..., Path]
Command = Callable[..., "subprocess.CompletedProcess[str]"]
MakeCheckout = Callable[[], Path]


@pytest.fixture
def nucleus_command(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """A stand-in for a nucleus's command that writes down how it was called; the variables to find it."""

    def make(name: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/called"\nexit 5\n')
        program.chmod(0o755)
        return {"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}

    return make


@pytest.fixture(scope="module")
def checkout_with_builds(make_checkout: MakeCheckout, build: Build) -> Path:
    copy = make_checkout()
    build(copy, version="1.2.3")
    build(copy / "components" / "simulator")
    return copy


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "greengrass-cli",
            [
                *("deployment", "create", "--recipeDir", "recipes", "--artifactDir", "artifacts"),
                *("--failure-handling-policy", "ROLLBACK", "--merge="),
            ],
        ),
        ("ggl-cli", ["deploy", "--recipe-dir", "recipes", "--artifacts-dir", "artifacts", "--add-component="]),
    ],
)
def test_components_are_handed_to_the_nucleus_that_is_there(
    *,
    checkout_with_builds: Path,
    nucleus_command: Callable[[str], dict[str, str]],
    command: Command,
    tmp_path: Path,
    name: str,
    words: list[str],
) -> None:
    done = command(
        "python3", "scripts/deploy_local.py", ".", "components/simulator",
        cwd=checkout_with_builds, variables=nucleus_command(name),
    )  # fmt: skip
    assert done.returncode == 5, done.stderr  # the command's own
    called = (tmp_path / "called").read_text().splitlines()
    option = words.pop()
    assert called[len(words) :] == [
        f"{option}com.example.MLInference=1.2.3",
        f"{option}com.example.SensorSimulator=1.1.0",
    ]
    assert [Path(word).name if "/" in word else word for word in called[: len(words)]] == words
    recipes, artifacts = (Path(word) for word in called[: len(words)] if "/" in word)
    assert {path.name for path in recipes.iterdir()} == {
        "com.example.MLInference-1.2.3.yaml",
        "com.example.SensorSimulator-1.1.0.yaml",
    }
    assert (artifacts / "com.example.MLInference" / "1.2.3" / "ml-inference.zip").is_file()
    # The nucleus reads them as another user.
    assert recipes.parent.parent == tmp_path
    for path in [recipes.parent, *recipes.parent.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_what_earlier_deployments_staged_goes_once_no_nucleus_reads_it(
    checkout_with_builds: Path, command: Command, nucleus_command: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    old, recent, link = (tmp_path / f"greengrass-deployment-{name}" for name in ("old", "recent", "link"))
    others = tmp_path / "others"
    for folder in (old, recent, others):
        (folder / "recipes").mkdir(parents=True)
    link.symlink_to(others)
    for path in (old, others):
        os.utime(path, (0, 0))
    os.utime(link, (0, 0), follow_symlinks=False)
    command("python3", "scripts/deploy_local.py", cwd=checkout_with_builds, variables=nucleus_command("ggl-cli"))
    assert (old.exists(), recent.exists(), link.exists(), (others / "recipes").exists()) == (False, True, True, True)
    assert len(list(tmp_path.glob("greengrass-deployment-*/artifacts"))) == 1


def test_a_machine_without_a_nucleus_is_told_so(checkout_with_builds: Path, command: Command, tmp_path: Path) -> None:
    done = command(
        "python3", "scripts/deploy_local.py", cwd=checkout_with_builds,
        variables={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("deploy_local: no greengrass-cli and no ggl-cli here")
    assert not list(tmp_path.iterdir())


def test_what_is_not_built_or_has_no_version_is_refused(
    make_checkout: MakeCheckout, build: Build, command: Command, nucleus_command: Callable[[str], dict[str, str]]
) -> None:
    copy, variables = make_checkout(), nucleus_command("ggl-cli")
    done = command("python3", "scripts/deploy_local.py", cwd=copy, variables=variables)
    assert (done.returncode, "com.example.MLInference 1.1.0 is not built" in done.stderr) == (1, True)
    build(copy, version="NEXT_PATCH")
    done = command("python3", "scripts/deploy_local.py", cwd=copy, variables=variables)
    assert (done.returncode, "needs a version" in done.stderr) == (1, True)
