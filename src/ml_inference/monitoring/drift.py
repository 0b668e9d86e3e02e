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
"""Readings that enter the window, and leave it, together; at most 65,535, or the counts would not fit their type."""
WINDOW_READINGS = 10_000
"""Latest readings that are compared. Of two samples of the same distribution the PSI is some (bins - 1) (1/n + 1/m)
(Yurdakul, "Statistical Properties of Population Stability Index", 2018): 0.004 here, far below what matters."""
WAITING_VALUES = 16_000
"""Most values that wait to be counted together: one reading at a time would cost more than its score in a batch does, and
arrays of 128 KiB or more are asked for from the system each time (malloc's M_MMAP_THRESHOLD), at four times the cost."""
SMOOTHING = 0.5
"""Added to each bin, or one that is empty on one side only would make the index infinite."""
NAMED = 3
"""Features in the health message."""


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
        report: Of the latest readings, up to `WINDOW_READINGS` in whole blocks; a new one after each `BLOCK_READINGS`.
            None before the first of them, or if no feature has a histogram.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        known = [
            (column, feature.name, feature.histogram) for column, feature in enumerate(features) if feature.histogram
        ]
        self._columns = [column for column, _, _ in known]
        self._names = [name for _, name, _ in known]
        # The bins of all features lie one after another. Below a feature's first edge and above its last there was nothing.
        self._sizes = np.array([len(histogram.counts) + 2 for _, _, histogram in known], dtype=np.intp)
        self._starts = np.cumsum(self._sizes) - self._sizes
        expected = [count for _, _, histogram in known for count in (0, *histogram.counts, 0)]
        self._expected = self._shares(np.array(expected, dtype=np.float64))
        # A row for each feature, filled up with infinity to a power of two for the search in `_count`.
        longest = max((len(histogram.edges) for _, _, histogram in known), default=0)
        self._edges = np.full((len(known), 1 << longest.bit_length()), np.inf)
        for row, (_, _, histogram) in zip(self._edges, known, strict=True):
            # The last bin holds both its edges.
            row[: len(histogram.edges)] = [*histogram.edges[:-1], np.nextafter(histogram.edges[-1], np.inf)]
        self._waiting = max(1, min(BLOCK_READINGS, WAITING_VALUES // max(1, len(features))))
        self._rows: list[Sequence[float]] = []
        self._room = self._waiting
        self._block_readings = 0
        self._block = np.zeros(len(expected), dtype=np.uint16)
        self._blocks: deque[npt.NDArray[np.uint16]] = deque()
        self._window = np.zeros(len(expected), dtype=np.int64)
        self.report: DriftReport | None = None

    def add(self, values: Sequence[float]) -> None:
        """Take one reading into account.

        Args:
            values: In the features' order and units.
        """
        if not self._columns:
            return
        self._rows.append(values)
        if len(self._rows) == self._room:
            self._count()
            if self._block_readings == BLOCK_READINGS:
                self._compare()
            self._room = min(self._waiting, BLOCK_READINGS - self._block_readings)

    def _count(self) -> None:
        """Add the readings that wait to the block."""
        values = np.array(self._rows, dtype=np.float64)[:, self._columns]
        self._block_readings += len(self._rows)
        self._rows.clear()
        # A binary search in all features at once: a call for each would cost many times as much where there are thousands.
        width = self._edges.shape[1]
        edges, firsts = self._edges.ravel(), np.arange(len(self._edges)) * width
        places = np.tile(firsts, (len(values), 1))
        step = width // 2
        while step:
            places += step * (edges[places + (step - 1)] <= values)
            step //= 2
        np.add.at(self._block, places + (self._starts - firsts), np.uint16(1))

    def _compare(self) -> None:
        """Let the block into the window and the oldest one out of it, and report."""
        self._blocks.append(self._block)
        self._window += self._block
        if len(self._blocks) > WINDOW_READINGS // BLOCK_READINGS:
            self._window -= self._blocks.popleft()
        self._block, self._block_readings = np.zeros_like(self._block), 0
        p, q = self._shares(self._window), self._expected
        indices = np.add.reduceat((p - q) * np.log(p / q), self._starts).tolist()
        named = sorted(zip(self._names, indices, strict=True), key=lambda pair: -pair[1])
        self.report = DriftReport(len(self._blocks) * BLOCK_READINGS, tuple(named))

    def _shares(self, counts: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """What share of its feature's readings each bin holds."""
        totals = np.add.reduceat(counts, self._starts) + SMOOTHING * self._sizes
        return np.asarray((counts + SMOOTHING) / np.repeat(totals, self._sizes), dtype=np.float64)
