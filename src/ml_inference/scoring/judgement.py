"""How a score becomes a verdict: the threshold in force and the rule that applies it.

Pure, and the only place that knows the rule; it never sees a reading.
"""

from __future__ import annotations

from dataclasses import dataclass

from ml_inference.model.manifest import Manifest
from ml_inference.scoring.outcomes import Score


@dataclass(frozen=True, slots=True)
class Judgement:
    """How scores become verdicts.

    Attributes:
        threshold: Overrides the manifest's; None to keep that.
        debounce_readings: Readings in a row that change a machine's state; at least 1.
        explain_top_k: Features named with an abnormal result; 0 for none.
    """

    threshold: float | None = None
    debounce_readings: int = 1
    explain_top_k: int = 3

    def threshold_for(self, manifest: Manifest) -> float | None:
        """The threshold in force for a model; None where neither the configuration nor the manifest sets one."""
        return manifest.threshold if self.threshold is None else self.threshold


def is_abnormal(score: Score, threshold: float | None, normal_class: int | None) -> bool | None:
    """Apply the threshold to one score.

    Args:
        score: The booster's output: a number, or the probability of each class.
        threshold: From where on it is abnormal; None where none is set.
        normal_class: Index of the class of normal operation; None where the model names none.

    Returns:
        The verdict; None where no verdict can be given.
    """
    if threshold is None:
        return None
    if isinstance(score, list):
        return None if normal_class is None else 1.0 - score[normal_class] >= threshold
    return score >= threshold
