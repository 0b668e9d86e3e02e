# ruff: noqa: INP001, T201 - a command of its own, it prints
"""Builds a component of this repository: `python3 scripts/build_component.py [PROJECT]`.

GDK's custom build command. It writes what GDK's own build systems would, `greengrass-build/recipes/` and
`greengrass-build/artifacts/NAME/VERSION/`, and needs neither GDK nor any package. Against GDK's zip system it gains an artifact
that holds only what is named, and the same bytes for the same files on every machine: sorted names, fixed times and modes,
and no compression, whose output depends on the zlib at hand. It must never take in what is not listed in `gdk-config.json`.
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import hashlib
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_RECIPE_BYTES = 7_500
"""Nucleus lite reads a recipe into 8,196 bytes and needs more than that to take it apart; one of 9 kB fails."""

STAMP = "component.json"
"""File of the artifact with the component's name and version, so that what runs can say what was deployed."""

NEVER = ("__pycache__", "*.pyc", "*.egg-info", ".*")
"""Names that are nobody's content, wherever they are."""

FIRST_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class BuildError(Exception):
    """The component cannot be built; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Project:
    """What `gdk-config.json` says.

    Attributes:
        directory: The project's directory.
        name: The component's name.
        version: Its version, or `NEXT_PATCH`.
        author: Its publisher.
        zip_name: File name of the artifact.
        includes: Source file or folder, relative to the project, by its place in the artifact.
        optional: The same, for what may be absent.
        excludes: Patterns of places in the artifact that stay out.
    """

    directory: Path
    name: str
    version: str
    author: str
    zip_name: str
    includes: dict[str, str]
    optional: dict[str, str]
    excludes: tuple[str, ...]


def read_project(directory: Path) -> Project:
    """Read `gdk-config.json`.

    Args:
        directory: The project's directory.

    Raises:
        BuildError: It is missing or lacks something.
    """
    path = directory / "gdk-config.json"
    try:
        components: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["component"]
        ((name, component),) = components.items()
        options = component["build"]["options"]
        project = Project(
            directory=directory,
            name=name,
            version=component["version"],
            author=component["author"],
            zip_name=options["zip_name"],
            includes=options["includes"],
            optional=options.get("optional", {}),
            excludes=tuple(options.get("excludes", ())),
        )
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{path} is not as it should be: {error!r}") from error
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", project.name):
        raise BuildError(f"{path}: a component's name consists of letters, digits, '.', '_' and '-', not {name!r}")
    if not re.fullmatch(r"NEXT_PATCH|\d+\.\d+\.\d+([-+][A-Za-z0-9.+-]+)?", project.version):
        raise BuildError(f"{path}: {project.version!r} is no version such as 1.0.0, and not NEXT_PATCH")
    return project


def contents(project: Project) -> dict[str, Path]:
    """The artifact's files by their place in it.

    Raises:
        BuildError: Something that is listed is missing or empty.
    """
    found: dict[str, Path] = {}
    for place, source in {**project.includes, **project.optional}.items():
        path = project.directory / source
        if not path.exists():
            if place in project.optional:
                continue
            raise BuildError(f"{path} does not exist, and the artifact is to hold it")
        files = {place: path} if path.is_file() else {f"{place}/{below}": path / below for below in _walk(path)}
        kept = {name: file for name, file in files.items() if not _matches(name, project.excludes)}
        if not kept and place in project.includes:
            raise BuildError(f"{path} is empty, and the artifact is to hold it")
        found.update(kept)
    return found


def write_zip(project: Project, target: Path) -> None:
    """Write an archive that depends on the names and contents of the project's files alone.

    Args:
        project: The project.
        target: The archive.

    Raises:
        BuildError: Something that is listed is missing or empty.
    """
    files = {name: path.read_bytes() for name, path in contents(project).items()}
    files[STAMP] = (json.dumps({"name": project.name, "version": project.version}) + "\n").encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, FIRST_ZIP_TIME)
            entry.create_system = 3  # Unix, whatever this machine is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])


def build_recipe(source: str, project: Project) -> str:
    """The recipe with the project's name, version and author filled in, and without its comments.

    Args:
        source: Text of the project's `recipe.yaml`. Its comments stand on lines of their own.
        project: The project.

    Raises:
        BuildError: A placeholder is missing, or the result is too large for nucleus lite.
    """
    for placeholder in ("{COMPONENT_NAME}", "{COMPONENT_VERSION}", "{COMPONENT_AUTHOR}"):
        if placeholder not in source:
            raise BuildError(f"recipe.yaml: {placeholder} is missing, it is filled in from gdk-config.json")
    place = f"s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{project.zip_name}"
    if place not in source:
        raise BuildError(f"recipe.yaml: the artifact's Uri must be {place}, which `gdk component publish` completes")
    text = "".join(line for line in source.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    text = text.replace("{COMPONENT_NAME}", project.name).replace("{COMPONENT_VERSION}", project.version)
    text = text.replace("{COMPONENT_AUTHOR}", json.dumps(project.author)[1:-1])
    size = len(text.encode())
    if size > MAX_RECIPE_BYTES:
        raise BuildError(f"recipe.yaml: {size} bytes when built, nucleus lite takes at most {MAX_RECIPE_BYTES}")
    return text


def build(directory: Path) -> Path:
    """Build a project.

    Args:
        directory: Holds `gdk-config.json` and `recipe.yaml`.

    Returns:
        The artifact.

    Raises:
        BuildError: With what to change.
    """
    project = read_project(directory)
    recipe = build_recipe((directory / "recipe.yaml").read_text(encoding="utf-8"), project)
    output = directory / "greengrass-build"
    _remove(output)  # as GDK does: an artifact of an older version must not be published
    artifact = output / "artifacts" / project.name / project.version / project.zip_name
    artifact.parent.mkdir(parents=True)
    write_zip(project, artifact)
    (output / "recipes").mkdir()
    (output / "recipes" / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return artifact


def _remove(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        path = folder.resolve()
        raise BuildError(
            f"cannot remove {path}: {error.strerror}: if an earlier build ran with sudo (make deploy-local): sudo rm -r {path}"
        ) from error


def _walk(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        below = path.relative_to(folder)
        if path.is_file() and not any(_matches(part, NEVER) for part in below.parts):
            yield below.as_posix()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def main() -> int:
    """Build the project named on the command line, or that of the working directory, where GDK calls this."""
    parser = argparse.ArgumentParser(description="Build a Greengrass component: recipe and artifact.")
    parser.add_argument("project", nargs="?", type=Path, default=Path(), help="directory with gdk-config.json")
    try:
        artifact = build(parser.parse_args().project)
    except BuildError as error:
        print(f"build_component: {error}", file=sys.stderr)
        return 1
    data = artifact.read_bytes()
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    print(f"{artifact}: {len(data):,} bytes, SHA-256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
