"""What a second model would have said, so that it can be promoted with evidence.

The challenger scores the same messages in silence; nothing it says leaves the device but these figures.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ml_inference.scoring.outcomes import Outcome, Result

WINDOW = 1_000
"""Latest messages whose times the medians are of."""


def median(values: deque[float]) -> float | None:
    """The median, or None of nothing."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


@dataclass(slots=True)
class Comparison:
    """Champion and challenger over the same readings since the challenger was loaded.

    Attributes:
        name: The challenger's model name.
        version: Its version.
        compared: Readings that both scored.
        judged: Of those, on which at least one of them gave a verdict.
        agreed: Of those, with the same verdict.
        measured: Readings for which both scores are numbers.
        difference: Sum of the absolute differences of these.
        refused: Readings that only the challenger rejected.
    """

    name: str
    version: str
    compared: int = 0
    judged: int = 0
    agreed: int = 0
    measured: int = 0
    difference: float = 0.0
    refused: int = 0
    champion_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    challenger_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, champion: Outcome, challenger: Outcome, champion_seconds: float, challenger_seconds: float) -> None:
        """Compare what both made of one message."""
        self.champion_seconds.append(champion_seconds)
        self.challenger_seconds.append(challenger_seconds)
        for ours, theirs in zip(champion.items, challenger.items, strict=False):
            if not isinstance(ours, Result):
                continue
            if not isinstance(theirs, Result):
                self.refused += 1
                continue
            self.compared += 1
            if ours.abnormal is not None or theirs.abnormal is not None:
                self.judged += 1
                self.agreed += ours.abnormal == theirs.abnormal
            if isinstance(ours.score, float) and isinstance(theirs.score, float):
                self.measured += 1
                self.difference += abs(ours.score - theirs.score)

    def as_message(self) -> dict[str, Any]:
        """As it stands in the health message; times are medians in milliseconds."""
        return {
            "model": {"name": self.name, "version": self.version},
            "compared": self.compared,
            "agreement": round(self.agreed / self.judged, 6) if self.judged else None,
            "mean_score_difference": round(self.difference / self.measured, 6) if self.measured else None,
            "refused": self.refused,
            "latency_ms": {
                "champion": _milliseconds(median(self.champion_seconds)),
                "challenger": _milliseconds(median(self.challenger_seconds)),
            },
        }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
