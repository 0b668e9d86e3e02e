"""The report's pictures, as SVG that takes its ink from the page and so reads on light and dark.

Each function draws one picture from arrays and returns it as text for inlining; the page gives it its name. No file, no network, no global state:
matplotlib's settings are changed for the length of a drawing only.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from ml_inference.workbench.training.table import FloatArray

NORMAL = "#3d86d8"
ABNORMAL = "#e2711d"
COLOURS = (NORMAL, ABNORMAL, "#3fa66b", "#a86bd1", "#d8434e", "#2aa7b0", "#b98b2f", "#8a8f98")

_INK = "#010203"
"""Stands for the page's own text colour until the SVG is text."""
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.8,
}
_MOST_POINTS = 600
_DOTS = 160
"""Of what is not drawn as lines, an inch."""
_SHADES = LinearSegmentedColormap.from_list("low to high", [NORMAL, "#8a8f98", ABNORMAL])


_CHARACTER = 0.078
"""Width of a character of the ticks' labels in inches; a reader's own font decides, so a little generous."""


@dataclass(slots=True)
class _Canvas:
    figure: Figure
    text: str = field(default="")


def roc(curves: Sequence[tuple[str, FloatArray, FloatArray]], point: tuple[float, float] | None = None) -> str:
    """ROC curves.

    Args:
        curves: A label, truth (0 or 1) and score each.
        point: False-positive and true-positive rate at the threshold.
    """
    with _drawing(4.1, 3.6) as canvas:
        axes = canvas.figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=_INK, alpha=0.35, linewidth=0.8, linestyle=(0, (4, 4)))
        for colour, (label, truth, score) in zip(_colours(len(curves)), curves, strict=True):
            false, true, _ = roc_curve(truth, score)
            axes.plot(*_thin(false, true), color=colour, label=label)
        _mark(axes, point)
        axes.set(xlabel="false-alarm rate", ylabel="recall", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        _legend(axes, len(curves), "lower right")
    return canvas.text


def precision_recall(
    curves: Sequence[tuple[str, FloatArray, FloatArray]], point: tuple[float, float] | None = None
) -> str:
    """Precision against recall; the dashed line is what guessing reaches.

    Args:
        curves: As for `roc`.
        point: Recall and precision at the threshold.
    """
    with _drawing(4.1, 3.6) as canvas:
        axes = canvas.figure.add_subplot()
        for colour, (label, truth, score) in zip(_colours(len(curves)), curves, strict=True):
            precision, recall, _ = precision_recall_curve(truth, score)
            axes.plot(*_thin(recall, precision), color=colour, label=label)
            axes.axhline(float(np.mean(truth)), color=colour, alpha=0.5, linewidth=0.8, linestyle=(0, (4, 4)))
        _mark(axes, point)
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        _legend(axes, len(curves), "lower left")
    return canvas.text


@dataclass(frozen=True, slots=True)
class Timeline:
    """The smoothed score of one machine around an episode; times in hours after its label.

    Attributes:
        title: Of the panel.
        hours: Shape (n,).
        level: Shape (n,), log-odds.
        onset: Where the episode begins.
        repair: Where it ends.
        opened: Where its first alarm opened; None where it was missed.
    """

    title: str
    hours: FloatArray
    level: FloatArray
    onset: float
    repair: float
    opened: float | None


def timelines(episodes: Sequence[Timeline], *, opens: float, closes: float) -> str:
    """The smoothed score of held-out episodes, one above the other.

    Args:
        episodes: Some.
        opens: Log-odds from which an alarm opens.
        closes: Log-odds below which it closes.
    """
    with _drawing(8.6, 0.5 + 1.25 * len(episodes), top=0.3) as canvas:
        panels = canvas.figure.subplots(len(episodes), 1, squeeze=False, gridspec_kw={"hspace": 0.7})[:, 0]
        for axes, episode in zip(panels, episodes, strict=True):
            axes.axvspan(episode.onset, episode.repair, color=ABNORMAL, alpha=0.10, linewidth=0)
            axes.axvspan(0.0, episode.repair, color=ABNORMAL, alpha=0.12, linewidth=0)
            for limit in (opens, closes):
                axes.axhline(limit, color=_INK, alpha=0.5, linewidth=0.8, linestyle=(0, (4, 4)))
            axes.plot(*_thin(episode.hours, episode.level), color=NORMAL, linewidth=1.2)
            if episode.opened is not None:
                axes.axvline(episode.opened, color=ABNORMAL, linewidth=1.2)
            axes.set_ylabel("log-odds")
            axes.set_title(episode.title, loc="left")
        panels[-1].set_xlabel("hours after the label")
    return canvas.text


def lead_times(points: Sequence[tuple[float, float, float]], chosen: tuple[float, float], until: str) -> str:
    """Median lead time against false alarms, for several levels.

    Args:
        points: False alarms a machine-week, hours of lead, and the opening score.
        chosen: The first two for the model's own levels.
        until: What the lead counts to.
    """
    with _drawing(4.1, 3.6, left=0.8) as canvas:
        axes = canvas.figure.add_subplot()
        ordered = sorted(points)
        axes.plot([at[0] for at in ordered], [at[1] for at in ordered], color=NORMAL, marker="o", markersize=4)
        for false, lead, score in ordered:
            axes.annotate(f"{score:.2g}", (false, lead), textcoords="offset points", xytext=(5, -10), fontsize=7.5)
        _mark(axes, chosen)
        axes.set_xscale("symlog", linthresh=0.05)
        axes.set(xlabel="false alarms a machine-week", ylabel=f"median hours before the {until}")
    return canvas.text


def calibration(truth: FloatArray, chance: FloatArray) -> str:
    """What was predicted against what happened, in ten bins of equal content; bars show how many readings have which score."""
    with _drawing(4.1, 3.6, right=0.7) as canvas:
        axes = canvas.figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=_INK, alpha=0.35, linewidth=0.8, linestyle=(0, (4, 4)))
        happened, predicted = calibration_curve(truth, chance, n_bins=10, strategy="uniform")
        axes.plot(predicted, happened, color=NORMAL, marker="o", markersize=4)
        axes.set(
            xlabel="predicted probability", ylabel="share that was abnormal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02)
        )
        counts = axes.twinx()
        counts.stairs(*np.histogram(chance, bins=20, range=(0.0, 1.0)), fill=True, baseline=0.5, color=_INK, alpha=0.15)
        counts.set_yscale("log")
        counts.grid(visible=False)
        counts.set_ylabel("readings")
        counts.set_ylim(0.5, max(10.0, 30.0 * len(chance)))
    return canvas.text


def thresholds(truth: FloatArray, score: FloatArray, threshold: float) -> str:
    """Precision and recall for every threshold, and where it was set."""
    precision, recall, at = precision_recall_curve(truth, score)
    with _drawing(4.1, 3.6) as canvas:
        axes = canvas.figure.add_subplot()
        axes.plot(*_thin(at, precision[:-1]), color=NORMAL, label="precision")
        axes.plot(*_thin(at, recall[:-1]), color=ABNORMAL, label="recall")
        axes.axvline(threshold, color=_INK, linewidth=0.9)
        axes.annotate(f" {threshold:.3g}", (threshold, 0.96), color=_INK)
        axes.set(xlabel="threshold", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        _legend(axes, 2, "lower center")
    return canvas.text


def predicted_against_actual(actual: FloatArray, predicted: FloatArray) -> str:
    """A regression's predictions; the dashed line is perfect."""
    with _drawing(4.1, 3.6, left=0.8) as canvas:
        axes = canvas.figure.add_subplot()
        ends = [float(min(actual.min(), predicted.min())), float(max(actual.max(), predicted.max()))]
        axes.scatter(actual, predicted, s=6, color=NORMAL, alpha=0.35, linewidths=0, rasterized=True)
        axes.plot(ends, ends, color=_INK, alpha=0.5, linewidth=0.8, linestyle=(0, (4, 4)))
        axes.set(xlabel="label", ylabel="predicted")
    return canvas.text


def residuals(actual: FloatArray, predicted: FloatArray) -> str:
    """How far a regression is off."""
    with _drawing(4.1, 3.6) as canvas:
        axes = canvas.figure.add_subplot()
        axes.stairs(*np.histogram(predicted - actual, bins=50), fill=True, color=NORMAL)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel="predicted minus label", ylabel="readings")
    return canvas.text


def importance(names: Sequence[str], gain: FloatArray, shap: FloatArray) -> str:
    """Two views of what the model leans on, as shares.

    Args:
        names: k features, the most important first.
        gain: k shares of the loss that splits on the feature saved in training.
        shap: k shares of the mean absolute SHAP value on held-out readings.
    """
    with _drawing(8.6, 0.9 + 0.36 * len(names), left=_room(names)) as canvas:
        axes = canvas.figure.add_subplot()
        rows = np.arange(len(names))[::-1]
        axes.barh(rows + 0.19, 100 * shap, height=0.36, color=ABNORMAL, label="SHAP (on held-out readings)")
        axes.barh(rows - 0.19, 100 * gain, height=0.36, color=NORMAL, label="gain (in training)")
        axes.set_yticks(rows, names)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share in %")
        _legend(axes, 2, "lower right")
    return canvas.text


def shap_summary(names: Sequence[str], values: FloatArray, contributions: FloatArray, *, unit: str) -> str:
    """Each held-out reading's contributions, a dot each, coloured by the feature's value.

    Args:
        names: k features, the most important first.
        values: Shape (n, k).
        contributions: Shape (n, k).
        unit: Of the contributions.
    """
    random = np.random.default_rng(0)
    with _drawing(8.6, 0.9 + 0.46 * len(names), left=_room(names)) as canvas:
        axes = canvas.figure.add_subplot()
        for column in range(len(names)):
            pushed = contributions[:, column]
            # Wide where there are many: each dot's spread follows its neighbours' number.
            counts, edges = np.histogram(pushed, bins=60)
            crowd = counts[np.clip(np.digitize(pushed, edges) - 1, 0, len(counts) - 1)] / max(counts.max(), 1)
            height = len(names) - 1 - column + random.uniform(-0.38, 0.38, len(pushed)) * np.sqrt(crowd)
            ascending = np.sort(values[:, column])
            # Equal values get one colour: the middle of their ranks.
            ends = [np.searchsorted(ascending, values[:, column], side=side) for side in ("left", "right")]
            rank = np.mean(ends, axis=0) / len(ascending)
            axes.scatter(pushed, height, c=_SHADES(rank), s=7, linewidths=0, alpha=0.8, rasterized=True)
        axes.axvline(0.0, color=_INK, alpha=0.4, linewidth=0.8)
        axes.set_yticks(np.arange(len(names))[::-1], names)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"contribution ({unit}); blue: low values of the feature, orange: high ones")
    return canvas.text


def distribution(values: FloatArray, abnormal: FloatArray | None, label: str) -> str:
    """One feature's distribution, normal and abnormal apart where there are classes.

    Args:
        values: Shape (n,).
        abnormal: n labels, or None.
        label: Of the axis: the unit.
    """
    low, high = np.quantile(values, [0.002, 0.998])
    if low == high:
        low, high = values.min(), values.max() + 1e-9
    bins = np.linspace(low, high, 41)
    with _drawing(2.75, 1.75, left=0.2) as canvas:
        axes = canvas.figure.add_subplot()
        parts = [(values, NORMAL)]
        if abnormal is not None:
            parts = [(values[abnormal == 0], NORMAL), (values[abnormal > 0], ABNORMAL)]
        for part, colour in parts:
            if len(part):
                density, edges = np.histogram(np.clip(part, low, high), bins=bins, density=True)
                axes.stairs(density, edges, fill=True, color=colour, alpha=0.5, linewidth=0)
        axes.set_yticks([])
        axes.set_xlabel(label)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
    return canvas.text


@contextmanager
def _drawing(
    width: float, height: float, *, left: float = 0.62, right: float = 0.15, top: float = 0.15
) -> Iterator[_Canvas]:
    """A figure of so many inches, whose SVG is there once the block ends.

    Its margins are given: matplotlib's own layouts draw everything twice to measure text that a browser then sets in
    another font.
    """
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # Text stays text, so that a reader's own fonts draw it: it does not matter what matplotlib's font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure = Figure(figsize=(width, height), dpi=_DOTS)
        figure.subplots_adjust(left=left / width, right=1 - right / width, top=1 - top / height, bottom=0.5 / height)
        figure.patch.set_alpha(0.0)
        canvas = _Canvas(figure)
        yield canvas
        for axes in figure.axes:
            axes.patch.set_alpha(0.0)
        buffer = StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    canvas.text = _for_the_page(buffer.getvalue())


def _room(names: Sequence[str]) -> float:
    """Inches that the longest name takes; letters of Korean, Chinese and Japanese are twice as wide."""
    widths = (sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in name) for name in names)
    return 0.25 + _CHARACTER * max(widths, default=0)


def _for_the_page(svg: str) -> str:
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    # Many pictures share a page: an id that nothing refers to would only be there twice.
    used = set(re.findall(r"[#](\w+)[\")]", svg))
    svg = re.sub(r' id="(\w+)"', lambda match: match.group(0) if match.group(1) in used else "", svg)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', svg, count=1)


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _legend(axes: Axes, entries: int, where: Literal["lower right", "lower left", "lower center"]) -> None:
    if entries > 1:
        axes.legend(loc=where)


def _mark(axes: Axes, point: tuple[float, float] | None) -> None:
    if point is not None:
        axes.plot(*point, marker="o", markersize=7, color=ABNORMAL, linestyle="none", zorder=5)
        aside, side = (-10, "right") if point[0] > 0.6 else (10, "left")  # noqa: PLR2004 - where there is room
        axes.annotate("threshold", point, xytext=(aside, -14), textcoords="offset points", ha=side)


def _thin(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A curve of few enough points for a page."""
    if len(x) <= _MOST_POINTS:
        return x, y
    # At even distances along the curve, so that a steep part keeps its shape.
    way = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))))
    chosen = np.unique(np.searchsorted(way, np.linspace(0.0, way[-1], _MOST_POINTS)))
    return x[chosen], y[chosen]
