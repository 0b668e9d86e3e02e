"""The tests use the nucleus stand-in as an outsider does: by the names that it exports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "packages" / "greengrass-sandbox" / "src" / "greengrass_sandbox"


def private_names(folder: Path) -> set[str]:
    """Names with one underscore that the folder's modules define."""
    trees = [ast.parse(path.read_text()) for path in folder.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in attributes | defined if name.startswith("_") and not name.startswith("__")}


def users() -> Iterator[Path]:
    """Python files of the repository that import the stand-in, its own tests excepted."""
    for folder in ("src", "tests", "components", "benchmarks", "examples", "scripts", "packages"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            if CHECKOUT / "packages" / "greengrass-sandbox" / "src" in path.parents or path == Path(__file__).resolve():
                continue
            if path.parent == CHECKOUT / "packages" / "greengrass-sandbox" / "tests":
                continue
            if "greengrass_sandbox" in path.read_text():
                yield path


@pytest.fixture(scope="module")
def private() -> set[str]:
    """What only the stand-in itself may use."""
    return private_names(PACKAGE) - private_names(CHECKOUT / "src")


@pytest.mark.parametrize("path", list(users()), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_it_uses_exported_names_only(path: Path, private: set[str]) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("greengrass_sandbox"):
            assert node.module == "greengrass_sandbox"
        elif isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("greengrass_sandbox.")]
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            assert node.attr not in private
