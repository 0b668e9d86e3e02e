"""Packages in a child process, so that a booster that crashes or hangs the loader is a reason and not the end."""

from __future__ import annotations

import shutil

from pydantic import ValidationError

from ml_inference.model.isolation import MEBIBYTE, IsolationError, run_isolated
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.request import Answer, Report, Request

_BASE_BYTES = 1024 * MEBIBYTE
_BYTES_PER_SOURCE_BYTE = 48
"""A booster in JSON takes 12 times its size while XGBoost loads it, and as much again while its trees are walked."""
_BYTES_PER_DATA_BYTE = 12
_PACKED = frozenset({".gz", ".parquet"})
_UNPACKED = 10
"""How much larger such a file may be as text."""

_BASE_SECONDS = 60.0
_BYTES_PER_SECOND = 500_000


def package_in_child(request: Request, *, seconds: float | None = None) -> Report:
    """Make a model directory.

    Args:
        request: What to package; its paths are absolute.
        seconds: Longest that it may take; None for what its size suggests.

    Raises:
        PackagingError: The source does not make a model, or killed, filled or hung the child.
    """
    source = request.source.stat().st_size
    data = sum(file.stat().st_size * (1 if file.suffix not in _PACKED else _UNPACKED) for file in request.data)
    before = _workshops(request)
    try:
        _, answer, log = run_isolated(
            "ml_inference.workbench.packaging",
            [],
            memory_bytes=_BASE_BYTES + _BYTES_PER_SOURCE_BYTE * source + _BYTES_PER_DATA_BYTE * data,
            seconds=seconds or _BASE_SECONDS + (source + data) / _BYTES_PER_SECOND,
            given=request.model_dump_json().encode(),
        )
    except IsolationError as error:
        # A child that was killed could not tidy up after itself.
        for left in _workshops(request) - before:
            shutil.rmtree(request.out.parent / left, ignore_errors=True)
        raise PackagingError(f"{request.label}: opening it {error}") from error
    try:
        said = Answer.model_validate_json(answer)
    except ValidationError as error:
        last = log.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise PackagingError(f"{request.label}: opening it failed: {' '.join(last)[:300]}") from error
    if said.report is None:
        raise PackagingError(said.error)
    return said.report


def _workshops(request: Request) -> set[str]:
    """The writer's temporary directories beside the target."""
    return {path.name for path in request.out.parent.glob(f".{request.out.name}.*")}
