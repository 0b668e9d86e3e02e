"""Each machine's own past as features: moments over windows of time, and the distance from the machine's own baseline.

One definition with two executions. `History` is fed reading by reading on a device; `history_table` computes the same for
a whole table. Both run the same two functions, `_learn` and `_settle`, over arrays of machines. It never judges a reading,
reads no clock, and knows neither labels nor scores: everything follows from values, times and off-time, so that training
and device cannot differ. What a machine's past cannot say yet is missing (NaN), never zero.

The rules:

- A reading counts in a window for the time since the machine's previous reading, at most half a window; so a mean is a mean
  over time, whatever the rate of readings, and one reading after a gap does not stand for the gap. Weights decay by
  exp(-time / window). A window's statistics are known once half of its weight is there.
- The statistics of a reading include the reading itself. A late or repeated reading (not later than the newest one of its
  machine), one without a time, and one in off-time change nothing, and see the state as it is.
- A value that is missing leaves its sensor's state alone; weights decay.
- The baseline learns 24 times in the longest window, each time from the mean over the shortest. It is a running mean of these
  at first, known after the 24th, and then forgets over thirty of the longest window. From then on a mean counts at most as two
  spreads away from the baseline, so that a fault that grows over days hardly moves it (Huber's estimator). Gaps and off-time do
  not age it.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.model.over_time import Derived

Float64Array: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.intp]
Bools: TypeAlias = npt.NDArray[np.bool_]

STATISTICS: Mapping[str, str] = {
    "mean": "mean over the window",
    "std": "standard deviation over the window",
    "slope": "mean over a quarter of the window less the mean over the window",
    "shift": "mean over the window less the machine's own baseline",
    "deviation": "shift in spreads of the machine's own baseline",
}
"""The statistics that a manifest can ask for; all but `deviation` in the sensor's unit."""

LARGEST_GAP = 0.5
"""A reading counts for the time since the one before it, at most this share of the window."""
KNOWN_WEIGHT = 0.5
"""Weight at which a window's statistics are known; it tends to 1 where readings come more often than the window is long."""
BASELINE_STEPS = 24
"""Steps of the baseline in the longest window, and steps after which it is known."""
BASELINE_MEMORY = 30 * BASELINE_STEPS
"""Steps over which the baseline forgets: a month, where the longest window is a day."""
BASELINE_REACH = 2.0
"""Spreads beyond which a step counts no more than that."""
SMALLEST_SPREAD = 1e-3
"""Of the baseline's own size: a sensor that hardly ever moves would turn its rounding into large deviations."""
MAX_MACHINES = 4_000

_FORMAT = 1
_TINY = 1e-300
_LANES = 1_024
"""Runs of readings that a table is cut into: numpy's cost for a call is shared by this many."""


class HistoryError(Exception):
    """Derived features that cannot be computed, or a state that does not fit them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be computed, compiled from the derived features.

    Attributes:
        derived: The derived features, k, in the order of their columns.
        sources: s positions among the features: the sensors that have a history.
        windows: Shape (w, 1), time constants in seconds, ascending.
        shortest: Index of the window that the baseline learns from.
        step: Time between two steps of the baseline, in seconds.
        columns: Shape (k,): positions in the flattened statistics of shape (statistic, w, s).
        quarters: Shape (w,): index of the window that is a quarter as long; 0 where none is needed.
        kinds: The statistics in use, in the order of `STATISTICS`.
    """

    derived: tuple[Derived, ...]
    sources: tuple[int, ...]
    windows: Float64Array
    shortest: int
    step: float
    columns: Ints
    quarters: Ints
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, derived: Sequence[Derived], features: Sequence[str]) -> Plan:
        """Compile.

        Args:
            derived: The manifest's; at least one.
            features: The manifest's feature names in column order.

        Raises:
            HistoryError: A statistic or a source is unknown.
        """
        for one in derived:
            if one.statistic not in STATISTICS:
                raise HistoryError(f"derived {one.name!r}: unknown statistic {one.statistic!r}")
            if one.source not in features:
                raise HistoryError(f"derived {one.name!r}: there is no feature {one.source!r}")
        sources = [name for name in features if any(one.source == name for one in derived)]
        asked = sorted({one.window_seconds for one in derived})
        quarters = {one.window_seconds / 4 for one in derived if one.statistic == "slope"}
        windows = sorted({*asked, *quarters})
        kinds = [kind for kind in STATISTICS if any(one.statistic == kind for one in derived)]
        size = len(windows) * len(sources)
        columns = [
            kinds.index(one.statistic) * size
            + windows.index(one.window_seconds) * len(sources)
            + sources.index(one.source)
            for one in derived
        ]
        return cls(
            derived=tuple(derived),
            sources=tuple(features.index(name) for name in sources),
            windows=np.array(windows)[:, None],
            shortest=windows.index(asked[0]),
            step=asked[-1] / BASELINE_STEPS,
            columns=np.array(columns, dtype=np.intp),
            quarters=np.array([windows.index(w / 4) if w / 4 in windows else 0 for w in windows], dtype=np.intp),
            kinds=tuple(kinds),
        )


def default_plan(
    features: Sequence[str], windows: Sequence[float], *, counted: bool = False, statistics: Sequence[str] = ()
) -> list[Derived]:
    """The derived features of a training.

    Args:
        features: The sensors.
        windows: In seconds, or in the unit of a time that is a count.
        counted: Whether the time is a count (of cycles) and not in seconds; for the names.
        statistics: Which; the default is what pays (see `DEFAULT_STATISTICS`).
    """
    return [
        Derived(
            name=f"{feature} {statistic} {window_text(window, counted=counted)}",
            source=feature,
            statistic=statistic,
            window_seconds=float(window),
        )
        for feature in features
        for window in sorted(windows)
        for statistic in statistics or DEFAULT_STATISTICS
    ]


DEFAULT_STATISTICS = ("mean", "std", "shift", "deviation")


def window_text(window: float, *, counted: bool = False) -> str:
    """A window for people: `6h`, `90s`; a count as it is."""
    if counted:
        return f"{window:g}"
    for unit, seconds in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if window % seconds == 0 and (window > seconds or unit != "d"):
            return f"{window / seconds:g}{unit}"
    return f"{window:g}s"


def usual_windows(machine: Ints, seconds: Float64Array, *, counted: bool = False) -> list[float]:
    """Windows that a table can support: an hour, six and a day, as far as its series are long and dense enough.

    Where these do not fit (short series, or a time that is a count), a fortieth and a tenth of the median series, at least
    three readings long.

    Args:
        machine: n numbers of machines.
        seconds: n moments.
        counted: Whether `seconds` is a count.

    Returns:
        Ascending; empty where the series are too short for a past.
    """
    order = np.lexsort((seconds, machine))
    names, moments = machine[order], seconds[order]
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1])) if len(names) else np.empty(0, np.intp)
    if not len(starts):
        return []
    ends = np.append(starts[1:], len(names)) - 1
    span = float(np.median(moments[ends] - moments[starts]))
    gaps = np.diff(moments)[names[1:] == names[:-1]]
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return []
    gap = float(np.median(gaps))
    if not counted:
        fitting = [window for window in (3_600.0, 21_600.0, 86_400.0) if 2 * gap <= window <= span / 5]
        if fitting:
            return fitting
    longest = _round(span / 10)
    return sorted({max(_round(span / 40), 3 * gap), longest}) if longest >= 5 * gap else []


def _round(value: float) -> float:
    """To one significant digit and a half: 1, 1.5, 2, ... 9.5 times a power of ten."""
    size = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return round(2 * value / size) / 2 * size


# --- the definition -------------------------------------------------------------------------------------------------


def _learn(moments: Float64Array, windows: Float64Array, gap: Float64Array, values: Float64Array) -> None:
    """Let a reading of each of l machines into its windows, in place.

    Args:
        moments: Shape (l, 3, w, s): weight, mean and variance.
        windows: Shape (w, 1), in seconds.
        gap: Shape (l, 1, 1), seconds since the machine's previous reading; 0 for its first one, which only starts its clock.
        values: Shape (l, 1, s), NaN where missing.
    """
    weight, mean, variance = moments[:, 0], moments[:, 1], moments[:, 2]
    decay = gap / -windows
    fresh = 1.0 - np.exp(np.maximum(decay, -LARGEST_GAP))
    weight *= np.exp(decay)
    difference = values - mean
    missing = difference != difference  # noqa: PLR0124 - NaN
    if missing.any():
        fresh = np.where(missing, 0.0, fresh)
        difference[missing] = 0.0
    weight += fresh
    share = fresh / np.maximum(weight, _TINY)
    step = share * difference
    mean += step
    difference *= step
    variance += difference
    variance *= 1.0 - share


def _settle(baseline: Float64Array, weight: Float64Array, mean: Float64Array) -> None:
    """Let the baseline of each of l machines take one step, in place.

    Args:
        baseline: Shape (l, 3, s): steps, centre and squared spread.
        weight: Shape (l, s), of the shortest window.
        mean: Shape (l, s), over it.
    """
    steps, centre, spread = baseline[:, 0], baseline[:, 1], baseline[:, 2]
    known = weight >= KNOWN_WEIGHT
    difference = np.where(known, mean - centre, 0.0)
    reach = np.where(steps >= BASELINE_STEPS, BASELINE_REACH * np.sqrt(spread), np.inf)
    # A sensor that never moved has a spread of zero; it must be able to begin.
    reach = np.where(reach > 0.0, reach, np.inf)
    difference = np.clip(difference, -reach, reach)
    steps += known
    share = np.where(known, 1.0 / np.clip(steps, 1.0, BASELINE_MEMORY), 0.0)
    step = share * difference
    centre += step
    # Welford's update: the first step sets the centre and leaves the spread at zero.
    spread += difference * step
    spread *= 1.0 - share


def _describe(plan: Plan, moments: Float64Array, baseline: Float64Array) -> Float64Array:
    """The derived features.

    Args:
        plan: Which.
        moments: Shape (l, 3, w, s).
        baseline: Shape (l, 3, s); any, where the plan needs none.

    Returns:
        Shape (l, k).
    """
    mean = np.where(moments[:, 0] >= KNOWN_WEIGHT, moments[:, 1], np.nan)
    parts = np.empty((len(moments), len(plan.kinds), *mean.shape[1:]))
    for place, kind in enumerate(plan.kinds):
        part = parts[:, place]
        if kind == "mean":
            part[...] = mean
        elif kind == "std":
            np.sqrt(moments[:, 2], out=part)
            part[np.isnan(mean)] = np.nan
        elif kind == "slope":
            np.subtract(mean[:, plan.quarters], mean, out=part)
        else:
            centre = np.where(baseline[:, 0] >= BASELINE_STEPS, baseline[:, 1], np.nan)
            np.subtract(mean, centre[:, None], out=part)
            if kind == "deviation":
                spread = np.maximum(np.sqrt(baseline[:, 2]), SMALLEST_SPREAD * np.abs(centre))
                spread[spread <= 0.0] = np.nan
                part /= spread[:, None]
    return parts.reshape(len(parts), -1).take(plan.columns, axis=1)


# --- reading by reading -----------------------------------------------------------------------------------------------


class History:
    """The past of the machines that report, in bounded memory.

    Not thread-safe. When the memory is full, the machine that has been silent for longest makes room, one without a known
    baseline first: so ids that somebody makes up displace each other, not the machines.

    Args:
        plan: What to compute.
        max_machines: Most machines that have a past.
    """

    def __init__(self, plan: Plan, max_machines: int = MAX_MACHINES) -> None:
        self._plan = plan
        self._max = max_machines
        windows, sensors = len(plan.windows), len(plan.sources)
        self._moments: Float64Array = np.zeros((8, 3, windows, sensors))
        self._baseline: Float64Array = np.zeros((8, 3, sensors))
        self._newest: Float64Array = np.full(8, -np.inf)
        self._sources = np.array(plan.sources, dtype=np.intp)
        self._names: list[str] = []
        self._places: dict[str, int] = {}
        # Least recently seen first.
        self._new: OrderedDict[str, None] = OrderedDict()
        self._settled: OrderedDict[str, None] = OrderedDict()

    @property
    def plan(self) -> Plan:
        """What is computed."""
        return self._plan

    def __len__(self) -> int:
        """Machines that have a past."""
        return len(self._places)

    def update(
        self, machine: str, seconds: float | None, values: Sequence[float], *, learn: bool = True
    ) -> list[float]:
        """Let a reading in and describe its past.

        Args:
            machine: Equipment id.
            seconds: The reading's time since the epoch; None if it has none.
            values: All features in the manifest's order; NaN for one that is missing.
            learn: False in off-time, and for a time that cannot be believed: the reading then leaves the state alone.

        Returns:
            The derived features, k; NaN where the past does not say.
        """
        described: list[float] = self.update_many([machine], [seconds], [values], [learn])[0].tolist()
        return described

    def update_many(
        self,
        machines: Sequence[str],
        seconds: Sequence[float | None],
        rows: Sequence[Sequence[float]],
        learn: Sequence[bool] | None = None,
    ) -> Float64Array:
        """Let readings in one after the other, as `update` does, at a lower cost for each.

        Args:
            machines: n equipment ids.
            seconds: n times.
            rows: n readings.
            learn: n times whether a reading may change the state; None for always.

        Returns:
            Shape (n, k).
        """
        count = len(machines)
        values = np.asarray(rows, dtype=np.float64)[:, self._sources]
        times = np.array(
            [
                -math.inf if time is None or not math.isfinite(time) or not (learn is None or learn[at]) else time
                for at, time in enumerate(seconds)
            ]
        )
        moments = np.empty((count, *self._moments.shape[1:]))
        baseline = np.empty((count, *self._baseline.shape[1:]))
        # The first reading of each machine, then the second of those that have one, and so on.
        turns: list[tuple[list[int], list[int]]] = []
        seen: dict[str, int] = {}

        def flush() -> None:
            for at, places in turns:
                self._advance(np.array(places, dtype=np.intp), times[at], values[at])
                moments[at] = self._moments[places]
                baseline[at] = self._baseline[places]
            turns.clear()
            seen.clear()

        for at, machine in enumerate(machines):
            if machine not in self._places and len(self._places) >= self._max:
                flush()  # before another machine takes the place of one that is in these turns
            place = self._place(machine)
            turn = seen.get(machine, 0)
            seen[machine] = turn + 1
            if turn == len(turns):
                turns.append(([], []))
            turns[turn][0].append(at)
            turns[turn][1].append(place)
        flush()
        return _describe(self._plan, moments, baseline)

    def state(self) -> bytes:
        """Everything that is known, for `restore`: a line of JSON, then arrays of float64 in little-endian order."""
        names = [*self._new, *self._settled]
        places = [self._places[name] for name in names]
        head = {"format": _FORMAT, "shape": _shape(self._plan), "machines": names, "settled": len(self._settled)}
        parts = [self._newest[places], self._moments[places], self._baseline[places]]
        return json.dumps(head).encode() + b"\n" + b"".join(part.astype("<f8").tobytes() for part in parts)

    def restore(self, data: bytes) -> None:
        """Go on from a state, in place of what is known.

        Args:
            data: What `state` gave, by this plan or one of the same derived features.

        Raises:
            HistoryError: It is of another format, of other derived features, or damaged; nothing has changed.
        """
        line, _, body = data.partition(b"\n")
        try:
            head: dict[str, Any] = json.loads(line)
            made_for, shape, names, settled = head["format"], head["shape"], head["machines"], head["settled"]
        except (ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"the state of the history is damaged: {error}") from error
        if made_for != _FORMAT:
            raise HistoryError(f"the state of the history has format {made_for}; this version reads {_FORMAT}")
        if shape != _shape(self._plan):
            raise HistoryError("the state of the history belongs to other derived features")
        count = len(names)
        sizes = [count, count * self._moments[0].size, count * self._baseline[0].size]
        if len(body) != 8 * sum(sizes):
            raise HistoryError("the state of the history is damaged: its length is wrong")
        newest, moments, baseline = np.split(np.frombuffer(body, dtype="<f8").astype(np.float64), np.cumsum(sizes)[:2])
        kept = slice(max(0, count - self._max), None)
        self._newest = newest[kept].copy()
        self._moments = moments.reshape(count, *self._moments.shape[1:])[kept].copy()
        self._baseline = baseline.reshape(count, *self._baseline.shape[1:])[kept].copy()
        self._names = names[kept]
        self._places = {name: place for place, name in enumerate(self._names)}
        border = max(0, len(self._places) - settled)
        self._new = OrderedDict.fromkeys(names[kept][:border])
        self._settled = OrderedDict.fromkeys(names[kept][border:])

    def _place(self, machine: str) -> int:
        """Where a machine's state is; makes room for a new one."""
        place = self._places.get(machine)
        if place is not None:
            (self._settled if machine in self._settled else self._new).move_to_end(machine)
            return place
        if len(self._places) >= self._max:
            evicted, _ = (self._new or self._settled).popitem(last=False)
            place = self._places.pop(evicted)
            self._names[place] = machine
        else:
            place = len(self._places)
            self._names.append(machine)
            if place == len(self._newest):
                size = min(2 * place, self._max) or 1
                self._newest = _grown(self._newest, size)
                self._moments = _grown(self._moments, size)
                self._baseline = _grown(self._baseline, size)
        self._newest[place] = -np.inf
        self._moments[place] = 0.0
        self._baseline[place] = 0.0
        self._places[machine] = place
        self._new[machine] = None
        return place

    def _advance(self, places: Ints, seconds: Float64Array, values: Float64Array) -> None:
        """Let one reading of each of l different machines in; a time of -inf, or one that is not new, changes nothing."""
        newest = self._newest[places]
        fresh = seconds > newest
        if not fresh.all():
            if not fresh.any():
                return
            places, seconds, newest, values = places[fresh], seconds[fresh], newest[fresh], values[fresh]
        self._newest[places] = seconds
        first = np.isneginf(newest)
        gap = np.where(first, 0.0, seconds - np.where(first, 0.0, newest))
        moments = self._moments[places]
        due = ~first & (np.floor(seconds / self._plan.step) > np.floor(newest / self._plan.step))
        if due.any():
            self._step(places[due], moments[due])
        _learn(moments, self._plan.windows, gap[:, None, None], values[:, None, :])
        self._moments[places] = moments

    def _step(self, places: Ints, moments: Float64Array) -> None:
        """Let the baselines of some machines take a step; a machine whose baseline is known no longer counts as new."""
        baseline = self._baseline[places]
        shortest = self._plan.shortest
        _settle(baseline, moments[:, 0, shortest], moments[:, 1, shortest])
        self._baseline[places] = baseline
        for place in places[(baseline[:, 0] >= BASELINE_STEPS).any(axis=1)].tolist():
            name = self._names[place]
            if name in self._new:
                del self._new[name]
                self._settled[name] = None


def _grown(array: Float64Array, size: int) -> Float64Array:
    grown = np.zeros((size, *array.shape[1:]))
    grown[: len(array)] = array
    return grown


def _shape(plan: Plan) -> list[list[Any]]:
    """What a state depends on: not the names of the derived features, nor their order."""
    named = {(one.source, one.statistic, one.window_seconds) for one in plan.derived}
    return [list(one) for one in sorted(named)]


# --- a whole table ------------------------------------------------------------------------------------------------------


def history_table(
    values: npt.NDArray[np.floating[Any]],
    machine: npt.NDArray[np.integer[Any]],
    seconds: Float64Array,
    plan: Plan,
    *,
    running: Bools | None = None,
    keep: Bools | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[np.floating[Any]]:
    """The derived features of a table's readings, as a device would have computed them one by one.

    Takes about as long for one machine as for many: long series are cut into runs that are advanced side by side, from states
    that a first pass has put together (moments over disjoint times combine exactly; Chan et al., "Algorithms for Computing
    the Sample Variance", 1983).

    Args:
        values: Shape (n, f), all features; what is not finite is missing.
        machine: n numbers of machines.
        seconds: n moments, in the order in which the readings of each machine arrived; NaN where a reading has none.
        plan: What to compute.
        running: n times whether the machine was in operation; None for always.
        keep: n times whether the row is wanted; None for all. All readings count, whether wanted or not.
        dtype: Of the result.

    Returns:
        Shape (wanted rows, k), in the table's order.
    """
    order = np.argsort(machine, kind="stable")
    names, moments = machine[order], np.where(np.isfinite(seconds), seconds, -np.inf)[order]
    if running is not None:
        moments[~running[order]] = -np.inf
    learning, newest = _in_order(names, moments)
    # Of each row the latest reading that its state includes: its place among those that learn; -1 before there is one.
    latest = np.cumsum(learning) - 1
    firsts = np.append(True, names[1:] != names[:-1])[: len(names)]
    before = np.maximum.accumulate(np.where(firsts, latest - learning, -1)) if len(names) else latest
    latest[latest <= before] = -1
    readings = _Readings.of(order[learning], names[learning], moments[learning], newest[learning], plan)
    wanted = np.empty(len(order), dtype=np.intp)
    wanted[order] = latest
    if keep is not None:
        wanted = wanted[keep]
    needed = np.unique(wanted[wanted >= 0])
    described = _replay(values, readings, plan, needed, dtype)
    if len(needed) == len(wanted) and len(wanted) and wanted.min() >= 0 and bool((np.diff(wanted) > 0).all()):
        return described
    result = np.full((len(wanted), len(plan.derived)), np.nan, dtype=dtype)
    known = wanted >= 0
    result[known] = described[np.searchsorted(needed, wanted[known])]
    return result


def _in_order(machine: npt.NDArray[np.integer[Any]], seconds: Float64Array) -> tuple[Bools, Float64Array]:
    """Which readings change the state, and the newest time of each one's machine before it.

    Args:
        machine: n numbers, each machine's readings together.
        seconds: n moments; -inf for a reading that changes nothing.

    Returns:
        Shapes (n,): the choice, and times (-inf before a machine's first).
    """
    newest = np.empty(len(seconds))
    starts = np.flatnonzero(np.append(True, machine[1:] != machine[:-1])[: len(machine)])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(machine)], strict=True):
        newest[start] = -np.inf
        np.maximum.accumulate(seconds[start : end - 1], out=newest[start + 1 : end])
    return seconds > newest, newest


@dataclass(frozen=True, slots=True)
class _Readings:
    """The readings that change a state, machine by machine in the order of time, and the lanes that they are cut into.

    Attributes:
        rows: n rows of the table.
        gaps: n times since the machine's previous reading; 0 for its first.
        due: n times whether the baseline takes a step before the reading.
        starts: First reading of each lane, longest lane first.
        lengths: Readings of each lane.
        machine_lanes: Positions of the lanes in the order of machines and time.
        first: For each of these whether it is its machine's first.
        machines: n numbers from 0, ascending.
    """

    rows: Ints
    gaps: Float64Array
    due: Bools
    starts: Ints
    lengths: Ints
    machine_lanes: Ints
    first: Bools
    machines: Ints

    @classmethod
    def of(
        cls, rows: Ints, names: npt.NDArray[np.integer[Any]], seconds: Float64Array, newest: Float64Array, plan: Plan
    ) -> _Readings:
        count = len(rows)
        begins = np.append(True, names[1:] != names[:-1])[:count]
        before = np.where(begins, seconds, newest)
        places = np.flatnonzero(begins)
        lane = max(1, -(-count // _LANES))
        runs = [
            (start, min(lane, end - start), start == begin)
            for begin, last in zip(places.tolist(), [*places[1:].tolist(), count], strict=True)
            for start in range(begin, last, lane)
            for end in (last,)
        ]
        starts = np.array([run[0] for run in runs], dtype=np.intp)
        lengths = np.array([run[1] for run in runs], dtype=np.intp)
        longest = np.argsort(-lengths, kind="stable")
        machine_lanes = np.empty_like(longest)
        machine_lanes[longest] = np.arange(len(longest))
        return cls(
            rows=rows,
            gaps=seconds - before,
            due=~begins & (np.floor(seconds / plan.step) > np.floor(before / plan.step)),
            starts=starts[longest],
            lengths=lengths[longest],
            machine_lanes=machine_lanes,
            first=np.array([run[2] for run in runs], dtype=bool),
            machines=np.cumsum(begins) - 1,
        )


def _replay(
    values: npt.NDArray[np.floating[Any]], readings: _Readings, plan: Plan, needed: Ints, dtype: npt.DTypeLike
) -> npt.NDArray[np.floating[Any]]:
    """The derived features of some of the readings, shape (needed, k)."""
    lanes, shape = len(readings.starts), (3, len(plan.windows), len(plan.sources))
    result = np.empty((len(needed), len(plan.derived)), dtype=dtype)
    if not len(readings.rows):
        return result
    sources = list(plan.sources)

    def let_in(moments: Float64Array, step: int, active: int) -> Ints:
        """Advance the lanes that are still active by a reading each; returns these readings."""
        at = readings.starts[:active] + step
        reading = values[readings.rows[at]][:, sources].astype(np.float64)
        reading[~np.isfinite(reading)] = np.nan
        _learn(moments[:active], plan.windows, readings.gaps[at][:, None, None], reading[:, None, :])
        return at

    actives = np.searchsorted(-readings.lengths, -np.arange(1, int(readings.lengths[0]) + 1), side="right").tolist()

    # First pass: every lane by itself, from nothing; what the baseline would learn from, and where the lane ends.
    moments = np.zeros((lanes, *shape))
    elapsed = np.zeros(lanes)
    due = np.flatnonzero(readings.due)
    seen_due = np.empty((len(due), 2, shape[2]))
    passed_due = np.empty(len(due))
    lane_due = np.empty(len(due), dtype=np.intp)
    for step, active in enumerate(actives):
        at = readings.starts[:active] + step
        asking = np.flatnonzero(readings.due[at])
        if len(asking):
            to = np.searchsorted(due, at[asking])
            seen_due[to] = moments[asking, :2, plan.shortest]
            passed_due[to], lane_due[to] = elapsed[asking], asking
        let_in(moments, step, active)
        elapsed[:active] += readings.gaps[at]

    # Each lane's true beginning: what its machine knew at the end of the lane before.
    initial = np.zeros((lanes, *shape))
    ends = initial[0]
    for lane, first in zip(readings.machine_lanes.tolist(), readings.first.tolist(), strict=True):
        if not first:
            initial[lane] = ends
        ends = _combined(initial[lane], moments[lane], np.exp(elapsed[lane] / -plan.windows))

    # What the baselines learn from, likewise, and the baselines, one step of all machines at a time.
    shortest = plan.windows[plan.shortest, 0]
    old = initial[lane_due, :2, plan.shortest] if len(due) else seen_due
    old_weight = old[:, 0] * np.exp(passed_due / -shortest)[:, None]
    weight = old_weight + seen_due[:, 0]
    mean = old[:, 1] + (seen_due[:, 1] - old[:, 1]) * (seen_due[:, 0] / np.maximum(weight, _TINY))
    baselines = _baselines(readings.machines[due], weight, mean)
    # Of each reading the latest step of its machine; 0 before there is one.
    taken = np.cumsum(readings.due)
    start_of = np.searchsorted(readings.machines, np.arange(int(readings.machines[-1]) + 1))
    taken_before: Ints = (taken - readings.due)[start_of]
    taken = np.where(taken > taken_before[readings.machines], taken, 0)

    # Second pass: from the true beginnings, with results.
    moments = initial
    places = np.full(len(readings.rows), -1, dtype=np.intp)
    places[needed] = np.arange(len(needed))
    for step, active in enumerate(actives):
        at = let_in(moments, step, active)
        to = places[at]
        asking = np.flatnonzero(to >= 0)
        if len(asking):
            result[to[asking]] = _describe(plan, moments[asking], baselines[taken[at[asking]]])
    return result


def _combined(old: Float64Array, new: Float64Array, decay: Float64Array) -> Float64Array:
    """The moments of two stretches of time, one after the other.

    Args:
        old: Shape (3, w, s), at the end of the first.
        new: Shape (3, w, s), of the second alone.
        decay: Shape (w, 1), of the old weights meanwhile.
    """
    old_weight = old[0] * decay
    weight = old_weight + new[0]
    share = new[0] / np.maximum(weight, _TINY)
    difference = new[1] - old[1]
    mean = np.where(new[0] > 0.0, old[1] + difference * share, old[1])
    variance = (1.0 - share) * old[2] + share * new[2] + share * (1.0 - share) * difference * difference
    return np.stack([weight, mean, np.where(new[0] > 0.0, variance, old[2])])


def _baselines(machines: Ints, weight: Float64Array, mean: Float64Array) -> Float64Array:
    """Every baseline after every step.

    Args:
        machines: m machines, one a step, ascending.
        weight: Shape (m, s), what the step learns from.
        mean: Shape (m, s), likewise.

    Returns:
        Shape (m + 1, 3, s); the first is one that has learnt nothing.
    """
    result = np.zeros((len(machines) + 1, 3, weight.shape[1]))
    if not len(machines):
        return result
    starts = np.flatnonzero(np.append(True, machines[1:] != machines[:-1]))
    lengths = np.diff(np.append(starts, len(machines)))
    longest = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[longest], lengths[longest]
    state = np.zeros((len(starts), 3, weight.shape[1]))
    for step in range(int(lengths[0])):
        active = int(np.searchsorted(-lengths, -(step + 1), side="right"))
        at = starts[:active] + step
        _settle(state[:active], weight[at], mean[at])
        result[at + 1] = state[:active]
    return result
