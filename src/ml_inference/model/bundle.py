"""Loads a model directory, and only if every check holds.

The order of the checks is the safety: a damaged booster can crash or hang the process inside XGBoost, so nothing is
given to XGBoost before its checksum and version are known to be right. Pickles and the old binary format are never read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xgboost

from ml_inference.model.compiled import MAX_BYTES as MAX_COMPILED_BYTES
from ml_inference.model.forest import read_forest
from ml_inference.model.golden import check_golden
from ml_inference.model.manifest import (
    MANIFEST_FILE,
    Manifest,
    ModelError,
    booster_feature_name,
    parse_manifest,
    read_file,
    read_manifest_bytes,
)
from ml_inference.model.objectives import objective_of
from ml_inference.model.scorer import Scorer, reason
from ml_inference.model.trust import check_signature
from ml_inference.model.verification import verify_in_child

MAX_BOOSTER_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Model:
    """A model that passed every check and is warm.

    Attributes:
        manifest: What it expects and promises.
        scorer: Its booster.
        directory: Where it was loaded from.
    """

    manifest: Manifest
    scorer: Scorer
    directory: Path


def load_model(
    directory: Path, *, trusted_keys: Sequence[str] = (), expected: Manifest | None = None, walked: bool = False
) -> Model:
    """Load a model directory.

    Checks, in this order: the manifest's own rules; its signature, if there are trusted keys; the booster's SHA-256; that
    neither manifest nor booster comes from a newer xgboost, and both from the same; number, names and order of the
    features; the objective; that its trees are sound, also where no golden reading comes by; the golden scores within 1e-5, of single readings and of sequences. Scoring the golden readings, one at a time as in operation, also
    warms the booster up (its first prediction is 3 to 6 times slower).

    Args:
        directory: Holds `manifest.json` and the booster.
        trusted_keys: Ed25519 public keys (base64); if there are any, one of them must have signed the manifest.
        expected: What the manifest must say; None for no such demand.
        walked: Whether a child has walked the booster's trees already.

    Raises:
        ModelError: A check failed; the message begins with the check's name.
    """
    content = read_manifest_bytes(directory)
    manifest = parse_manifest(content)
    if trusted_keys:
        check_signature(directory, content, trusted_keys)
    if expected is not None and manifest != expected:
        raise ModelError(f"manifest: {directory / MANIFEST_FILE} changed while the model was being checked")
    data = _read_booster(directory, manifest)
    _check_version(data, manifest)
    booster = parse_booster(data)
    _check_features(booster, manifest)
    _check_objective(booster, manifest)
    if not walked:
        read_forest(booster)
    objective = manifest.objective if len(data) <= MAX_COMPILED_BYTES else ""
    model = Model(manifest, Scorer(booster, len(manifest.column_names), objective), directory)
    check_golden(model.manifest, model.scorer)
    return model


def load_verified(directory: Path, *, trusted_keys: Sequence[str] = ()) -> Model:
    """Load a model that is not known to be sound into a process that must not die of it.

    All checks run in a child process first (`verify_in_child`), then again here, on the same manifest and booster.

    Args:
        directory: Holds `manifest.json` and the booster.
        trusted_keys: As for `load_model`.

    Raises:
        ModelError: A check failed, or the booster crashed or hung the child.
    """
    expected = verify_in_child(directory, trusted_keys=trusted_keys)
    return load_model(directory, trusted_keys=trusted_keys, expected=expected, walked=True)


def parse_booster(data: bytes) -> xgboost.Booster:
    """Give the bytes of a booster, whose checksum is known to be right, to XGBoost.

    Raises:
        ModelError: XGBoost refuses them.
    """
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
    # A damaged booster raises errors of many types (XGBoostError, UnicodeDecodeError, ValueError, ...).
    except Exception as error:
        raise ModelError(f"booster: xgboost {xgboost.__version__} cannot load it: {reason(error)}") from error
    return booster


def booster_version(data: bytes) -> str | None:
    """The xgboost version that a booster file says it was written by.

    Both formats end in the key `version` with three integers. In UBJSON (https://ubjson.org/type-reference/) the array
    is `[`, optionally `#` and a count, then integers each behind its type: `i` or `U` one byte, `I` two, `l` four, `L` eight.

    Args:
        data: The whole file.

    Returns:
        Such as `3.2.0`, or None where the file does not say.
    """
    start = data.rfind(b"version")
    if start < 0:
        return None
    tail = data[start + len(b"version") : start + 64]
    if data[:1] == b"{" and (text := re.match(rb'"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]', tail)):
        return ".".join(str(int(part)) for part in text.groups())
    header = re.match(rb"\[(?:\#[iU].|\#I..|\#l.{4}|\#L.{8})?", tail, re.DOTALL)
    if header is None:
        return None
    sizes = {b"i": 1, b"U": 1, b"I": 2, b"l": 4, b"L": 8}
    position, parts = header.end(), []
    for _ in range(3):
        size = sizes.get(tail[position : position + 1])
        if size is None:
            return None
        parts.append(int.from_bytes(tail[position + 1 : position + 1 + size], "big"))
        position += 1 + size
    return ".".join(str(part) for part in parts)


def booster_objective(booster: xgboost.Booster) -> str:
    """Such as `binary:logistic`."""
    name: str = json.loads(booster.save_config())["learner"]["objective"]["name"]
    return name


def refuse_newer(version: str, what: str) -> None:
    """Refuse what a newer xgboost wrote: an older one scores it wrongly without a word (0.65 became 0.84).

    Raises:
        ModelError: `version` is newer than the installed xgboost.
    """
    if _version(version) > _version(xgboost.__version__):
        raise ModelError(
            f"{what}: written by xgboost {version}, this is xgboost {xgboost.__version__}, which would score it wrongly"
        )


def sha256(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _read_booster(directory: Path, manifest: Manifest) -> bytes:
    path = directory / manifest.booster.file
    data = read_file(path, MAX_BOOSTER_BYTES, "booster")
    if sha256(data) != manifest.booster.sha256:
        raise ModelError(f"checksum: {path.name} is not the file that the manifest describes (SHA-256 differs)")
    return data


def _check_version(data: bytes, manifest: Manifest) -> None:
    refuse_newer(manifest.xgboost_version, "manifest")
    version = booster_version(data)
    if version is None:
        raise ModelError("booster: does not say which xgboost wrote it")
    refuse_newer(version, "booster")
    if _version(version) != _version(manifest.xgboost_version):
        raise ModelError(
            f"booster: written by xgboost {version}, the manifest says {manifest.xgboost_version}: one of them was altered"
        )


def _check_features(booster: xgboost.Booster, manifest: Manifest) -> None:
    names = manifest.column_names
    if booster.num_features() != len(names):
        raise ModelError(f"features: the booster has {booster.num_features()}, the manifest {len(names)}")
    if booster.feature_names is None:
        return  # A booster trained on plain arrays holds no names; the golden scores guard the order.
    for column, (held, name) in enumerate(zip(booster.feature_names, names, strict=True)):
        if held not in (name, booster_feature_name(name)):
            raise ModelError(f"features: column {column} is {held!r} in the booster and {name!r} in the manifest")


def _check_objective(booster: xgboost.Booster, manifest: Manifest) -> None:
    objective = booster_objective(booster)
    objective_of(objective)
    if objective != manifest.objective:
        raise ModelError(f"objective: the booster's is {objective!r}, the manifest says {manifest.objective!r}")
