"""What a machine's own past is worth to a model: the validation loss with it and without it.

The difference is taken row by row and averaged over machines, whose rows are alike, so that its standard error is that of
machines. It never sees a held-out row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_inference.workbench.training.data import Data
from ml_inference.workbench.training.fit import Fit, row_losses
from ml_inference.workbench.training.target import Target

SURE = 2.0
"""Standard errors by which history must be better to be kept."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """Validation losses.

    Attributes:
        metric: XGBoost's name of the loss.
        without: Mean loss of single readings.
        with_history: With the past.
        standard_error: Of the difference, over machines.
    """

    metric: str
    without: float
    with_history: float
    standard_error: float

    @property
    def pays(self) -> bool:
        """Whether history is better beyond doubt."""
        return self.without - self.with_history > SURE * self.standard_error

    def __str__(self) -> str:
        """In words."""
        said = "kept" if self.pays else "left out: not better beyond doubt"
        return f"history {said} (validation loss {self.with_history:.4g}, without {self.without:.4g})"


def contributed(target: Target, data: Data, without: Fit, with_history: Fit) -> Contribution:
    """Compare two fits on the same validation rows.

    Args:
        target: Of the whole table.
        data: The table.
        without: Of single readings.
        with_history: With the past.
    """
    rows = with_history.validated
    plain, rich = (row_losses(target.at(rows), fitted.scores) for fitted in (without, with_history))
    assert data.machines is not None  # noqa: S101 - history needs them
    codes = np.unique(data.machines[rows], return_inverse=True)[1]
    sizes = np.bincount(codes)
    differences = np.bincount(codes, plain - rich) / sizes
    mean = float(np.average(differences, weights=sizes))
    # A weighted mean of machines: its error follows from how they scatter around it.
    spread = float(np.sqrt((sizes**2 * (differences - mean) ** 2).sum()) / sizes.sum())
    return Contribution(with_history.metric, float(plain.mean()), float(rich.mean()), spread)
