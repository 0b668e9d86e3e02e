"""How far the readings of a line have moved from those that its model was trained on.

A model goes on scoring when a sensor is replaced or a product changes, and says nothing about it. So the latest readings are
set against the manifest's histograms by the population stability index, PSI = sum((p - q) ln(p / q)) over the bins: zero
for the same distribution, by the rule of thumb a moderate shift from 0.1 and a large one from 0.25 (Siddiqi, "Credit Risk
Scorecards", 2006). It judges nothing and changes no score.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.model.manifest import Feature

BLOCK_READINGS = 1_000
"""Readings that are counted together: one by one they would cost more than their score in a batch does."""
BLOCK_VALUES = 100_000
"""Most values that wait to be counted, for a model of very many features."""
WINDOW_READINGS = 10_000
"""Latest readings that are compared. Of two samples of the same distribution the PSI is some (bins - 1) (1/n + 1/m)
(Yurdakul, "Statistical Properties of Population Stability Index", 2018): 0.004 here, far below what matters."""
SMOOTHING = 0.5
"""Added to each bin, or one that is empty on one side only would make the index infinite."""
NAMED = 3
"""Features in the health message."""

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The comparison of the latest readings.

    Attributes:
        readings: How many these were.
        features: Name and PSI of each feature with a histogram, the largest first.
    """

    readings: int
    features: tuple[tuple[str, float], ...]

    def as_message(self) -> dict[str, Any]:
        """As it stands in the health message."""
        largest = [{"feature": name, "psi": round(index, 4)} for name, index in self.features[:NAMED]]
        return {"readings": self.readings, "largest": largest}


class Drift:
    """Counts readings by the bins of the training data. One thread adds; any may read `report`.

    Args:
        features: The model's, in the order of the readings' values. Those without a histogram are left out.

    Attributes:
        report: Of the latest readings; None before `BLOCK_READINGS`, or if no feature has a histogram.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        known = [
            (column, feature.name, feature.histogram) for column, feature in enumerate(features) if feature.histogram
        ]
        self._columns = [column for column, _, _ in known]
        self._names = [name for _, name, _ in known]
        self._edges = [np.array(histogram.edges) for _, _, histogram in known]
        # Below the first edge and above the last there was nothing.
        self._expected = [_shares(np.array([0, *histogram.counts, 0])) for _, _, histogram in known]
        self._block = max(1, min(BLOCK_READINGS, BLOCK_VALUES // max(1, len(features))))
        self._rows: list[Sequence[float]] = []
        self._counts: deque[list[_Counts]] = deque(maxlen=max(1, WINDOW_READINGS // self._block))
        self.report: DriftReport | None = None

    def add(self, values: Sequence[float]) -> None:
        """Take one reading into account.

        Args:
            values: In the features' order and units.
        """
        if not self._columns:
            return
        self._rows.append(values)
        if len(self._rows) == self._block:
            self._count()

    def _count(self) -> None:
        rows = np.array(self._rows, dtype=np.float64)
        self._rows.clear()
        counts = []
        for column, edges in zip(self._columns, self._edges, strict=True):
            values = rows[:, column]
            bins = np.searchsorted(edges, values, side="right")
            bins[values == edges[-1]] = len(edges) - 1  # the last bin holds both its edges
            counts.append(np.bincount(bins, minlength=len(edges) + 1))
        self._counts.append(counts)
        readings = len(self._counts) * self._block
        if readings < BLOCK_READINGS:
            return
        actual = [_shares(np.sum(parts, axis=0)) for parts in zip(*self._counts, strict=True)]
        indices = [float(np.sum((p - q) * np.log(p / q))) for p, q in zip(actual, self._expected, strict=True)]
        named = sorted(zip(self._names, indices, strict=True), key=lambda pair: -pair[1])
        self.report = DriftReport(readings, tuple(named))


def _shares(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray((counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts)), dtype=np.float64)
