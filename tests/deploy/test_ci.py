"""What CI runs: the same on every machine, whatever its environment and wherever the checkout lies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MAKEFILE = """\
lint:
	@pwd; ls -A | sort | paste -sd ' '; env
test:
	@echo all tests; exit $(FAILED)
coverage:
	@echo the floor; exit $(BELOW)
FAILED := 0
BELOW := 0
%:
	@:
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], None]:
    """Puts a program before the system's."""
    (tmp_path / "bin").mkdir()

    def make(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    make("dpkg-query", "echo installed")
    return make


@pytest.fixture
def project(checkout: Path, tmp_path: Path) -> Path:
    """A repository with CI's script and targets that tell how they are run."""
    project = tmp_path / "project"
    (project / ".ci").mkdir(parents=True)
    (project / ".ci" / "run").write_bytes((checkout / ".ci" / "run").read_bytes())
    (project / "Makefile").write_text(MAKEFILE)
    (project / ".gitignore").write_text("ignored\n")
    (project / "ignored").touch()
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    return project


def run(project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{project.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", ".ci/run"], cwd=project, env={"HOME": os.environ["HOME"], **variables, "PATH": path},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("program")
def test_the_tests_see_the_settings_of_the_package_index_and_nothing_else_of_the_environment(project: Path) -> None:
    index = {"PIP_INDEX_URL": "https://index.example", "UV_CACHE_DIR": "/c", "https_proxy": "p", "SSL_CERT_FILE": "/f"}
    done = run(project, PYTHONUNBUFFERED="1", TMPDIR=str(project.parent), AWS_PROFILE="mine", CI="true", **index)
    assert done.returncode == 0, done.stderr
    environment = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    own = {"MAKEFLAGS", "MAKELEVEL", "MAKE_TERMERR", "MAKE_TERMOUT", "MFLAGS", "OLDPWD", "PWD", "SHLVL", "_"}
    assert set(environment) - own == {"CI", "HOME", "LANG", "PATH", *index}
    assert environment["LANG"] == "C.UTF-8"


@pytest.mark.usefixtures("program")
def test_the_tests_run_in_a_copy_whose_path_has_a_blank_parentheses_and_hangul(project: Path) -> None:
    done = run(project, TMPDIR=str(project.parent))
    directory, files = done.stdout.splitlines()[:2]
    assert {" ", "(", ")", "체"} <= set(directory)
    assert files == ".ci .gitignore Makefile"
    assert done.stdout.splitlines()[-2:] == ["all tests", "the floor"]
    assert not Path(directory).exists()


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("what", ["FAILED", "BELOW"])
def test_a_test_that_fails_or_a_coverage_below_the_floor_fails_the_run(project: Path, what: str) -> None:
    (project / "Makefile").write_text(MAKEFILE.replace(f"{what} := 0", f"{what} := 3"))
    assert run(project).returncode == 2  # make's


@pytest.mark.parametrize("fails", [False, True])
def test_packages_that_are_missing_are_installed_and_named_where_that_fails(
    *, project: Path, program: Callable[[str, str], None], tmp_path: Path, fails: bool
) -> None:
    program("dpkg-query", "for last; do :; done; test $last = make || echo installed")
    program("id", "echo 1000")
    program("sudo", f'shift; "$@"; exit {int(fails)}')
    program("apt-get", f'echo "$@" >> {tmp_path}/asked')
    done = run(project)
    assert done.returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0].startswith("update")
    assert fails or asked[1].split()[-1] == "make"
    assert ("As root: apt-get install make" in done.stderr) == fails
