"""How scores become verdicts: what is configured on top of the model, and the threshold in force.

Pure; it never sees a reading. The rule itself stands with the objectives (`model.objectives`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ml_inference.model.manifest import Manifest
from ml_inference.model.objectives import OBJECTIVES


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
        """The threshold in force for a model; None where none is set, or where the score is a verdict or a class itself."""
        objective = OBJECTIVES.get(manifest.objective)
        if objective is not None and not objective.threshold:
            return None
        return manifest.threshold if self.threshold is None else self.threshold
