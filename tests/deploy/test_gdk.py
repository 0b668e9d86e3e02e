"""The real GDK CLI builds every component. Set `GDK` to its command where it is not in the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]
MakeCheckout = Callable[[], Path]


@pytest.fixture(scope="module")
def gdk() -> str:
    found = shutil.which(os.environ.get("GDK", "gdk"))
    if found is None:
        pytest.skip("the GDK CLI is not installed: put gdk into the PATH, or its path into the variable GDK")
    return found


@pytest.mark.parametrize(
    ("project", "component"),
    [
        (".", "inference"),
        ("components/bridge", "bridge"),
        ("components/dashboard", "dashboard"),
        ("components/model", "model"),
        ("components/simulator", "simulator"),
    ],
)
def test_gdk_builds_what_the_script_builds_and_warns_of_nothing(
    *, gdk: str, make_checkout: MakeCheckout, built: dict[str, Path], command: Command, project: str, component: str
) -> None:
    copy = make_checkout() / project
    done = command(gdk, "component", "build", cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    theirs, ours = (
        {path.relative_to(build): path.read_bytes() for path in build.rglob("*") if path.is_file()}
        for build in (copy / "greengrass-build", built[component])
    )
    assert theirs == ours


def test_make_build_says_how_to_install_gdk_where_it_is_missing(checkout: Path, command: Command) -> None:
    done = command("make", "--no-print-directory", "-f", "make/deploy.mk", "build", "GDK=no-such-command", cwd=checkout)
    assert done.returncode != 0
    assert "git+https://github.com/aws-greengrass/aws-greengrass-gdk-cli.git@v1.6.2" in done.stderr
