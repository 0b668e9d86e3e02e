"""The build: an artifact that holds what is listed and nothing else, the same bytes each time."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Build = Callable[..., Path]
Command = Callable[..., Any]
MakeCheckout = Callable[[], Path]


def artifact(built: Path) -> Path:
    (found,) = (path for path in built.glob("artifacts/*/*/*") if path.is_file())
    return found


def names(built: Path) -> set[str]:
    with zipfile.ZipFile(artifact(built)) as archive:
        return set(archive.namelist())


def recipe(built: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((built / "recipes" / "recipe.yaml").read_text())
    return loaded


def test_the_artifact_holds_the_package_the_model_the_lock_and_nothing_else(built: dict[str, Path]) -> None:
    found = names(built["inference"])
    folders = ("src/ml_inference/", "artifacts/model/")
    assert {name for name in found if not name.startswith(folders)} == {
        "__main__.py",
        "LICENSE",
        "component.json",
        "requirements.lock",
    }
    assert {"artifacts/model/manifest.json", "artifacts/model/booster.ubj"} <= found
    assert {"src/ml_inference/__main__.py", "src/ml_inference/cli/run.py", "src/ml_inference/cli/verify.py"} <= found
    assert not [name for name in found if "__pycache__" in name or "/." in name or name.endswith((".pyc", ".html"))]
    assert artifact(built["inference"]).stat().st_size < 2 * 1024 * 1024


def test_commands_that_need_more_than_a_device_has_stay_out(checkout: Path, built: dict[str, Path]) -> None:
    found = names(built["inference"])
    assert not [name for name in found if "workbench" in name]
    config = json.loads((checkout / "gdk-config.json").read_text())
    ((_, component),) = config["component"].items()
    assert "src/ml_inference/workbench/*" in component["build"]["options"]["excludes"]


def test_what_is_shipped_imports_only_what_is_there_on_a_device(built: dict[str, Path]) -> None:
    on_a_device = {
        "awscrt",
        "awsiot",
        "ml_inference",
        "nacl",
        "numpy",
        "pydantic",
        "pydantic_core",
        "typing_extensions",  # pydantic needs it on every Python
        "xgboost",
        *sys.stdlib_module_names,
    }
    with zipfile.ZipFile(artifact(built["inference"])) as archive:
        sources = {name: archive.read(name) for name in archive.namelist() if name.startswith("src/")}
    missing: list[str] = []
    for name, source in sources.items():
        for imported in imports(source.decode()) if name.endswith(".py") else ():
            if imported.split(".")[0] not in on_a_device:
                missing.append(f"{name}: {imported}")
            place = f"src/{imported.replace('.', '/')}"
            if imported.startswith("ml_inference") and not {f"{place}.py", f"{place}/__init__.py"} & sources.keys():
                missing.append(f"{name}: {imported}")
    assert not missing


def imports(source: str) -> Iterator[str]:
    """Modules that are imported as soon as a module is; imports inside functions wait until they are needed."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)


def test_a_report_beside_the_model_stays_out(make_checkout: MakeCheckout, build: Build) -> None:
    copy = make_checkout()
    (copy / "artifacts" / "model" / "report.html").write_text("<html>")
    assert not [name for name in names(build(copy)) if name.endswith(".html")]
    assert not [name for name in names(build(copy / "components" / "model")) if name.endswith(".html")]


def test_the_same_files_give_the_same_bytes_whatever_their_times_and_modes(
    make_checkout: MakeCheckout, build: Build
) -> None:
    first, second = make_checkout(), make_checkout()
    for number, path in enumerate(sorted(second.rglob("*"))):
        path.chmod(0o700)
        os.utime(path, (number * 1e6, number * 1e6))
    (second / "src" / "ml_inference" / "__pycache__").mkdir(exist_ok=True)
    (second / "src" / "ml_inference" / "__pycache__" / "junk.pyc").write_bytes(b"junk")
    for project in ("", "components/model", "components/simulator"):
        bytes_of = [artifact(build(copy / project)).read_bytes() for copy in (first, second)]
        assert bytes_of[0] == bytes_of[1]


@pytest.mark.parametrize("version", ["2.3.4", "NEXT_PATCH"])
def test_the_artifact_says_which_version_of_which_component_it_is(
    make_checkout: MakeCheckout, build: Build, version: str
) -> None:
    copy = make_checkout()
    for project in (copy, copy / "components" / "model", copy / "components" / "simulator"):
        built = build(project, version=version)
        with zipfile.ZipFile(artifact(built)) as archive:
            stamp = json.loads(archive.read("component.json"))
        assert stamp == {"name": recipe(built)["ComponentName"], "version": version}


def test_a_changed_file_gives_other_bytes(make_checkout: MakeCheckout, build: Build) -> None:
    copy = make_checkout()
    before = artifact(build(copy)).read_bytes()
    with (copy / "src" / "ml_inference" / "__init__.py").open("a") as file:
        file.write("\n")
    assert artifact(build(copy)).read_bytes() != before


def test_a_component_is_renamed_in_gdk_config_and_nowhere_else(make_checkout: MakeCheckout, build: Build) -> None:
    built = build(make_checkout(), name="org.acme.Scoring", version="2.3.4", author='A "quoted" name')
    loaded = recipe(built)
    assert (loaded["ComponentName"], loaded["ComponentVersion"]) == ("org.acme.Scoring", "2.3.4")
    assert loaded["ComponentPublisher"] == 'A "quoted" name'
    assert artifact(built).parent == built / "artifacts" / "org.acme.Scoring" / "2.3.4"
    policies = loaded["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    assert all(key.startswith("org.acme.Scoring:") for service in policies.values() for key in service)
    assert "com.example" not in (built / "recipes" / "recipe.yaml").read_text()


def test_the_recipe_is_built_without_its_comments_and_means_the_same(make_checkout: MakeCheckout, build: Build) -> None:
    copy = make_checkout()
    source = (copy / "recipe.yaml").read_text()
    assert "# " in source
    text = (build(copy) / "recipes" / "recipe.yaml").read_text()
    assert "#" not in text.replace("greengrass#", "").replace("inference/#", "")
    filled_in = (
        source.replace("{COMPONENT_NAME}", "com.example.MLInference")
        .replace("{COMPONENT_VERSION}", "1.1.0")
        .replace("{COMPONENT_AUTHOR}", "Your company")
    )
    assert yaml.safe_load(text) == yaml.safe_load(filled_in)


def test_a_version_from_the_cloud_is_built_as_gdk_expects_it(make_checkout: MakeCheckout, build: Build) -> None:
    built = build(make_checkout(), version="NEXT_PATCH")
    assert artifact(built).parent.name == "NEXT_PATCH"
    assert recipe(built)["ComponentVersion"] == "NEXT_PATCH"


def test_an_older_version_does_not_stay_in_the_build(make_checkout: MakeCheckout, build: Build) -> None:
    copy = make_checkout()
    build(copy, version="1.0.0")
    built = build(copy, version="1.0.1")
    assert [path.name for path in (built / "artifacts" / "com.example.MLInference").iterdir()] == ["1.0.1"]


def test_wheels_are_taken_in_where_there_are_any(make_checkout: MakeCheckout, build: Build) -> None:
    copy = make_checkout()
    folder = copy / "wheelhouse" / "aarch64-3.11"
    folder.mkdir(parents=True)
    (folder / "some-1.0-py3-none-any.whl").write_bytes(b"wheel")
    assert "wheelhouse/aarch64-3.11/some-1.0-py3-none-any.whl" in names(build(copy))


def test_a_build_of_another_user_is_named_as_the_cause(make_checkout: MakeCheckout, build: Build) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # where another user may look
        copy = Path(shutil.copytree(make_checkout(), folder, dirs_exist_ok=True))
        built = build(copy)
        built.chmod(0o555)
        copy.chmod(0o755)
        stranger = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
        done: Any = subprocess.run(  # type: ignore[call-overload]
            ["/usr/bin/env", "python3", "scripts/build_component.py"],
            cwd=copy, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False, **stranger,
        )  # fmt: skip
        built.chmod(0o755)
    assert done.returncode == 1
    assert done.stderr.startswith(f"build_component: cannot remove {built}: Permission denied: ")
    assert done.stderr.endswith(f": sudo rm -r {built}\n")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda copy: (copy / "gdk-config.json").unlink(), "cannot read gdk-config.json"),
        (lambda copy: (copy / "gdk-config.json").write_text("{}"), "gdk-config.json is not as it should be"),
        (lambda copy: (copy / "requirements.lock").unlink(), "requirements.lock does not exist"),
        (lambda copy: [path.unlink() for path in (copy / "artifacts/model").iterdir()], "artifacts/model is empty"),
        (
            lambda copy: (copy / "recipe.yaml").write_text(
                (copy / "recipe.yaml").read_text().replace("{COMPONENT_NAME}", "fixed")
            ),
            "{COMPONENT_NAME} is missing",
        ),
        (
            lambda copy: (copy / "recipe.yaml").write_text(
                (copy / "recipe.yaml").read_text().replace("ml-inference.zip", "other.zip")
            ),
            "COMPONENT_VERSION/ml-inference.zip",
        ),
        (
            lambda copy: (copy / "recipe.yaml").write_text((copy / "recipe.yaml").read_text() + f"x: {'y' * 7000}\n"),
            "bytes when built",
        ),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    make_checkout: MakeCheckout, command: Command, spoil: Callable[[Path], Any], complaint: str
) -> None:
    copy = make_checkout()
    spoil(copy)
    done = command("python3", "scripts/build_component.py", cwd=copy)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
