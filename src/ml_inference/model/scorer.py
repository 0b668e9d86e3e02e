"""Scores rows with one XGBoost booster and says why.

The only module on a device that calls XGBoost's prediction. It never validates: rows arrive complete, finite and in the
manifest's order. A booster is never changed once it is in use; a new model is a new `Scorer`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import xgboost

from ml_inference.model.compiled import compile_booster
from ml_inference.model.manifest import ModelError

FloatArray: TypeAlias = npt.NDArray[np.float32]
Score: TypeAlias = float | list[float]


FEW = 8
"""Rows that are scored sooner one by one without XGBoost than together with it."""


class Scorer:
    """One booster, ready to predict on one thread.

    XGBoost's default number of threads spins on the cores of a gateway (82 % of a core at 100 calls/s, against 6 % with
    one thread), so it is set to 1 here, once, before the first prediction.

    Args:
        booster: The loaded booster; this object becomes its only user.
        features: Number of columns.
        objective: The booster's, for scoring single readings without XGBoost; "" for always with it.
    """

    def __init__(self, booster: xgboost.Booster, features: int, objective: str = "") -> None:
        booster.set_param({"nthread": 1})
        self._single = compile_booster(booster, objective) if objective else None
        self._booster = booster
        self._features = features
        # A new array for each reading costs more than the copy into this one.
        self._row: FloatArray = np.empty((1, features), dtype=np.float32)

    def score(self, rows: Sequence[Sequence[float]] | FloatArray) -> list[Score]:
        """Predict.

        Args:
            rows: n rows of the manifest's features in its order and units.

        Returns:
            n scores in the order of the rows: a number, or for `multi:softprob` a list of class probabilities.

        Raises:
            ModelError: The booster cannot predict in place (a linear booster) or gives scores that are not finite.
        """
        if self._single is not None and len(rows) <= FEW:
            return [self._single(row) for row in rows]
        if len(rows) == 1:
            self._row[0] = rows[0]
            matrix = self._row
        else:
            matrix = np.asarray(rows, dtype=np.float32)
        try:
            predicted = self._booster.inplace_predict(matrix)
        except xgboost.core.XGBoostError as error:
            raise ModelError(f"booster: cannot predict: {reason(error)}") from error
        if not np.isfinite(predicted).all():
            raise ModelError("booster: gives scores that are not finite")
        scores: list[Score] = predicted.tolist()
        return scores

    def contributions(self, rows: Sequence[Sequence[float]] | FloatArray) -> npt.NDArray[np.float32]:
        """SHAP values of each feature for each row.

        TreeSHAP (Lundberg et al., "Consistent Individualized Feature Attribution for Tree Ensembles", 2018), exact, in
        the booster's margin: log-odds for `binary:logistic`, the target's unit for a regression.

        Args:
            rows: n rows of f features, as for `score`.

        Returns:
            Shape (n, f); for a multi-class model (n, classes, f). The bias is left out.

        Raises:
            ModelError: XGBoost has no SHAP values for this kind of booster (trees with vector leaves), or refuses the rows.
        """
        try:
            matrix = xgboost.DMatrix(np.asarray(rows, dtype=np.float32), nthread=1)
            values: npt.NDArray[np.float32] = self._booster.predict(matrix, pred_contribs=True, validate_features=False)
        except xgboost.core.XGBoostError as error:
            raise ModelError(f"booster: cannot explain its scores: {reason(error)}") from error
        return values[..., :-1]


def reason(error: Exception) -> str:
    """What XGBoost means by an error: the first line, without the time, the place in its source and the native stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0] == "std::bad_alloc":
        return "it asks for more memory than there is"
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0])[:300]
