"""What alarms are worth against the truth: arithmetic only, by machine, so that intervals can be drawn over machines.

- A false equipment alarm opens outside [onset, repair] of every episode of its machine's equipment; in an episode of a broken sensor
  alone it is false, too.
- An episode is noticed if an equipment alarm opens in it, or has opened within a day before it and is open when a maintenance engineer would call
  the machine. Only whole episodes
  count: those that begin and end within the data and that somebody would call.
- A broken sensor is named rightly if an alarm for that sensor gives a fitting reason within a time limit.

It must never simulate or score anything.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from evaluation.alarms import Alarm, seconds

HOUR, WEEK, MONTH = 3600.0, 7 * 86_400.0, 30 * 86_400.0
NAMED_WITHIN = 600.0
"""Seconds in which a broken sensor has to be named."""
_TAIL = 0.025
_CARRIES = 86_400.0
"""Seconds before an onset from which an alarm, though false, tells of the episode if it stays open; one that never closes tells nothing."""
_LINGERS = 1800.0
"""An alarm for a sensor that has been mended this recently is late, not false."""
FITTING: Mapping[str, frozenset[str]] = {
    "stuck": frozenset({"stuck"}),
    "saturated": frozenset({"saturated"}),
    "dead": frozenset({"stuck", "saturated", "missing", "dead"}),
    "scaled": frozenset({"inconsistent"}),
    "offset": frozenset({"inconsistent"}),
    "stuck_sensor": frozenset({"stuck"}),
    "slipping_encoder": frozenset({"inconsistent"}),
}
"""Reasons that fit each fault. Of a dead sensor nobody can say more than that it stands at the low end of its register."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A line of the truth; times in seconds since 1970. See the simulator's README."""

    machine: str
    name: str
    kind: str
    fault: str
    sensors: tuple[str, ...]
    onset: float
    label: float | None
    full: float
    repair: float


def read_truth(lines: Iterable[str]) -> list[Episode]:
    """Read what ``simulate --episodes`` writes."""
    episodes = []
    for line in lines:
        row = json.loads(line)
        episodes.append(
            Episode(
                machine=row["equipment_id"],
                name=row["episode"],
                kind=row["kind"],
                fault=row["fault"],
                sensors=tuple(row["sensors"]),
                onset=seconds(row["onset"]),
                label=None if row["label"] is None else seconds(row["label"]),
                full=seconds(row["full"]),
                repair=seconds(row["repair"]),
            )
        )
    return episodes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one whole equipment episode."""

    fault: str
    alarms: int
    """That opened in it."""
    noticed: bool
    early: bool
    """Before a maintenance engineer would have called it."""
    lead: float | None
    """Hours from the first alarm to the fault's peak; None where it was not noticed."""
    pointed: bool | None
    """Whether a sensor of its signature is among the first two reasons of the first alarm in it; None without an alarm."""
    pointed_at_once: bool | None
    """The same of that alarm's first event."""
    with_broken_sensor: bool
    """A sensor of the machine was reported as broken at some time of it."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What became of one broken sensor."""

    fault: str
    delay: float | None
    """Seconds until the right sensor was named with a fitting reason; None for never."""


@dataclass(slots=True)
class Tally:
    """One machine's."""

    weeks: float
    false: int = 0
    false_in_sensor_episodes: int = 0
    """Of the false ones, those that opened while a sensor was broken."""
    outcomes: list[Outcome] = field(default_factory=list)
    namings: list[Naming] = field(default_factory=list)
    false_sensor: int = 0
    """Sensor alarms for a sensor that was well."""
    false_sensor_in_episodes: int = 0
    """Of these, those that opened in an episode of the machine's equipment."""


def judge(
    alarms: Sequence[Alarm],
    episodes: Sequence[Episode],
    spans: Mapping[str, tuple[float, float]],
    source: Callable[[str], str] = str,
) -> list[Tally]:
    """Judge the alarms of one line.

    Args:
        alarms: Of any kind.
        episodes: The truth.
        spans: First and last time of each machine's readings, in seconds since 1970.
        source: Gives the sensor behind a feature's name.

    Returns:
        One for each machine, in the order of ``spans``.
    """
    tallies = []
    for machine, (begin, end) in spans.items():
        own = [alarm for alarm in alarms if alarm.machine == machine]
        truth = [episode for episode in episodes if episode.machine == machine]
        tally = Tally(weeks=(end - begin) / WEEK)
        _equipment(tally, own, truth, (begin, end), source)
        _sensors(tally, own, truth, (begin, end))
        tallies.append(tally)
    return tallies


def _equipment(
    tally: Tally,
    alarms: Sequence[Alarm],
    episodes: Sequence[Episode],
    span: tuple[float, float],
    source: Callable[[str], str],
) -> None:
    equipment = [alarm for alarm in alarms if alarm.kind == "equipment"]
    broken = [alarm for alarm in alarms if alarm.kind == "sensor"]
    faults = [episode for episode in episodes if episode.kind == "equipment"]
    for alarm in equipment:
        if not any(episode.onset <= alarm.opened <= episode.repair for episode in faults):
            tally.false += 1
            tally.false_in_sensor_episodes += any(
                episode.onset <= alarm.opened <= episode.repair for episode in episodes if episode.kind == "sensor"
            )
    begin, end = span
    for episode in faults:
        if episode.label is None or episode.onset < begin or episode.repair > end:
            continue
        within = [alarm for alarm in equipment if episode.onset <= alarm.opened <= episode.repair]
        before = [
            alarm
            for alarm in equipment
            if episode.onset - _CARRIES < alarm.opened < episode.onset and alarm.is_open(episode.label, episode.repair)
        ]
        noticed = before + within
        first = noticed[0] if noticed else None
        tally.outcomes.append(
            Outcome(
                fault=episode.fault,
                alarms=len(within),
                noticed=bool(noticed),
                early=first is not None and first.opened < episode.label,
                lead=None if first is None else (episode.full - max(first.opened, episode.onset)) / HOUR,
                pointed=_points(within[0].features, episode, source) if within else None,
                pointed_at_once=_points(within[0].first_features, episode, source) if within else None,
                with_broken_sensor=any(alarm.is_open(episode.onset, episode.repair) for alarm in broken),
            )
        )


def _points(features: Sequence[str], episode: Episode, source: Callable[[str], str]) -> bool:
    blamed: list[str] = []
    for feature in features:
        if source(feature) not in blamed:
            blamed.append(source(feature))
    return bool(set(blamed[:2]) & set(episode.sensors))


def _sensors(tally: Tally, alarms: Sequence[Alarm], episodes: Sequence[Episode], span: tuple[float, float]) -> None:
    named = [alarm for alarm in alarms if alarm.kind == "sensor"]
    for alarm in named:
        deserved = any(
            alarm.sensor in episode.sensors and episode.onset <= alarm.opened <= episode.repair + _LINGERS
            for episode in episodes
            if episode.fault in FITTING
        )
        if not deserved:
            tally.false_sensor += 1
            tally.false_sensor_in_episodes += any(
                episode.onset <= alarm.opened <= episode.repair for episode in episodes if episode.kind == "equipment"
            )
    begin, end = span
    for episode in episodes:
        if episode.kind != "sensor" or episode.onset < begin or min(episode.repair, episode.onset + NAMED_WITHIN) > end:
            continue
        times = [
            max(at, episode.onset) - episode.onset
            for alarm in named
            if alarm.sensor in episode.sensors and alarm.is_open(episode.onset, episode.repair)
            for at, reason in alarm.named
            if reason in FITTING[episode.fault] and at <= episode.repair
        ]
        tally.namings.append(Naming(episode.fault, min(times, default=None)))


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval of 95 %; NaN where there is nothing to measure it on."""

    value: float
    low: float
    high: float


def figure(
    tallies: Sequence[Tally],
    statistic: Callable[[Sequence[Tally]], float | None],
    *,
    resamples: int = 1000,
) -> Figure:
    """Compute a figure, and its interval by drawing machines with replacement (a machine's alarms depend on one another).

    Args:
        tallies: One a machine.
        statistic: The figure of some machines; None where they give none.
        resamples: How often to draw.
    """
    value = statistic(tallies) if tallies else None
    if value is None:
        return Figure(math.nan, math.nan, math.nan)
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(resamples):
        again = statistic([tallies[index] for index in random.integers(len(tallies), size=len(tallies))])
        if again is not None:
            drawn.append(again)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return Figure(value, low, high)


def exact(found: Figure, count: int) -> Figure:
    """Widen the interval of a share of 0 or 1, for which drawing machines gives none, to that of Clopper and Pearson.

    Args:
        found: The share.
        count: What it is a share of.
    """
    if count and found.value == 1.0:
        return Figure(1.0, _TAIL ** (1.0 / count), 1.0)
    if count and found.value == 0.0:
        return Figure(0.0, 0.0, 1.0 - _TAIL ** (1.0 / count))
    return found


def per_week(events: Callable[[Tally], int]) -> Callable[[Sequence[Tally]], float | None]:
    """Give the statistic of events a machine-week."""

    def statistic(tallies: Sequence[Tally]) -> float | None:
        spent = weeks(tallies)
        return sum(map(events, tallies)) / spent if spent else None

    return statistic


def share(of: Callable[[Outcome], bool | None]) -> Callable[[Sequence[Tally]], float | None]:
    """Give the statistic of a share of episodes; those for which it is None do not count."""

    def statistic(tallies: Sequence[Tally]) -> float | None:
        held = [said for tally in tallies for outcome in tally.outcomes if (said := of(outcome)) is not None]
        return sum(held) / len(held) if held else None

    return statistic


def middle(of: Callable[[Outcome], float | None]) -> Callable[[Sequence[Tally]], float | None]:
    """Give the statistic of a median over episodes; those for which it is None do not count."""

    def statistic(tallies: Sequence[Tally]) -> float | None:
        held = [said for tally in tallies for outcome in tally.outcomes if (said := of(outcome)) is not None]
        return float(median(held)) if held else None

    return statistic


def named_share(faults: frozenset[str], within: float = NAMED_WITHIN) -> Callable[[Sequence[Tally]], float | None]:
    """Give the statistic of the share of broken sensors that are named rightly in time."""

    def statistic(tallies: Sequence[Tally]) -> float | None:
        held = [naming for tally in tallies for naming in tally.namings if naming.fault in faults]
        return sum(naming.delay is not None and naming.delay <= within for naming in held) / len(held) if held else None

    return statistic


def weeks(tallies: Sequence[Tally]) -> float:
    """Machine-weeks."""
    return sum(tally.weeks for tally in tallies)


def most_events_within(count: int) -> float:
    """Give the upper end of the 95 % interval of a Poisson mean of which so many events were seen (Garwood 1936)."""
    low, high = 0.0, 10.0 + 3.0 * count
    for _ in range(60):
        mean = (low + high) / 2.0
        term = below = math.exp(-mean)
        for events in range(1, count + 1):
            term *= mean / events
            below += term
        low, high = (mean, high) if below > _TAIL else (low, mean)
    return low
