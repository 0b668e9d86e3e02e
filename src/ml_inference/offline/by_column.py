"""Scores a piece of a table by columns: what is plainly valid is never taken apart into readings.

For models that judge single readings of numbers. A row with anything to look at (a missing or impossible value, a time in an
unusual form) is left to the component's own validation, whose results these equal byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.delivery.encoding import dump
from ml_inference.limits import MAX_FLOAT32
from ml_inference.model.manifest import Feature, Manifest, ModelError
from ml_inference.model.scorer import FEW
from ml_inference.monitoring.states import ABNORMAL, NORMAL
from ml_inference.offline.cells import numbers_of
from ml_inference.offline.chunks import Chunk, Column, Dialect
from ml_inference.offline.time_column import uniform_moments
from ml_inference.scoring.outcomes import Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import MAX_IDENTIFIER_CHARACTERS
from ml_inference.times import TIME_KEYS, parse_timestamp

Bools = npt.NDArray[np.bool_]

_WISHES = ("explain", "held", "correlation_id")
_FIRST = np.datetime64("0001-01-01")


@dataclass(frozen=True, slots=True)
class Scored:
    """A piece, scored.

    Attributes:
        lines: A line of JSON for each row; None for a row that is yet to be looked at.
        abnormal: How many of them are abnormal.
    """

    lines: list[bytes | None]
    abnormal: int


class ColumnScorer:
    """Scores pieces of a table.

    Args:
        pipeline: Scores and judges.
        dialect: How the table is written.
        zone: Of times without an offset.
    """

    def __init__(self, pipeline: Pipeline, dialect: Dialect, zone: tzinfo) -> None:
        self._pipeline = pipeline
        self._dialect = dialect
        self._zone = zone
        self._features = pipeline.model.manifest.features

    @staticmethod
    def can(manifest: Manifest) -> bool:
        """Whether a model judges single readings of nothing but numbers, under names that are not the message's own."""
        own = {*TIME_KEYS, *_WISHES}
        return not manifest.needs_format_2 and not any(
            feature.categories or feature.name in own for feature in manifest.features
        )

    def score(self, chunk: Chunk) -> Scored | None:
        """Score a piece; None if it has columns that make each row a case of its own."""
        count = len(chunk.lines)
        # So few are scored in another way, whose last digit may differ.
        if count <= FEW or any(name in chunk.columns for name in _WISHES):
            return None
        if any(feature.name not in chunk.columns for feature in self._features):
            return None
        machines, moments = self._machines(chunk), self._moments(chunk)
        if machines is None or moments is None:
            return None
        values = np.empty((count, len(self._features)))
        valid = np.ones(count, dtype=bool)
        for column, feature in enumerate(self._features):
            valid &= self._take(chunk, feature, values[:, column])
        rows = np.flatnonzero(valid)
        lines: list[bytes | None] = [None] * count
        if len(rows) <= FEW:
            return Scored(lines, 0)
        return Scored(lines, self._fill(lines, rows, values[rows], machines, moments))

    def _fill(
        self,
        lines: list[bytes | None],
        rows: npt.NDArray[np.intp],
        values: npt.NDArray[np.float64],
        machines: Sequence[str],
        moments: Sequence[str],
    ) -> int:
        scores, verdicts = self._pipeline.verdicts(values.astype(np.float32))
        abnormal = [place for place, verdict in enumerate(verdicts) if verdict]
        explained = self._pipeline.explain(values[abnormal].tolist(), [scores[place] for place in abnormal])
        explanations = dict(zip(abnormal, explained, strict=True))
        manifest = self._pipeline.model.manifest
        message = Result(
            equipment_id="",
            timestamp="",
            correlation_id=None,
            score=0.0,
            threshold=self._pipeline.threshold,
            abnormal=None,
            state=None,
            state_changed=False,
            model_name=manifest.name,
            model_version=manifest.version,
        ).as_message()
        for place, (row, score, verdict) in enumerate(zip(rows.tolist(), scores, verdicts, strict=True)):
            if isinstance(score, ModelError):
                continue
            message["equipment_id"] = machines[row]
            message["timestamp"] = moments[row]
            message["score"] = score
            message["abnormal"] = verdict
            message["state"] = None if verdict is None else ABNORMAL if verdict else NORMAL
            if reasons := explanations.get(place):
                lines[row] = dump(message | {"explanation": [part.as_message() for part in reasons]}) + b"\n"
            else:
                lines[row] = dump(message) + b"\n"
        return len(abnormal)

    def _take(self, chunk: Chunk, feature: Feature, out: npt.NDArray[np.float64]) -> Bools:
        """A feature's values, and whether each is one that a device would score."""
        found = numbers_of(chunk, feature.name, self._dialect)
        low = -MAX_FLOAT32 if feature.minimum is None else feature.minimum
        high = MAX_FLOAT32 if feature.maximum is None else feature.maximum
        valid: Bools = (found.values >= low) & (found.values <= high)
        if feature.missing_allowed:
            valid |= np.isnan(found.values)
        if feature.missing_values:
            valid &= ~np.isin(found.values, feature.missing_values)
        valid[found.texts.positions] = False
        out[:] = found.values
        return valid

    def _machines(self, chunk: Chunk) -> Sequence[str] | None:
        cells: Any = chunk.columns.get("equipment_id")
        if cells is None:
            return [""] * len(chunk.lines)
        texts: Sequence[Any]
        if isinstance(cells, Column):
            if (coded := cells.coded()) is None:
                return None
            texts, codes = coded
        elif chunk.text:
            texts, codes = cells, np.arange(len(cells))
        else:
            return None
        named = [(cell or "").strip() if chunk.text else cell or "" for cell in texts]
        if any(len(name) > MAX_IDENTIFIER_CHARACTERS for name in named):
            return None
        return [named[code] for code in codes.tolist()]

    def _moments(self, chunk: Chunk) -> Sequence[str] | None:
        """The times as results carry them; None where they are not all written alike."""
        name = next((name for name in TIME_KEYS if name in chunk.columns), None)
        if name is None:
            return [parse_timestamp(self._pipeline.now())] * len(chunk.lines)
        moments = uniform_moments(list(chunk.columns[name]), self._zone)
        if moments is None or (moments < _FIRST).any():
            return None
        texts: list[str] = np.strings.add(np.datetime_as_string(moments, unit="ms"), "Z").tolist()
        return texts
