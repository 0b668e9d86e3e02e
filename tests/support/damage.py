"""Boosters that are broken in ways that XGBoost does not survive, and model directories around them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any


def set_node(booster: bytes, field: str, node: int, value: int) -> bytes:
    """Overwrite an entry of an int32 array of the first tree of a booster in UBJSON.

    Args:
        booster: As `save_raw("ubj")` gives it.
        field: Such as `left_children`.
        node: Position in the array.
        value: What to write.
    """
    # The key is followed by `[$l#L`, a count of eight bytes, and the values.
    start = booster.index(field.encode() + b"[$l#L") + len(field) + 5 + 8 + 4 * node
    return booster[:start] + value.to_bytes(4, "big", signed=True) + booster[start + 4 :]


def crashing(booster: bytes) -> bytes:
    """XGBoost follows the parent of a node while it loads a booster, wherever that leads."""
    return set_node(booster, "parents", 1, 2**31 - 1)


def filling(booster: bytes) -> bytes:
    """An array that claims to hold 2^30 numbers."""
    start = booster.index(b"left_children[$l#L") + len("left_children[$l#L")
    return booster[:start] + (2**30).to_bytes(8, "big") + booster[start + 8 :]


def replace_booster(directory: Path, content: bytes) -> None:
    """Put another booster into a model directory, with a checksum that says it belongs there."""
    (directory / "booster.ubj").write_bytes(content)
    edit_manifest(directory, booster={"file": "booster.ubj", "sha256": hashlib.sha256(content).hexdigest()})


def edit_manifest(directory: Path, **fields: Any) -> None:
    """Change fields of a model directory's manifest."""
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def copy_of(directory: Path, target: Path) -> Path:
    """A copy of a model directory, to be broken."""
    return Path(shutil.copytree(directory, target))
