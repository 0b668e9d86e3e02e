"""Fits the booster: settings and number of trees by validation, then one booster on all development rows.

Each fold's validation rows stop its boosting early and are scored by a booster that never saw them; these scores choose the
settings and, later, the threshold. The booster that ships is trained on training and validation rows together, with the
settings and the mean number of trees that were found: on 10,000 rows with 3.5 % failures that is worth 0.02 of PR AUC over
leaving a fifth of the rows out of it. Classes are not reweighted: weights make probabilities wrong (log loss 0.064 instead of
0.053 there) and ranked no better; a rare class is the threshold's business. It must never see a held-out row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from ml_inference.model.manifest import booster_feature_name
from ml_inference.workbench.training.inputs import Inputs
from ml_inference.workbench.training.metrics import SMALLEST_CHANCE
from ml_inference.workbench.training.split import Fold, Rows, Split
from ml_inference.workbench.training.table import FloatArray
from ml_inference.workbench.training.target import Target, Task

SEARCH_RATE = 0.1
FINAL_RATE = 0.05
PATIENCE = 50
"""Rounds without improvement on validation rows after which boosting stops."""
SEARCH_ROWS = 20_000
MANY_ROWS = 100_000
FOLD_ROWS = 400_000
"""Rows that a booster of a fold learns from at most, drawn at random: neighbouring readings are alike, and these boosters only
choose the number of trees, the threshold and the levels. The booster that ships learns from all."""
SUBSAMPLE = 0.8
"""Share of the rows that each tree sees."""
BINS = 512
"""Candidate split points a feature, twice XGBoost's default: machines fail at sharp limits, and on a table of such limits it
is worth 0.006 of PR AUC. A device pays nothing for it."""
SETTINGS: tuple[Mapping[str, Any], ...] = tuple(
    {"max_depth": depth, "colsample_bynode": columns} for depth in (7, 3, 5, 9) for columns in (1.0, 0.7)
)
"""The first is kept unless another one is better beyond doubt: on six kinds of tables it was close to the best of all, and
simply taking the lowest loss, which is mostly luck, gave away up to a third of the gain over XGBoost's defaults."""
SURE = 2.0
"""Standard errors by which other settings must be better."""
METRICS: Mapping[Task, str] = {Task.BINARY: "logloss", Task.MULTI_CLASS: "mlogloss", Task.REGRESSION: "rmse"}


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted booster.

    Attributes:
        booster: Content of a `.ubj` file.
        trees: Boosting rounds; of a multi-class booster each has a tree a class.
        settings: XGBoost's parameters that are not its defaults.
        loss: The validation rows' loss, by `metric`.
        metric: XGBoost's name of the loss.
        validated: Rows that have a validation score, ascending.
        scores: Shape (validated rows,) or (validated rows, classes), each by a booster that did not see its row.
    """

    booster: bytes
    trees: int
    settings: Mapping[str, Any]
    loss: float
    metric: str
    validated: Rows
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Validated:
    """What validation rows said: rounds, loss and scores."""

    rounds: int
    loss: float
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Trainer:
    inputs: Inputs
    target: Target
    seed: int
    max_trees: int

    def parameters(self, settings: Mapping[str, Any], rate: float) -> dict[str, Any]:
        classes = {"num_class": len(self.target.classes)} if self.target.task is Task.MULTI_CLASS else {}
        fixed = {"objective": self.target.task.value, "subsample": SUBSAMPLE, "max_bin": BINS, "seed": self.seed}
        return {**fixed, **classes, **settings, "learning_rate": rate}

    def matrix(
        self, rows: Rows, threads: int = 1, reference: xgboost.QuantileDMatrix | None = None
    ) -> xgboost.QuantileDMatrix:
        """Training rows, or validation rows where there are training rows to refer to."""
        values = self.inputs.withheld(rows, self.seed) if reference is None else self.inputs.values[rows]
        return xgboost.QuantileDMatrix(
            values,
            label=self.target.values[rows],
            feature_names=[booster_feature_name(name) for name in self.inputs.names],
            feature_types=self.inputs.types if self.inputs.categorical else None,
            enable_categorical=bool(self.inputs.categorical),
            nthread=threads,
            max_bin=BINS,
            ref=reference,
        )

    def validate(self, fold: Fold, settings: Mapping[str, Any], rate: float) -> _Validated:
        training = self.matrix(fold.training)
        watched = fold.validation[:: -(-len(fold.validation) // MANY_ROWS)]
        booster = xgboost.train(
            {**self.parameters(settings, rate), "eval_metric": METRICS[self.target.task], "nthread": 1},
            training,
            num_boost_round=self.max_trees,
            evals=[(self.matrix(watched, reference=training), "validation")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
        )
        rounds = booster.best_iteration + 1
        # In parts: a copy of all validation rows would cost as much memory again.
        parts = [fold.validation[at : at + MANY_ROWS] for at in range(0, len(fold.validation), MANY_ROWS)]
        scores = [booster.inplace_predict(self.inputs.values[part], iteration_range=(0, rounds)) for part in parts]
        return _Validated(rounds, float(booster.best_score), np.concatenate(scores))

    def final(self, rows: Rows, settings: Mapping[str, Any], rate: float, trees: int, threads: int) -> xgboost.Booster:
        parameters = {**self.parameters(settings, rate), "nthread": threads}
        return xgboost.train(parameters, self.matrix(rows, threads), num_boost_round=trees)


def _candidates(max_depth: int) -> list[Mapping[str, Any]]:
    """The settings whose trees are not too deep; where all are, trees of just that depth."""
    return [settings for settings in SETTINGS if settings["max_depth"] <= max_depth] or [
        {**settings, "max_depth": max_depth} for settings in SETTINGS[:2]
    ]


def fit_steps(split: Split, max_depth: int) -> int:
    """How many boosters `fit` trains, for a progress bar."""
    return (len(_candidates(max_depth)) + 1) * len(split.folds) + 1


def fit(
    inputs: Inputs,
    target: Target,
    split: Split,
    *,
    threads: int,
    seed: int,
    max_trees: int,
    max_depth: int,
    step: Callable[[], None],
) -> Fit:
    """Search the settings, validate the best, and train on all development rows.

    Boosters of folds are trained side by side on a thread each: threads within one booster wait for one another at every
    level of every tree, and a result must not depend on the number of cores.

    Args:
        inputs: The whole table's columns.
        target: n labels.
        split: Of the n rows.
        threads: Boosters trained at once; beyond 100,000 rows the final booster uses as many.
        seed: Of XGBoost's draws and of the search's sample.
        max_trees: Most boosting rounds; a limit for the device's time and memory.
        max_depth: Deepest trees; likewise.
        step: Called after each booster.
    """
    trainer = _Trainer(inputs, target, seed, max_trees)
    with ThreadPoolExecutor(threads, thread_name_prefix="fold") as pool:

        def validate(folds: Sequence[Fold], candidates: Sequence[Mapping[str, Any]], rate: float) -> list[_Validated]:
            jobs = [pool.submit(trainer.validate, fold, settings, rate) for settings in candidates for fold in folds]
            results = []
            for job in jobs:
                results.append(job.result())
                step()
            return results

        sample = _sample(split, seed)
        candidates = _candidates(max_depth)
        searched = validate(sample, candidates, SEARCH_RATE)
        by_settings = [searched[at : at + len(sample)] for at in range(0, len(searched), len(sample))]
        best = _best([_losses(target, sample, results) for results in by_settings])
        settings = candidates[best]
        # Half the rate takes about twice the trees; where those are not allowed, it would stop halfway.
        rounds = np.mean([result.rounds for result in by_settings[best]])
        rate = FINAL_RATE if SEARCH_RATE / FINAL_RATE * rounds <= max_trees else SEARCH_RATE
        folds = [Fold(_at_most(FOLD_ROWS, fold.training, seed), fold.validation) for fold in split.folds]
        validated = validate(folds, [settings], rate)
    trees = max(1, round(float(np.mean([result.rounds for result in validated]))))
    final_threads = threads if len(split.training) > MANY_ROWS else 1
    booster = trainer.final(split.training, settings, rate, trees, final_threads)
    step()
    rows = np.concatenate([fold.validation for fold in split.folds])
    order = np.argsort(rows, kind="stable")
    weights = [len(fold.validation) for fold in split.folds]
    return Fit(
        booster=bytes(booster.save_raw("ubj")),
        trees=trees,
        settings={**settings, "learning_rate": rate, "subsample": SUBSAMPLE, "max_bin": BINS},
        loss=float(np.average([result.loss for result in validated], weights=weights)),
        metric=METRICS[target.task],
        validated=rows[order],
        scores=np.concatenate([result.scores for result in validated])[order],
    )


def _at_most(count: int, rows: Rows, seed: int) -> Rows:
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def _losses(target: Target, folds: Sequence[Fold], results: Sequence[_Validated]) -> FloatArray:
    """The loss of each validation row, in the folds' order: the one that boosting minimises."""
    rows = np.concatenate([fold.validation for fold in folds])
    return row_losses(target.at(rows), np.concatenate([result.scores for result in results]))


def row_losses(target: Target, scored: npt.NDArray[np.float32]) -> FloatArray:
    """The loss of each row: the one that boosting minimises.

    Args:
        target: Of the rows.
        scored: Their scores.
    """
    truth, scores = target.values, scored.astype(np.float64)
    if target.task is Task.REGRESSION:
        residuals: FloatArray = scores - truth
        return residuals * residuals
    if target.task is Task.MULTI_CLASS:
        chance = scores[np.arange(len(truth)), truth.astype(int)]
    else:
        chance = np.where(truth > 0, scores, 1.0 - scores)
    losses: FloatArray = -np.log(np.maximum(chance, SMALLEST_CHANCE))
    return losses


def _best(losses: Sequence[FloatArray]) -> int:
    """The settings of least loss among those that beat the first by more than chance, or the first.

    Args:
        losses: Shape (n,) each, of the same rows: the rows' differences say how sure their mean is.
    """
    best = 0
    for at in range(1, len(losses)):
        difference = losses[at] - losses[0]
        sure = difference.mean() < -SURE * difference.std() / np.sqrt(len(difference))
        if sure and losses[at].mean() < losses[best].mean():
            best = at
    return best


def _sample(split: Split, seed: int) -> tuple[Fold, ...]:
    """The folds, thinned to what a search can afford; which rows validate what stays as it is."""
    rows = len(split.folds[0].training) + len(split.folds[0].validation)
    if rows <= SEARCH_ROWS:
        return split.folds
    random = np.random.default_rng(seed)
    share = SEARCH_ROWS / rows

    def thin(part: Rows) -> Rows:
        return np.sort(random.choice(part, max(2, round(len(part) * share)), replace=False))

    return tuple(Fold(thin(fold.training), thin(fold.validation)) for fold in split.folds)
