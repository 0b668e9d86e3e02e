"""The page of figures: docs/evaluation.md. It only writes down; what the figures mean is computed in `judge` and `drift`."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evaluation import drift
from evaluation.cases import jobs
from evaluation.judge import (
    FITTING,
    NAMED_WITHIN,
    Figure,
    Outcome,
    Tally,
    exact,
    figure,
    judge,
    middle,
    most_events_within,
    named_share,
    per_week,
    share,
    weeks,
)
from evaluation.line import Line

_TIMES = ("minute", "1 Hz", "1 Hz, thinned", "story 2")
_TITLES = ("a reading a minute", "a reading a second", "the same, a reading a minute", "second story")
_OUTRIGHT = frozenset({"stuck", "saturated", "dead"})
_SIXTY_WEEKS = 60.0
_PERCENT = 100.0
_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Model:
    """What was evaluated."""

    name: str
    version: str
    sources: Mapping[str, str]
    """The sensor behind each derived feature."""

    def source(self, feature: str) -> str:
        """Give the sensor behind a feature."""
        return self.sources.get(feature, feature)


def page(lines: Sequence[Line], model: Model, *, quick: bool, seed: int) -> str:
    """Write the page.

    Args:
        lines: Of all cases, or of some.
        model: What was evaluated.
        quick: Whether the short evaluation was run.
        seed: Of the first story.
    """
    tallies: dict[str, list[Tally]] = {}
    for line in lines:
        tallies.setdefault(line.job.case, []).extend(judge(line.alarms, line.episodes, line.spans, model.source))
    readings = sum(line.job.readings for line in lines)
    command = "QUICK=1 make evaluate" if quick else "make evaluate"
    planned, run = Counter(job.case for job in jobs(quick=quick, seed=seed)), Counter(line.job.case for line in lines)
    parts = [
        "# Evaluation over time",
        (
            f"Alarms of `{model.name}` {model.version} on simulated lines that no training has seen, judged against the truth of their stories. "
            f"`{command}` wrote this page: {readings / 1e6:.1f} million readings, stories from seed {seed} on, scored by "
            f"the device's own pipeline, as `ml-inference score --alarms` runs it. {_LENGTH[quick] if planned <= run else _PART}"
        ),
        "In brackets: the interval of 95 %, by drawing machines with replacement. What each figure means stands below.",
    ]
    if planned > run:
        left_out = [
            case + (f" (run in part: {run[case]} of {count} lines)" if run[case] else "")
            for case, count in sorted(planned.items())
            if run[case] < count
        ]
        parts.append("Not run for this page: " + "; ".join(left_out) + ".")
    if any(tallies.get(case) for case in _TIMES):
        parts += ["## Equipment", _over_time(tallies)]
    if tallies.get("minute"):
        parts += ["### By fault, a reading a minute", _by_fault(tallies["minute"])]
    if tallies.get("broken sensors") or tallies.get("during"):
        parts.append("## Broken sensors")
    if tallies.get("broken sensors"):
        parts.append(_broken(tallies["broken sensors"]))
    if tallies.get("during"):
        parts.append(_during(tallies["during"]))
    healthy, changed = _healthy(lines), _changes(lines)
    if healthy or changed:
        parts += ["## Drift", *(table for table in (healthy, changed) if table)]
    return "\n\n".join([*parts, "## Definitions", _DEFINITIONS]) + "\n"


_LENGTH = {
    True: "It is the short evaluation: minutes, and wide intervals.",
    False: "It is the whole evaluation.",
}
_PART = "It is a part of the evaluation."
_DEFINITIONS = f"""\
- A **false alarm** is an `equipment` alarm that opens outside [onset, repair] of every equipment episode of its machine. In an episode of a broken
  sensor alone it is false, too.
- **Episodes** are those of the equipment that begin and end within the data and reach the degree at which a maintenance engineer would call the
  machine. One is **noticed** if an alarm opens in it, or has opened within a day before it and is open when it would be called, **before the label** if that is earlier than the call. The
  **lead** runs from the alarm to the fault's full degree.
- A fault is **pointed at** if a sensor of its signature is among the first two reasons of the first alarm in the episode.
- A **broken sensor is named** if a `sensor` alarm names it with a fitting reason within {NAMED_WITHIN / 60:.0f} minutes: `stuck`, `saturated`, for a dead one either or
  `missing`, for a scaled one or one with an offset `inconsistent`. A **false sensor alarm** names a sensor that is well. The encoder that
  slips is an episode of the equipment, for which `inconsistent` is right as well.
- **Drift** on healthy lines: alarms a line-month, with the upper end of the 95 % interval of a Poisson count. After a change: hours until the first drift alarm that
  names the right machine (any, if all have changed) and sensor, and until the first alarm of the kinds `drift` and `sensor` that does."""


def _over_time(tallies: Mapping[str, list[Tally]]) -> str:
    def episodes(held: Sequence[Tally]) -> int:
        return sum(len(tally.outcomes) for tally in held)

    def portion(held: Sequence[Tally], of: Callable[[Outcome], bool | None]) -> str:
        return _percent(exact(figure(held, share(of)), episodes(held)))

    def rate(held: Sequence[Tally]) -> str:
        found = sum(tally.false for tally in held)
        return _number(
            figure(held, per_week(lambda tally: tally.false)), highest=most_events_within(found) / weeks(held)
        )

    def false_sensor(held: Sequence[Tally]) -> str:
        found = sum(tally.false_sensor for tally in held)
        scale = _SIXTY_WEEKS / weeks(held)
        return f"{found * scale:.1f} (at most {most_events_within(found) * scale:.1f})"

    rows: list[tuple[str, str, Callable[[Sequence[Tally]], str]]] = [
        ("machine-weeks", "", lambda held: f"{weeks(held):.1f}"),
        ("episodes", "", lambda held: f"{episodes(held)}"),
        ("false alarms a machine-week", "≤ 0.25", rate),
        (
            "of these, while a sensor is broken",
            "",
            lambda held: (
                f"{sum(tally.false_in_sensor_episodes for tally in held)} of {sum(tally.false for tally in held)}"
            ),
        ),
        ("noticed", "≥ 95 %", lambda held: portion(held, lambda one: one.noticed)),
        ("before the label", "≥ 38 %", lambda held: portion(held, lambda one: one.early)),
        (
            "median lead to full fault, hours",
            "≥ 6.5",
            lambda held: _number(figure(held, middle(lambda one: one.lead))),
        ),
        ("alarms an episode: median, most", "1, 3", _alarms_an_episode),
        (
            "pointed at by the last event",
            "",
            lambda held: portion(held, lambda one: one.pointed),
        ),
        (
            "by the first event",
            "",
            lambda held: portion(held, lambda one: one.pointed_at_once),
        ),
        ("false sensor alarms in 60 machine-weeks", "≤ 5", false_sensor),
        (
            "of these, in episodes of the equipment",
            "",
            lambda held: (
                f"{sum(tally.false_sensor_in_episodes for tally in held)} of {sum(tally.false_sensor for tally in held)}"
            ),
        ),
    ]
    cases = [(title, tallies[case]) for title, case in zip(_TITLES, _TIMES, strict=True) if tallies.get(case)]
    return _table(
        ("", "goal", *(title for title, _ in cases)),
        [(name, goal, *(say(held) for _, held in cases)) for name, goal, say in rows],
    )


def _alarms_an_episode(held: Sequence[Tally]) -> str:
    counts = [outcome.alarms for tally in held for outcome in tally.outcomes if outcome.noticed]
    return f"{median(counts):g}, {max(counts)}" if counts else _NOTHING


def _by_fault(held: Sequence[Tally]) -> str:
    def only(fault: str, of: Callable[[Outcome], bool | None]) -> Callable[[Outcome], bool | None]:
        return lambda one: of(one) if one.fault == fault else None

    faults = sorted({outcome.fault for tally in held for outcome in tally.outcomes})
    rows = []
    for fault in faults:
        own = [outcome for tally in held for outcome in tally.outcomes if outcome.fault == fault]
        leads = [outcome.lead for outcome in own if outcome.lead is not None]

        def said(of: Callable[[Outcome], bool | None], fault: str = fault, count: int = len(own)) -> str:
            return _percent(exact(figure(held, share(only(fault, of))), count))

        rows.append(
            (
                f"`{fault}`",
                str(len(own)),
                said(lambda one: one.noticed),
                said(lambda one: one.early),
                f"{median(leads):.1f}" if leads else _NOTHING,
                said(lambda one: one.pointed),
                said(lambda one: one.pointed_at_once),
            )
        )
    heads = ("fault", "episodes", "noticed", "before the label", "lead, h", "pointed at (≥ 90 %)", "by the first event")
    return _table(heads, rows)


def _broken(held: Sequence[Tally]) -> str:
    namings = [naming for tally in held for naming in tally.namings]
    rows = []
    for name, faults in (
        ("stuck, saturated or dead (≥ 95 %)", _OUTRIGHT),
        *((f"`{fault}`", frozenset({fault})) for fault in FITTING if any(naming.fault == fault for naming in namings)),
    ):
        own = [naming for naming in namings if naming.fault in faults]
        delays = [naming.delay for naming in own if naming.delay is not None]
        rows.append(
            (
                name,
                str(len(own)),
                _percent(exact(figure(held, named_share(faults)), len(own))),
                _percent(exact(figure(held, named_share(faults, math.inf)), len(own))),
                f"{median(delays):.0f}" if delays else _NOTHING,
            )
        )
    false = sum(tally.false for tally in held)
    text = f"\n\nA reading a second, {weeks(held):.2f} machine-weeks without a fault of the equipment: {false} `equipment` alarms, all false."
    return _table(("sensor fault", "cases", "named within ten minutes", "ever", "median delay, s"), rows) + text


def _during(held: Sequence[Tally]) -> str:
    outcomes = [outcome for tally in held for outcome in tally.outcomes]
    reported = sum(outcome.with_broken_sensor for outcome in outcomes)
    while_reported = figure(held, share(lambda one: one.noticed if one.with_broken_sensor else None))
    all_of_them = figure(held, share(lambda one: one.noticed))
    return (
        f"Episodes of the equipment with a broken sensor from before the onset to the repair, a reading a minute: {len(outcomes)}, of which "
        f"{reported} had a sensor reported. Of these, {_percent(exact(while_reported, reported))} were noticed (goal: at least 80 %); of all, {_percent(exact(all_of_them, len(outcomes)))}."
    )


def _healthy(lines: Iterable[Line]) -> str:
    counted: dict[str, list[drift.Healthy]] = {}
    for line in lines:
        if line.job.case.startswith("healthy"):
            span = next(iter(line.spans.values()))
            counted.setdefault(line.job.case.removeprefix("healthy, "), []).append(drift.healthy(line.alarms, span))
    rows = []
    for case, held in counted.items():
        months, found = sum(one.months for one in held), sum(one.alarms for one in held)
        rows.append(
            (case, f"{months:.2f}", str(found), f"{found / months:.2f}", f"{most_events_within(found) / months:.1f}")
        )
    return _table(
        ("healthy lines: machines and interval", "line-months", "drift alarms", "a line-month (≤ 1)", "at most"), rows
    )


def _changes(lines: Iterable[Line]) -> str:
    rows = []
    for line in lines:
        spoiled = line.job.spoiled
        if spoiled is None:
            continue
        at = next(iter(line.spans.values()))[0] + spoiled.at
        found = drift.change(line.alarms, what=line.job.case, at=at, machine=spoiled.machine, sensors=spoiled.sensors)
        goal = "24" if spoiled.machine else "1"
        rows.append((found.what, goal, _hours(found.drift), _hours(found.told), str(found.elsewhere)))
    return _table(("change", "goal, h", "drift alarm, h", "first alarm, h", "drift alarms elsewhere"), rows)


def _hours(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


def _percent(found: Figure) -> str:
    if math.isnan(found.value):
        return _NOTHING
    low, high = (f"{_PERCENT * end:.0f}" for end in (found.low, found.high))
    return f"{_PERCENT * found.value:.1f} % ({low} to {high})"


def _number(found: Figure, highest: float | None = None) -> str:
    if math.isnan(found.value):
        return _NOTHING
    # Where nothing happened drawing machines gives no interval.
    high = max(found.high, highest) if highest is not None and found.value == 0.0 else found.high
    return f"{found.value:.2f} ({found.low:.2f} to {high:.2f})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
