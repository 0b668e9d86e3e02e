"""The golden check: known readings must score as on the training machine.

It notices swapped features, another version of XGBoost and a damaged booster, which load without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml_inference.model.history import History, Plan
from ml_inference.model.manifest import Feature, Manifest, ModelError, scores_agree
from ml_inference.model.objectives import is_abnormal, reasons
from ml_inference.model.over_time import Condition, Derived, TimedReading, holds
from ml_inference.model.scorer import Score, Scorer


def check_golden(manifest: Manifest, scorer: Scorer) -> None:
    """Score the golden readings and sequences, and compare.

    Args:
        manifest: Holds them, with the scores of the training machine.
        scorer: The booster.

    Raises:
        ModelError: A score differs by more than 1e-5, or an explanation cannot be computed.
    """
    rows = [manifest.row(golden.reading) for golden in manifest.golden]
    for number, (row, golden) in enumerate(zip(rows, manifest.golden, strict=True)):
        (score,) = scorer.score([row])
        if not scores_agree(golden.score, score):
            raise ModelError(f"golden: reading {number} scores {score}, the manifest says {golden.score}")
    _check_explanation(manifest, scorer, rows)
    for number, sequence in enumerate(manifest.golden_sequences):
        scores = score_sequence(scorer, sequence.readings, manifest.features, manifest.derived, manifest.running or ())
        for place, (expected, score) in enumerate(zip(sequence.scores, scores, strict=True)):
            if not scores_agree(expected, score):
                raise ModelError(
                    f"golden_sequences: reading {place} of sequence {number} scores {score}, the manifest says {expected}"
                )


def _check_explanation(manifest: Manifest, scorer: Scorer, rows: Sequence[Sequence[float]]) -> None:
    """Explain one golden reading, an abnormal one where there is one, as operation does."""
    scores = [golden.score for golden in manifest.golden]
    verdicts = [is_abnormal(score, manifest.threshold, manifest) for score in scores]
    at = verdicts.index(True) if True in verdicts else 0
    contributions = scorer.contributions([rows[at]])[0]
    classes = len(contributions) if contributions.ndim > 1 else None
    names = manifest.classes
    if names is not None and classes != len(names):
        raise ModelError(f"classes: the manifest names {len(names)}, the booster has {classes or 'none'}")
    own = reasons(contributions, scores[at], manifest)
    if own is not None and (own.shape != (len(rows[at]),) or not np.isfinite(own).all()):
        raise ModelError(f"golden: the explanation of reading {at} is not a finite number for each feature")


def score_sequence(
    scorer: Scorer,
    readings: Sequence[TimedReading],
    features: Sequence[Feature],
    derived: Sequence[Derived],
    running: Sequence[Condition],
) -> list[Score]:
    """The scores of one machine's readings, from its very first one.

    Args:
        scorer: The booster.
        readings: n readings in the order in which they arrived.
        features: The manifest's.
        derived: The manifest's.
        running: The manifest's; empty for always.

    Returns:
        n scores.

    Raises:
        ModelError: The booster cannot score them.
    """
    rows = np.array([[feature.number(reading.values[feature.name]) for feature in features] for reading in readings])
    if derived:
        names = [feature.name for feature in features]
        columns = [(condition, names.index(condition.feature)) for condition in running]
        counts = [all(holds(condition, row[column]) for condition, column in columns) for row in rows.tolist()]
        history = History(Plan.of(derived, names))
        past = history.update_many([""] * len(rows), [reading.seconds for reading in readings], rows, counts)
        rows = np.hstack([rows, past])
    return scorer.score(rows.astype(np.float32))
