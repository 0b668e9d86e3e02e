"""Whether a model directory can be trusted to score on this machine, found out in a child process.

A booster that crashes or hangs XGBoost becomes a refusal with a reason here, and never the end of the process that asks.
It never loads XGBoost itself: on a gateway that would cost its memory and import time twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Discriminator, TypeAdapter, ValidationError

from ml_inference.model.isolation import MEBIBYTE, IsolationError, run_isolated
from ml_inference.model.manifest import (
    Manifest,
    ModelCheckDeferredError,
    ModelError,
    parse_manifest,
    read_manifest_bytes,
)

VERIFY_SECONDS = 120.0
"""Of the processor. Importing numpy and XGBoost from a slow card takes a gateway tens of seconds; the checks themselves take few."""

_BASE_BYTES = 512 * MEBIBYTE
"""XGBoost, numpy and pydantic map 150 MiB; a manifest of 16 MB takes some 200 more."""
_BYTES_PER_BOOSTER_BYTE = 24
"""Twice what a booster in JSON takes while it is loaded (measured: 12; UBJSON: 4)."""


class Ready(BaseModel):
    """Every check holds.

    Attributes:
        ready: Always true; tells it from `NotReady`.
        name: Of the model.
        version: Of the model.
        features: Their number.
        objective: The booster's.
        golden: Number of golden readings that were scored.
        manifest_sha256: Of the manifest that was checked.
        signed: Whether a trusted key was asked for, and had signed it.
    """

    ready: Literal[True] = True
    name: str
    version: str
    features: int
    objective: str
    golden: int
    manifest_sha256: str
    signed: bool


class NotReady(BaseModel):
    """A check failed; the reason begins with its name."""

    ready: Literal[False] = False
    reason: str


_verdict: TypeAdapter[Ready | NotReady] = TypeAdapter(Annotated[Ready | NotReady, Discriminator("ready")])


def ready(manifest: Manifest, content: bytes, *, signed: bool) -> Ready:
    """What is said of a model that passed.

    Args:
        manifest: Its manifest.
        content: The manifest's exact bytes.
        signed: Whether a trusted key had signed it.
    """
    return Ready(
        name=manifest.name,
        version=manifest.version,
        features=len(manifest.features),
        objective=manifest.objective,
        golden=len(manifest.golden),
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        signed=signed,
    )


def verify_in_child(directory: Path, *, trusted_keys: Sequence[str] = (), seconds: float = VERIFY_SECONDS) -> Manifest:
    """Run all checks of `load_model` in a child process with limits on memory and time.

    Args:
        directory: Holds `manifest.json` and the booster.
        trusted_keys: Ed25519 public keys (base64); if there are any, one of them must have signed the manifest.
        seconds: Longest that the checks may take.

    Returns:
        The manifest that was checked.

    Raises:
        ModelCheckDeferredError: The child took too long, or the machine had no memory for it.
        ModelError: A check failed, or the booster crashed or filled the child.
    """
    directory = directory.resolve()
    # What needs no XGBoost is checked here: a wrong manifest is refused at once.
    content = read_manifest_bytes(directory)
    manifest = parse_manifest(content)
    try:
        size = (directory / manifest.booster.file).stat().st_size
    except OSError as error:
        raise ModelError(f"booster: cannot read {directory / manifest.booster.file}: {error.strerror}") from error
    keys = [f"--trusted-key={key}" for key in trusted_keys]
    try:
        _, answer, log = run_isolated(
            "ml_inference",
            ["verify", "--in-process", "--json", *keys, str(directory)],
            memory_bytes=_BASE_BYTES + _BYTES_PER_BOOSTER_BYTE * size,
            seconds=seconds,
        )
    except IsolationError as error:
        kind = ModelCheckDeferredError if error.transient else ModelError
        raise kind(f"booster: checking it {error}") from error
    try:
        verdict = _verdict.validate_json(answer)
    except ValidationError as error:
        last = log.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise ModelError(f"booster: checking it failed: {' '.join(last)[:300]}") from error
    if isinstance(verdict, NotReady):
        raise ModelError(verdict.reason)
    if verdict.manifest_sha256 != hashlib.sha256(content).hexdigest():
        raise ModelError(f"manifest: {directory} changed while it was being checked")
    return manifest
