# ruff: noqa: INP001, T201 - a command of its own, it prints
"""Deploys built components to the nucleus on this machine: `python3 scripts/deploy_local.py [PROJECT]...`.

It takes the nucleus's own command, `greengrass-cli` (classic) or `ggl-cli` (lite), whichever is there. The nucleus reads the files
after the command has returned and as another user, so they are put where it can, and stay: the next deployment removes those that no
nucleus can still be reading.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from build_component import BuildError, read_project

CLASSIC = ("greengrass-cli", "/greengrass/v2/bin/greengrass-cli")
LITE = ("ggl-cli",)
STAGED = "greengrass-deployment-"
SECONDS_KEPT = 3600.0
"""A deployment has ended by then: the longest part of it, `install`, may take half an hour."""


def stage(projects: list[Path], directory: Path) -> dict[str, str]:
    """Put the built recipes and artifacts of several projects together as both nuclei expect them.

    Args:
        projects: Directories with `gdk-config.json` and `greengrass-build/`.
        directory: Where to; gets `recipes/NAME-VERSION.yaml` (lite finds a recipe by its file name) and `artifacts/`.

    Returns:
        The version by component name.

    Raises:
        BuildError: A project is not built, or its version is not known here.
    """
    (directory / "recipes").mkdir(parents=True)
    components = {}
    for path in projects:
        project = read_project(path)
        if project.version == "NEXT_PATCH":
            raise BuildError(
                f"{path / 'gdk-config.json'}: a local deployment needs a version, only the cloud knows the next"
            )
        artifacts = path / "greengrass-build" / "artifacts" / project.name / project.version
        recipe = path / "greengrass-build" / "recipes" / "recipe.yaml"
        if not artifacts.is_dir() or not recipe.is_file():
            raise BuildError(
                f"{path}: {project.name} {project.version} is not built; run make artifacts, or make build"
            )
        shutil.copytree(artifacts, directory / "artifacts" / project.name / project.version)
        shutil.copyfile(recipe, directory / "recipes" / f"{project.name}-{project.version}.yaml")
        components[project.name] = project.version
    for staged in [directory, *directory.rglob("*")]:
        staged.chmod(0o755 if staged.is_dir() else 0o644)
    return components


def command_for(directory: Path, components: dict[str, str]) -> list[str]:
    """The nucleus's command that deploys what is staged.

    Raises:
        BuildError: There is no nucleus here.
    """
    recipes, artifacts = str(directory / "recipes"), str(directory / "artifacts")
    classic, lite = (next(filter(None, map(shutil.which, names)), None) for names in (CLASSIC, LITE))
    if classic:
        command = [classic, "deployment", "create", "--recipeDir", recipes, "--artifactDir", artifacts]
        command += [
            "--failure-handling-policy",
            "ROLLBACK",
        ]  # else a version that fails stays, and the one before is gone
        return command + [f"--merge={name}={version}" for name, version in components.items()]
    if lite:
        command = [lite, "deploy", "--recipe-dir", recipes, "--artifacts-dir", artifacts]
        return command + [f"--add-component={name}={version}" for name, version in components.items()]
    raise BuildError(
        f"no {CLASSIC[0]} and no {LITE[0]} here: run this on the device. On the classic nucleus the component "
        "aws.greengrass.Cli brings the command, and it wants sudo"
    )


def remove_older(folder: Path) -> None:
    """Remove what earlier deployments of this user staged.

    Args:
        folder: Holds their directories. It is open to everybody: links and others' directories stay.
    """
    for path in folder.glob(f"{STAGED}*"):
        status = path.lstat()
        if path.is_symlink() or status.st_uid != os.geteuid() or status.st_mtime > time.time() - SECONDS_KEPT:
            continue
        shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """Deploy the projects named on the command line."""
    parser = argparse.ArgumentParser(description="Deploy built components to the nucleus on this machine.")
    parser.add_argument("projects", nargs="*", type=Path, default=[Path()], help="directories with gdk-config.json")
    projects = parser.parse_args().projects
    # The system's folder for temporary files and not the checkout: lite reads it as a user that may not enter homes.
    directory = Path(tempfile.mkdtemp(prefix=STAGED))
    remove_older(directory.parent)
    try:
        command = command_for(directory, stage(projects, directory))
    except BuildError as error:
        shutil.rmtree(directory)
        print(f"deploy_local: {error}", file=sys.stderr)
        return 1
    print(" ".join(command))
    return subprocess.run(command, check=False).returncode  # noqa: S603 - the nucleus's own command


if __name__ == "__main__":
    sys.exit(main())
