"""The shape of the source: imports point one way, leaves stay light, classes stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ml_inference

SOURCE = Path(ml_inference.__file__).parent
LEAVES = {"lenient", "limits", "topics", "times", "backoff", "lean", "logs", "version", "wire"}
ROOMS = {
    "config",
    "model",
    "monitoring",
    "scoring",
    "greengrass",
    "delivery",
    "offline",
    "serving",
    "workbench",
}
ALLOWED = {
    "config": {"lenient", "topics", "limits", "times", "model"},
    "model": set(LEAVES),
    "monitoring": {*LEAVES, "model"},
    "scoring": {*LEAVES, "model", "monitoring"},
    "greengrass": {"backoff", "limits"},
    "delivery": {*LEAVES, "config", "model", "monitoring", "scoring", "greengrass"},
    "offline": {*LEAVES, "config", "model", "monitoring", "scoring", "delivery"},
    "serving": {*LEAVES, "config", "model", "monitoring", "scoring", "greengrass", "delivery"},
    "workbench": {*LEAVES, "config", "model", "monitoring", "scoring", "delivery", "offline"},
    "cli": {*ROOMS, *LEAVES},
    "__main__": {"cli"},
} | dict.fromkeys(LEAVES, LEAVES)
"""What each room may know of ours, beside itself; `ml_inference` itself holds the version."""
MAX_ATTRIBUTES = 15


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_point_one_way() -> None:
    wrong = []
    for name, tree in modules():
        room = "cli" if name.startswith("workbench.commands") else name.split(".", maxsplit=1)[0]
        for other in imported(tree):
            parts = other.split(".")
            if parts[0] != "ml_inference" or len(parts) == 1 or parts[1] == room:
                continue
            if parts[1] not in ALLOWED[room]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_only_greengrass_imports_the_sdk_and_nothing_imports_the_stand_in() -> None:
    for name, tree in modules():
        packages = {other.split(".")[0] for other in imported(tree)}
        if not name.startswith("greengrass."):
            assert not packages & {"awsiot", "awscrt"}, name
        if name != "workbench.commands.demo":  # the command that starts it, which a device does not have
            assert "greengrass_sandbox" not in packages, name


@pytest.mark.parametrize(
    "module", ["config", "topics", "limits", "serving.timing", "cli.schema", "backoff", "logs", "scoring.outcomes"]
)
def test_a_leaf_loads_neither_the_model_library_nor_the_sdk(module: str) -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; import ml_inference.{module}; print([name for name in ('xgboost', 'awscrt') if name in sys.modules])",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.stdout == "[]\n"


def test_no_class_has_more_attributes_than_a_reader_can_hold() -> None:
    large = []
    for name, tree in modules():
        for cls in ast.walk(tree):
            if isinstance(cls, ast.ClassDef):
                own = {
                    node.attr
                    for node in ast.walk(cls)
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.ctx, ast.Store)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "self"
                }
                if len(own) > MAX_ATTRIBUTES:
                    large.append(f"{name}.{cls.name}: {len(own)}")
    assert large == []
