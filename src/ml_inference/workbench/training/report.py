"""One HTML file about a training, for the person who has to decide whether to roll the model out.

It opens with what the model does, in a sentence; then what to beware of, then the evidence. It holds everything it needs
(styles, pictures) and asks no network for anything.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
import xgboost

from ml_inference import __version__
from ml_inference.model.bundle import parse_booster
from ml_inference.model.manifest import Manifest, booster_feature_name
from ml_inference.model.scorer import Scorer
from ml_inference.workbench.training import charts, summary
from ml_inference.workbench.training.judging import Judging
from ml_inference.workbench.training.levels import log_odds, smoothed
from ml_inference.workbench.training.metrics import abnormal_score
from ml_inference.workbench.training.run import Training
from ml_inference.workbench.training.split import Rows
from ml_inference.workbench.training.table import FloatArray
from ml_inference.workbench.training.target import Task

MOST_FEATURES = 20
"""Features that get a bar, a row of dots and a distribution; a page with two thousand pictures helps nobody."""

_SHAP_ROWS = 800
_MOST_CURVES = 8
_MOST_POINTS = 5_000
_MOST_TIMELINES = 6
_MEANINGS: Mapping[str, str] = {
    "roc_auc": "chance that an abnormal reading scores above a normal one; 0.5 is guessing",
    "pr_auc": "precision averaged over recall; guessing reaches the share of abnormal readings",
    "macro_roc_auc": "each class against the rest, mean over classes",
    "macro_pr_auc": "each class against the rest, mean over classes",
    "macro_f1": "of the most probable class, mean over classes",
    "accuracy": "share of readings whose most probable class is right",
    "brier": "mean squared error of the probability; 0 is perfect",
    "log_loss": "penalty for sure and wrong; 0 is perfect",
    "precision": "share of readings called abnormal that are",
    "recall": "share of abnormal readings that are called so",
    "f1": "harmonic mean of precision and recall",
    "mae": "mean absolute error, in the label's unit",
    "rmse": "root mean square error, in the label's unit",
    "r2": "share of the label's variance that is explained",
}
_TITLES: Mapping[str, str] = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "macro_roc_auc": "ROC AUC (macro)",
    "macro_pr_auc": "PR AUC (macro)",
    "macro_f1": "F1 (macro)",
    "log_loss": "Log loss",
    "f1": "F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
}
_HEADLINES = ("roc_auc", "pr_auc", "macro_roc_auc", "macro_f1", "precision", "recall", "mae", "rmse", "r2")


@dataclass(frozen=True, slots=True)
class _Picture:
    title: str
    svg: str
    note: str = ""
    wide: bool = False


def write_report(path: Path, training: Training, manifest: Manifest, command: str) -> None:
    """Write the report.

    Args:
        path: The HTML file; replaced if it is there.
        training: What to report.
        manifest: The model as written.
        command: What was run, for whoever wants to run it again.

    Raises:
        OSError: It cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["named"] = _named
    html = environment.get_template("report.html.j2").render(**_content(training, manifest, command))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".report", delete=False) as file:
        file.write(html)
    # The temporary file is private; a report is as readable as its neighbours.
    Path(file.name).chmod(0o666 & ~_umask())
    Path(file.name).replace(path)


def _named(svg: str, name: str) -> markupsafe.Markup:
    """A picture that says what it is to whoever cannot see it."""
    return markupsafe.Markup(svg.replace('role="img"', f'role="img" aria-label="{markupsafe.escape(name)}"', 1))  # noqa: S704 - our own drawing


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _content(training: Training, manifest: Manifest, command: str) -> dict[str, Any]:
    importance, explained = _explained(training)
    classes = training.target.classes
    return {
        "manifest": manifest,
        "created": manifest.created.replace("T", " ").replace("Z", " UTC"),
        "verdict": summary.verdict(training),
        "leaks": training.leaks,
        "warnings": summary.warnings(training),
        "headlines": [row for row in _figures(training) if row["name"] in _HEADLINES],
        "figures": _figures(training),
        "rule": None if training.rule is None else str(training.rule),
        "confusion": training.confusion,
        "matrix": _matrix(training),
        "faults": [] if training.judging is None else summary.noticed_by_fault(training.judging),
        "contribution": training.contribution,
        "wilson": summary.wilson,
        "poisson": summary.poisson,
        "alarms": training.alarms,
        "judging": training.judging,
        "alarm_figures": [] if training.judging is None else summary.alarm_figures(training.judging),
        "alarm_pictures": _alarm_pictures(training.judging),
        "horizon": training.request.horizon,
        "duration": summary.duration,
        "split": training.split,
        "parts": _parts(training),
        "normal": None if training.target.normal is None else classes[training.target.normal],
        "regression": training.target.task is Task.REGRESSION,
        "label": training.request.label,
        "data": training.data,
        "curves": _curves(training),
        "explained": explained,
        "features": _features(training, importance),
        "features_left": max(0, len(manifest.features) - MOST_FEATURES),
        "fit": training.fit,
        "settings": {**training.fit.settings, "objective": manifest.objective, "seed": training.request.seed},
        "command": command,
        "versions": f"ml-inference {__version__}, xgboost {xgboost.__version__}, numpy {np.__version__}",
    }


def _figures(training: Training) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "title": _TITLES.get(name, name.replace("_", " ").capitalize()),
            "value": value,
            "low": training.figures.intervals[name][0],
            "high": training.figures.intervals[name][1],
            "meaning": _MEANINGS[name],
        }
        for name, value in training.figures.values.items()
    ]


def _parts(training: Training) -> list[dict[str, Any]]:
    split, data = training.split, training.data

    def part(name: str, rows: Rows) -> dict[str, Any]:
        times = ""
        if data.seconds is not None and data.in_seconds:
            first, last = (
                datetime.fromtimestamp(float(moment), timezone.utc).isoformat(" ", "minutes")[:16]
                for moment in (data.seconds[rows].min(), data.seconds[rows].max())
            )
            times = f"{first} to {last}"
        return {"name": name, "times": times, **summary.sizes(training, rows)}

    how = f"training and validation ({len(split.folds)} folds)"
    parts = [part("held out", split.held_out)]
    if len(split.folds) == 1:
        (fold,) = split.folds
        return [part("training", fold.training), part("validation", fold.validation), *parts]
    return [part(how, split.development), *parts]


def _matrix(training: Training) -> list[tuple[str, list[int]]]:
    """The classes' confusion matrix, for more than two classes: a row a true class."""
    target = training.held_out
    if target.task is not Task.MULTI_CLASS:
        return []
    counts = np.zeros((len(target.classes), len(target.classes)), dtype=int)
    np.add.at(counts, (target.values.astype(int), training.scores.argmax(axis=1)), 1)
    return [(name, counts[index].tolist()) for index, name in enumerate(target.classes)]


def _curves(training: Training) -> list[_Picture]:
    target = training.held_out
    if target.task is Task.REGRESSION:
        rows = _sample(len(target.values), _MOST_POINTS)
        predicted = training.scores.astype(np.float64)
        return [
            _Picture("Predicted against label", charts.predicted_against_actual(target.values[rows], predicted[rows])),
            _Picture("How far off", charts.residuals(target.values, predicted)),
        ]
    truth, score = target.abnormal, abnormal_score(target, training.scores)
    counted = training.confusion
    at_roc = at_pr = None
    if counted is not None and counted.caught:
        recall = counted.caught / (counted.caught + counted.missed)
        normal = counted.true_normal + counted.false_alarms
        at_roc = (counted.false_alarms / normal if normal else 0.0, recall)
        at_pr = (recall, counted.caught / (counted.caught + counted.false_alarms))
    curves = [("abnormal", truth, score)]
    if target.task is Task.MULTI_CLASS:
        curves += _one_against_rest(training)
    pictures = [
        _Picture("ROC", charts.roc(curves, at_roc), "Dashed: guessing."),
        _Picture("Precision and recall", charts.precision_recall(curves, at_pr), "Dashed: guessing."),
        _Picture(
            "Calibration",
            charts.calibration(truth, score),
            "On the dashed line, 30 of 100 readings with a score of 0.3 are abnormal. Bars: how many readings have which score.",
        ),
    ]
    if training.threshold is not None:
        pictures.append(
            _Picture(
                "Other thresholds",
                charts.thresholds(truth, score, training.threshold),
                "What the component's Threshold setting would change.",
            )
        )
    return pictures


def _alarm_pictures(judging: Judging | None) -> list[_Picture]:
    if judging is None or judging.measured is None:
        return []
    pictures = []
    others = [(outcome.figures(), outcome.levels) for _, outcome in judging.others]
    lead = "lead_to_full" if judging.onsets_known else "lead_to_label"
    points = [
        (figures["false_alarms_per_week"], figures[lead] / 3600.0, levels.open_score) for figures, levels in others
    ]
    points = [point for point in points if np.isfinite(point[1])]
    if points:
        chosen = judging.measured.figures()
        at = (chosen["false_alarms_per_week"], chosen[lead] / 3600.0)
        pictures.append(
            _Picture(
                "Lead time against false alarms",
                charts.lead_times(points, at, "full fault" if judging.onsets_known else "label"),
                "Levels that validation chose for other numbers of false alarms; what the component's AlarmOpenScore would change.",
            )
        )
    timelines = _timelines(judging)
    if timelines:
        low, high = (
            float(log_odds(np.array(level))) for level in (judging.levels.close_score, judging.levels.open_score)
        )
        pictures.append(
            _Picture(
                "Held-out episodes",
                charts.timelines(timelines, opens=high, closes=low),
                "Smoothed score around the first episodes. Shaded: from onset (or horizon) to repair; darker: from the label. "
                "Dashed: where an alarm opens and closes.",
                wide=True,
            )
        )
    return pictures


def _timelines(judging: Judging) -> list[charts.Timeline]:
    """The smoothed score around some held-out episodes, spread over all of them."""
    assert judging.measured is not None  # noqa: S101 - the caller looked
    assert judging.table is not None  # noqa: S101
    assert judging.odds is not None  # noqa: S101
    level = smoothed(judging.table, judging.odds, judging.levels.smoothing_seconds)
    places = dict(judging.table.parts())
    noticed = judging.measured.noticed
    lines = []
    for at in np.unique(np.linspace(0, len(noticed) - 1, _MOST_TIMELINES).round().astype(int)) if noticed else ():
        one = noticed[int(at)]
        episode, part = one.episode, places[one.episode.machine]
        margin = 0.25 * (episode.repair - episode.onset) + 3600.0
        seconds = judging.table.seconds[part]
        shown = (seconds >= episode.onset - margin) & (seconds <= episode.repair + margin)
        origin = episode.onset if episode.label is None else episode.label
        lines.append(
            charts.Timeline(
                title=_short(episode.machine + (f", {episode.fault}" if episode.fault else "")),
                hours=(seconds[shown] - origin) / 3600.0,
                level=level[part][shown],
                onset=(episode.onset - origin) / 3600.0,
                repair=(episode.repair - origin) / 3600.0,
                opened=None if one.at is None else (one.at - origin) / 3600.0,
            )
        )
    return lines


def _one_against_rest(training: Training) -> list[tuple[str, FloatArray, FloatArray]]:
    target = training.held_out
    curves: list[tuple[str, FloatArray, FloatArray]] = []
    for index, name in enumerate(target.classes):
        truth = (target.values == index).astype(np.float64)
        if index != target.normal and truth.any() and len(curves) < _MOST_CURVES - 1:
            curves.append((name, truth, training.scores[:, index].astype(np.float64)))
    return curves


def _explained(training: Training) -> tuple[Sequence[int], list[_Picture]]:
    """Columns by importance, the most important first, and the pictures that show it."""
    names, inputs = training.inputs.names, training.inputs.values
    booster = parse_booster(training.fit.booster)
    gains = booster.get_score(importance_type="total_gain")
    gain = np.array([_first(gains.get(booster_feature_name(name), 0.0)) for name in names])
    rows = training.split.held_out[_sample(len(training.split.held_out), _SHAP_ROWS)]
    values = inputs[rows]
    contributions = Scorer(booster, len(names)).contributions(values).astype(np.float64)
    unit = "log-odds"
    if contributions.ndim == 3:  # noqa: PLR2004 - rows, classes, features
        # Away from normal is towards abnormal.
        contributions = -contributions[:, training.target.normal, :]
        unit = "log-odds of not being normal"
    elif training.target.task is Task.REGRESSION:
        unit = "in the label's unit"
    strength = np.abs(contributions).mean(axis=0)
    order = [int(column) for column in np.argsort(-strength, kind="stable")]
    top = order[:MOST_FEATURES]
    labels = [_short(names[column]) for column in top]
    pictures = [
        _Picture("Importance", charts.importance(labels, _shares(gain)[top], _shares(strength)[top]), wide=True),
        _Picture(
            "What pushes the score, and where to",
            charts.shap_summary(labels, values[:, top].astype(np.float64), contributions[:, top], unit=unit),
            f"SHAP values of {len(rows)} held-out readings: right raises the score, left lowers it.",
            wide=True,
        ),
    ]
    return order, pictures


def _features(training: Training, order: Sequence[int]) -> list[dict[str, Any]]:
    data = training.data
    rows = training.split.development
    regression = training.target.task is Task.REGRESSION
    abnormal = None if regression else training.target.at(rows).abnormal
    features = []
    for column in [column for column in order if column < len(data.choice.features)][:MOST_FEATURES]:
        feature = data.choice.features[column]
        values = data.values[rows, column].astype(np.float64)
        known = np.isfinite(values)
        values = values[known]
        if not len(values):
            continue
        low, median, high = np.quantile(values, [0.01, 0.5, 0.99])
        features.append(
            {
                "name": feature.name,
                "unit": feature.unit,
                "minimum": feature.minimum,
                "maximum": feature.maximum,
                "low": low,
                "median": median,
                "high": high,
                "svg": charts.distribution(values, None if abnormal is None else abnormal[known], feature.unit),
            }
        )
    return features


def _sample(rows: int, most: int) -> Rows:
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _shares(values: FloatArray) -> FloatArray:
    return values / max(float(values.sum()), 1e-12)


def _first(value: float | list[float]) -> float:
    """A linear booster's importance is a list; a tree's is a number."""
    return value[0] if isinstance(value, list) else value


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:38] + "…"  # noqa: PLR2004 - what fits beside a picture
