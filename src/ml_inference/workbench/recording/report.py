"""The recording's story as one HTML file with SVG pictures.

It opens with what needs attention, then the timeline of every machine, then each machine in trouble with its score and its sensors. It
holds everything it needs, asks no network for anything and runs no script. Names from the data are text, never markup.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from ml_inference import __version__
from ml_inference.model.ranges import training_range
from ml_inference.monitoring.alarms import epoch
from ml_inference.workbench.recording.story import MachineStory, Story

MOST_MACHINES = 24
"""Machines with pictures, those with alarms first: each takes some 100 kB with six sensors."""
MOST_ROWS = 400
"""Machines in the timeline, and alarms in the list."""
POINTS = 320
"""Steps of a curve; within each it draws the lowest, the mean and the highest value."""
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 120, 52, 18


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm as the report tells it; times in seconds since 1970.

    Attributes:
        words: Why, in words, the gravest first.
        reasons: Contributions as in its message.
        still_open: Whether the recording ends with it open.
    """

    machine: str
    kind: str
    begin: float
    end: float
    peak: float | None
    words: tuple[str, ...]
    reasons: tuple[dict[str, Any], ...]
    still_open: bool


def render(story: Story, source: str) -> str:
    """Write the report.

    Args:
        story: What happened; at least one reading was scored.
        source: Name of the recording.
    """
    begin, end = story.begin, max(story.end, story.begin + 1.0)
    alarms = {name: machine_alarms(story, machine) for name, machine in story.machines.items()}
    names = sorted(story.machines, key=_natural)
    pictured = sorted(names, key=lambda name: (-len(alarms[name]), _natural(name)))[:MOST_MACHINES]
    every = sorted((alarm for found in alarms.values() for alarm in found), key=lambda alarm: alarm.begin)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ml_inference.workbench.recording", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def when(seconds: float) -> str:
        return _when(seconds, begin, end)

    environment.filters |= {"when": when, "span": duration, "human": sensor_name}
    template = environment.get_template("report.html.j2")
    return template.render(
        story=story,
        manifest=story.model.manifest,
        source=source,
        begin=begin,
        end=end,
        names=names,
        rows=names[:MOST_ROWS],
        pictured=pictured,
        alarms=every,
        alarms_of=alarms,
        timelines={name: timeline(story.machines[name], alarms[name], begin, end) for name in names[:MOST_ROWS]},
        ticks=_ticks(begin, end),
        charts={name: charts(story, story.machines[name], alarms[name], begin, end) for name in pictured},
        version=__version__,
        most_rows=MOST_ROWS,
    )


def machine_alarms(story: Story, machine: MachineStory) -> list[Alarm]:
    """A machine's alarms in order; for a model without alarms, the times in which its state was abnormal."""
    if machine.alarms:
        return sorted((_alarm(story, message) for message in machine.alarms.values()), key=lambda alarm: alarm.begin)
    return [
        Alarm(
            machine=machine.name,
            kind="equipment",
            begin=span.begin,
            end=span.end,
            peak=span.peak,
            words=_words(story, span.reasons),
            reasons=tuple(span.reasons),
            still_open=span is machine.spans[-1],
        )
        for span in machine.spans
        if span.state == "abnormal"
    ]


def _alarm(story: Story, message: dict[str, Any]) -> Alarm:
    begin = epoch(message["opened"])
    closed = message.get("closed")
    kind = str(message["kind"])
    reasons = list(message.get("explanation") or [])
    if kind == "sensor":
        words: tuple[str, ...] = (f"{sensor_name(str(message['sensor']))}: {message.get('reason') or 'faulty'}",)
    elif kind == "silence":
        words = ("the machine stopped reporting",)
    else:
        words = _words(story, reasons) or (kind,)
    return Alarm(
        machine=str(message["equipment_id"]),
        kind=kind,
        begin=begin,
        end=story.end if closed is None else epoch(closed),
        peak=message.get("peak_score") if kind == "equipment" else None,
        words=words,
        reasons=tuple(reasons),
        still_open=closed is None,
    )


def _words(story: Story, reasons: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    features = {feature.name: feature for feature in story.model.manifest.features}
    words = []
    for reason in [reason for reason in reasons if reason["contribution"] > 0][:2]:
        feature = features.get(reason["feature"])
        usual = training_range(feature) if feature is not None else None
        value = reason["value"]
        name, unit = sensor_name(reason["feature"]), unit_name(reason.get("unit") or "")
        shown = "no value" if value is None else f"{_figure(value)} {unit}".strip()
        if usual is None or value is None:
            words.append(f"{name} {shown}")
        else:
            where = "high" if value > usual[1] else "low" if value < usual[0] else "unusual with the others"
            words.append(f"{name} {where}: {shown} (usual {_figure(usual[0])} to {_figure(usual[1])})")
    return tuple(words)


def timeline(machine: MachineStory, alarms: Sequence[Alarm], begin: float, end: float) -> str:
    """A machine's states as a strip, its alarms on top."""
    scale = 1000 / (end - begin)
    parts = []
    for span in machine.spans:
        width = max(0.5, (span.end - span.begin) * scale)
        parts.append(_rect((span.begin - begin) * scale, 5, width, 8, f"state-{_word(span.state)}"))
    for alarm in alarms:
        width = max(2.0, (alarm.end - alarm.begin) * scale)
        tall = (2, 14) if alarm.kind == "equipment" else (0, 4)
        parts.append(_rect((alarm.begin - begin) * scale, tall[0], width, tall[1], f"kind-{_word(alarm.kind)}"))
    return (
        f'<svg viewBox="0 0 1000 18" preserveAspectRatio="none" class="strip" aria-hidden="true">{"".join(parts)}</svg>'
    )


def charts(
    story: Story, machine: MachineStory, alarms: Sequence[Alarm], begin: float, end: float
) -> list[dict[str, str]]:
    """The pictures of a machine: its score, then each sensor."""
    times = np.frombuffer(machine.times, dtype=np.float64)
    features = story.model.manifest.features
    values = np.frombuffer(machine.values, dtype=np.float32).reshape(len(times), len(features))
    scores = np.frombuffer(machine.scores, dtype=np.float32)
    spans = [(alarm.begin, alarm.end) for alarm in alarms if alarm.kind == "equipment"]
    fixed = (0.0, 1.0) if story.model.manifest.objective == "binary:logistic" else None
    period = (begin, end)
    curve = envelope(times, scores, begin, end)
    found = [_chart("Score", "", curve, period, spans, level=machine.threshold, fixed=fixed)]
    for column, feature in enumerate(features):
        curve = envelope(times, values[:, column], begin, end)
        title = sensor_name(feature.name)
        found.append(_chart(title, unit_name(feature.unit), curve, period, spans, usual=training_range(feature)))
    return found


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a picture's curve lies: time from `begin` to `end` across, values from `bottom` to `top`."""

    begin: float
    end: float
    bottom: float
    top: float

    def x(self, seconds: float) -> float:
        return LEFT + (seconds - self.begin) / (self.end - self.begin) * (WIDTH - LEFT)

    def y(self, value: float) -> float:
        return (HEIGHT - BOTTOM) * (1 - (value - self.bottom) / (self.top - self.bottom)) + 1

    def points(self, steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> list[str]:
        return [f"{self.x(step):.1f} {self.y(value):.1f}" for step, value in zip(steps, values, strict=True)]


def _chart(
    title: str,
    unit: str,
    curve: tuple[npt.NDArray[np.float64], ...],
    period: tuple[float, float],
    spans: Sequence[tuple[float, float]],
    *,
    usual: tuple[float, float] | None = None,
    level: float | None = None,
    fixed: tuple[float, float] | None = None,
) -> dict[str, str]:
    steps, lows, means, highs = curve
    if not len(steps):
        return {"title": title, "unit": unit, "svg": "", "label": f"{title}: no data"}
    marks = [float(lows.min()), float(highs.max()), *(usual or ()), *(() if level is None else (level,))]
    pad = (max(marks) - min(marks) or abs(max(marks)) or 1.0) * 0.06
    frame = _Frame(*period, *(fixed or (min(marks) - pad, max(marks) + pad)))
    parts = [
        _rect(frame.x(first), 0, max(1.5, frame.x(last) - frame.x(first)), HEIGHT - BOTTOM, "alarm")
        for first, last in spans
    ]
    if usual is not None:
        parts.append(_rect(LEFT, frame.y(usual[1]), WIDTH - LEFT, frame.y(usual[0]) - frame.y(usual[1]), "usual"))
    if level is not None:
        parts.append(f'<path class="level" d="M{LEFT} {frame.y(level):.1f}H{WIDTH}"/>')
    parts += _curves(frame, steps, lows, means, highs)
    parts += _axes(frame)
    label = f"{title}: between {_figure(float(lows.min()))} and {_figure(float(highs.max()))} {unit}".strip()
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" aria-hidden="true">{"".join(parts)}</svg>'
    return {"title": title, "unit": unit, "svg": picture, "label": label}


def _curves(frame: _Frame, steps: npt.NDArray[np.float64], *values: npt.NDArray[np.float64]) -> list[str]:
    """The mean as a curve within a band from the lowest to the highest; a time without readings is a gap."""
    usual_step = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
    breaks = np.flatnonzero(np.diff(steps) > 3 * usual_step) + 1
    found = []
    for piece in np.split(np.arange(len(steps)), breaks):
        low, mean, high = (frame.points(steps[piece], curve[piece]) for curve in values)
        found.append(f'<path class="band" d="M{"L".join(high + low[::-1])}Z"/>')
        found.append(f'<path class="curve" d="M{"L".join(mean if len(mean) > 1 else mean * 2)}"/>')
    return found


def _axes(frame: _Frame) -> list[str]:
    found = []
    for value, shift in ((frame.bottom, -2), (frame.top, 9)):
        place = f'x="{LEFT - 6}" y="{frame.y(value) + shift:.1f}" text-anchor="end"'
        found.append(f'<text class="axis" {place}>{_figure(value)}</text>')
    for share, text in _ticks(frame.begin, frame.end):
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        place = f'x="{LEFT + share * (WIDTH - LEFT):.0f}" y="{HEIGHT - 4}" text-anchor="{anchor}"'
        found.append(f'<text class="axis" {place}>{text}</text>')
    return found


def envelope(
    times: npt.NDArray[np.float64], values: npt.NDArray[np.float32], begin: float, end: float
) -> tuple[npt.NDArray[np.float64], ...]:
    """Lowest, mean and highest value in each of `POINTS` steps of time.

    Args:
        times: Seconds since 1970, ascending.
        values: Values at these times; NaN counts as none.
        begin: Where the first step begins.
        end: Where the last step ends.

    Returns:
        The middles of the steps that hold a value, and the three.
    """
    known = np.isfinite(values)
    steps = np.minimum(((times[known] - begin) / (end - begin) * POINTS).astype(int), POINTS - 1)
    held = values[known].astype(np.float64)
    if not len(held):
        empty = np.empty(0)
        return empty, empty, empty, empty
    first = np.flatnonzero(np.r_[True, np.diff(steps) > 0])
    counts = np.diff(np.r_[first, len(held)])
    middles = begin + (steps[first] + 0.5) * (end - begin) / POINTS
    return (
        middles,
        np.minimum.reduceat(held, first),
        np.add.reduceat(held, first) / counts,
        np.maximum.reduceat(held, first),
    )


def sensor_name(name: str) -> str:
    """A feature's name as people write it: `wRMSCurrent` is `RMS Current`."""
    words = re.sub(r"^[a-z](?=[A-Z])", "", name).replace("_", " ")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", words).strip()
    return words[:1].upper() + words[1:] if words else name


def unit_name(unit: str) -> str:
    """A unit as people write it."""
    return {"degC": "°C", "degF": "°F", "RPM": "rpm"}.get(unit, unit)


def duration(seconds: float) -> str:
    """A length of time in words."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:  # noqa: PLR2004
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours / 24:.1f} days"


def _when(seconds: float, begin: float, end: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.strftime("%H:%M:%S" if end - begin < 7200 else "%d %b %H:%M" if end - begin > 86_400 else "%H:%M")  # noqa: PLR2004


def _ticks(begin: float, end: float) -> list[tuple[float, str]]:
    return [(share, _when(begin + share * (end - begin), begin, end)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]


def _figure(value: float) -> str:
    size = abs(value)
    if not math.isfinite(value):
        return "?"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"  # noqa: PLR2004


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _word(text: str) -> str:
    """A state or a kind as part of a class's name."""
    return re.sub(r"[^a-z]", "", text.lower())


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (1, int(part), "") if part.isdigit() and part.isascii() else (0, 0, part) for part in re.split(r"(\d+)", name)
    ]
