"""Each machine's own past as features: moments over windows of time, and the distance from the machine's own baseline.

One definition with two executions: `History` here goes from reading to reading on a device, and training computes whole tables
with the same functions (`update_windows`, `update_baseline`, `describe`), which work on arrays of machines. It never judges a
reading, reads no clock, and knows neither labels nor scores: everything follows from values, times and off-time, so that
training and device cannot differ. What a machine's past cannot say yet is missing (NaN), never zero.

The rules:

- A reading counts in a window for the time since the machine's previous reading, at most half a window; so a mean is a mean
  over time, whatever the rate of readings, and one reading after a gap does not stand for the gap. Weights decay by
  exp(-time / window). A window's statistics are known once half of its weight is there.
- The statistics of a reading include the reading itself. A late or repeated reading (not later than the newest one of its
  machine), one without a time, and one in off-time change nothing, and see the state as it is. Thirty late readings in a row
  mean that the clock was set back: time begins anew at the thirtieth, and all that was learnt stays.
- Values enter as float32, as the booster sees them; everything is calculated with float64.
- A value that is missing leaves its sensor's state alone; weights decay.
- The baseline learns 24 times in the longest window, each time from the mean over the shortest. It is a running mean of these
  at first, known after the 24th, and then forgets over fourteen of the longest window. From then on a mean counts at most as two
  spreads away from the baseline, so that a fault that grows over days hardly moves it (Huber's estimator). Gaps and off-time do
  not age it.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ml_inference.model.over_time import Derived, Statistic

Float64Array: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.intp]
Bools: TypeAlias = npt.NDArray[np.bool_]

STATISTICS: tuple[Statistic, ...] = get_args(Statistic)

LARGEST_GAP = 0.5
"""A reading counts for the time since the one before it, at most this share of the window."""
KNOWN_WEIGHT = 0.5
"""Weight at which a window's statistics are known; it tends to 1 where readings come more often than the window is long."""
BASELINE_STEPS = 24
"""Steps of the baseline in the longest window, and steps after which it is known."""
BASELINE_MEMORY = 14 * BASELINE_STEPS
"""Steps over which the baseline forgets: two weeks, where the longest window is a day. Longer would hold on to what a sensor
read before it was exchanged."""
BASELINE_REACH = 2.0
"""Spreads beyond which a step counts no more than that."""
SMALLEST_SPREAD = 1e-3
"""Of the baseline's own size: a sensor that hardly ever moves would turn its rounding into large deviations."""
LARGEST_DEVIATION = 1e6
"""In spreads; far beyond what a model has seen, and far from the end of float32."""
LATE_IN_A_ROW = 30
MAX_MACHINES = 10_000
TINY = 1e-300
"""Stands for a weight of zero where it would be divided by."""

_FORMAT = 1
_FEW = 2
"""Up to so many machines at once, a loop costs less than numpy's indexing."""


class HistoryError(Exception):
    """A state of a history that does not fit it, or is damaged."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be computed, compiled from the derived features.

    Attributes:
        derived: The derived features, k, in the order of their columns.
        sensors: s names of features, in the features' order: those that have a history.
        sources: Their positions among the features.
        windows: Shape (w, 1), time constants in seconds, ascending.
        shortest: Index of the window that the baseline learns from.
        step: Time between two steps of the baseline, in seconds.
        columns: Shape (k,): positions in the flattened statistics of shape (statistic, w, s).
        quarters: Shape (w,): index of the window that is a quarter as long; 0 where none is needed.
        kinds: The statistics in use, in the order of `STATISTICS`.
    """

    derived: tuple[Derived, ...]
    sensors: tuple[str, ...]
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
            features: The manifest's feature names in column order; each source is one of them.
        """
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
            sensors=tuple(sources),
            sources=tuple(features.index(name) for name in sources),
            windows=np.array(windows)[:, None],
            shortest=windows.index(asked[0]),
            step=asked[-1] / BASELINE_STEPS,
            columns=np.array(columns, dtype=np.intp),
            quarters=np.array([windows.index(w / 4) if w / 4 in windows else 0 for w in windows], dtype=np.intp),
            kinds=tuple(kinds),
        )


def passage(windows: Float64Array, gap: Float64Array) -> tuple[Float64Array, Float64Array]:
    """What time does to the windows: the share of the old weight that stays, and the weight of the new reading.

    Args:
        windows: Shape (w, 1), in seconds.
        gap: Shape (l, 1, 1), seconds since the machine's previous reading; 0 for a reading that only starts the clock.

    Returns:
        Shape (l, w, 1) each.
    """
    decay = gap / -windows
    return np.exp(decay), -np.expm1(np.maximum(decay, -LARGEST_GAP))


def update_windows(moments: Float64Array, stays: Float64Array, fresh: Float64Array, values: Float64Array) -> None:
    """Let a reading of each of l machines into its windows, in place.

    Args:
        moments: Shape (l, 3, w, s): weight, mean and variance.
        stays: Shape (l, w, 1), from `passage`.
        fresh: Shape (l, w, 1), from `passage`.
        values: Shape (l, 1, s), NaN where missing.
    """
    weight, mean, variance = moments[:, 0], moments[:, 1], moments[:, 2]
    weight *= stays
    difference = values - mean
    missing = np.isnan(difference)
    # `count_nonzero` is several times as fast as `any`: for a single reading numpy's cost of a call is all there is.
    if np.count_nonzero(missing):
        fresh = np.where(missing, 0.0, fresh)
        difference[missing] = 0.0
    weight += fresh
    share = fresh / np.maximum(weight, TINY)
    step = share * difference
    mean += step
    difference *= step
    variance += difference
    variance *= 1.0 - share


def update_baseline(baseline: Float64Array, weight: Float64Array, mean: Float64Array) -> None:
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


def describe(plan: Plan, moments: Float64Array, baseline: Float64Array) -> Float64Array:
    """The derived features.

    Args:
        plan: Which.
        moments: Shape (l, 3, w, s).
        baseline: Shape (l, 3, s).

    Returns:
        Shape (l, k).
    """
    mean = moments[:, 1]
    parts = np.empty((len(moments), len(plan.kinds), *mean.shape[1:]))
    for place, kind in enumerate(plan.kinds):
        part = parts[:, place]
        if kind == "mean":
            part[...] = mean
        elif kind == "std":
            np.sqrt(moments[:, 2], out=part)
        elif kind == "slope":
            quarter = moments[:, :, plan.quarters]
            np.subtract(quarter[:, 1], mean, out=part)
            part[quarter[:, 0] < KNOWN_WEIGHT] = np.nan
        else:
            centre = baseline[:, 1]
            np.subtract(mean, centre[:, None], out=part)
            if kind == "deviation":
                spread = np.maximum(np.sqrt(baseline[:, 2]), SMALLEST_SPREAD * np.abs(centre))
                spread[spread <= 0.0] = np.nan
                part /= spread[:, None]
                np.clip(part, -LARGEST_DEVIATION, LARGEST_DEVIATION, out=part)
            young = baseline[:, 0] < BASELINE_STEPS
            if np.count_nonzero(young):
                np.copyto(part, np.nan, where=young[:, None])
    unknown = moments[:, 0] < KNOWN_WEIGHT
    if np.count_nonzero(unknown):
        np.copyto(parts, np.nan, where=unknown[:, None])
    return parts.reshape(len(parts), -1).take(plan.columns, axis=1)


class _Turn(NamedTuple):
    """One reading of a batch: its position, its machine's place, the time that passed, and whether the baseline steps."""

    at: int
    place: int
    gap: float | None
    due: bool


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
        self._newest: list[float] = []
        self._late: list[int] = []
        self._names: list[str] = []
        self._places: dict[str, int] = {}
        self._sources = np.array(plan.sources, dtype=np.intp)
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
        self, machine: str, seconds: float | None, values: Sequence[float], *, counts: bool = True
    ) -> Float64Array:
        """Let a reading in and describe its past.

        Args:
            machine: Equipment id.
            seconds: The reading's time since the epoch; None if it has none.
            values: All features in the manifest's order; NaN for one that is missing.
            counts: False in off-time, and for a time that cannot be believed: the reading then leaves the state alone.

        Returns:
            The derived features, shape (k,); NaN where the past does not say.
        """
        turn = self._turn(0, machine, seconds if counts else None)
        here = slice(turn.place, turn.place + 1)
        if turn.gap is not None:
            if turn.due:
                self._step([turn.place])
            stays, fresh = passage(self._plan.windows, np.array([[[turn.gap]]]))
            sensors = np.array([[values]], dtype=np.float32)[:, :, self._sources].astype(np.float64)
            update_windows(self._moments[here], stays, fresh, sensors)
        described: Float64Array = describe(self._plan, self._moments[here], self._baseline[here])[0]
        return described

    def update_many(
        self,
        machines: Sequence[str],
        seconds: Sequence[float | None],
        rows: Sequence[Sequence[float]] | npt.NDArray[np.floating[Any]],
        counts: Sequence[bool] | None = None,
    ) -> Float64Array:
        """Let readings in one after the other, as `update` does, at a lower cost for each.

        Args:
            machines: n equipment ids.
            seconds: n times.
            rows: n readings.
            counts: n times whether a reading may change the state; None for always.

        Returns:
            Shape (n, k).
        """
        if len(machines) == 1:
            only = self.update(machines[0], seconds[0], rows[0], counts=counts is None or bool(counts[0]))
            return only[None]
        values = np.asarray(rows, dtype=np.float32)[:, None, self._sources].astype(np.float64)
        described = []
        # The first reading of each machine, then the second of those that have one, and so on.
        rounds: list[list[_Turn]] = []
        seen: dict[str, int] = {}
        begin = 0
        for at, machine in enumerate(machines):
            if machine not in self._places and len(self._places) >= self._max and at > begin:
                # Another machine will take the place of one that may be in these rounds.
                described.append(self._take(rounds, values[begin:at]))
                rounds, seen, begin = [], {}, at
            turn = self._turn(at - begin, machine, seconds[at] if counts is None or counts[at] else None)
            number = seen.get(machine, 0)
            seen[machine] = number + 1
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(turn)
        described.append(self._take(rounds, values[begin:]))
        return described[0] if len(described) == 1 else np.concatenate(described)

    def forget(self, machine: str, sources: Iterable[str] | None = None) -> None:
        """Forget what a machine's past says: it is not the same machine any more, or a sensor of it was no measurement.

        Args:
            machine: Equipment id.
            sources: Features of which the windows are forgotten, while the baseline stays, since a fault hardly moves it;
                None for the whole past.
        """
        place = self._places.get(machine)
        if place is None:
            return
        if sources is None:
            self._moments[place] = 0.0
            self._baseline[place] = 0.0
            return
        for source in sources:
            if source in self._plan.sensors:
                self._moments[place, :, :, self._plan.sensors.index(source)] = 0.0

    def state(self) -> bytes:
        """Everything that is known, for `restore`: a line of JSON, then arrays of float64 in little-endian order."""
        names = [*self._new, *self._settled]
        places = [self._places[name] for name in names]
        head = {"format": _FORMAT, "derived": _key(self._plan), "machines": names, "settled": len(self._settled)}
        clocks = np.array([(self._newest[place], self._late[place]) for place in places])
        parts = [clocks, self._moments[places], self._baseline[places]]
        return json.dumps(head).encode() + b"\n" + b"".join(part.astype("<f8").tobytes() for part in parts)

    def restore(self, data: bytes) -> None:
        """Go on from a state, in place of what is known.

        Args:
            data: What `state` gave, for the same derived features.

        Raises:
            HistoryError: It is of another format, of other derived features, or damaged; nothing has changed.
        """
        line, _, body = data.partition(b"\n")
        try:
            head: dict[str, Any] = json.loads(line)
            made_for, derived, names, settled = head["format"], head["derived"], head["machines"], head["settled"]
        except (ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"the history's state is damaged: {error}") from error
        if made_for != _FORMAT:
            raise HistoryError(f"the history's state has format {made_for}; this version reads format {_FORMAT}")
        if derived != _key(self._plan):
            raise HistoryError("the history's state belongs to other derived features")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and isinstance(settled, int)):
            raise HistoryError("the history's state is damaged: it names no machines")
        count = len(names)
        sizes = [2 * count, count * self._moments[0].size, count * self._baseline[0].size]
        if len(body) != 8 * sum(sizes):
            raise HistoryError("the history's state is damaged: its length is wrong")
        held = np.frombuffer(body, dtype="<f8").astype(np.float64)
        clocks, moments, baseline = np.split(held, np.cumsum(sizes)[:2])
        newest = slice(max(0, count - self._max), None)
        self._newest = clocks[::2][newest].tolist()
        self._late = clocks[1::2][newest].astype(int).tolist()
        self._moments = moments.reshape(count, *self._moments.shape[1:])[newest].copy()
        self._baseline = baseline.reshape(count, *self._baseline.shape[1:])[newest].copy()
        self._names = names[newest]
        self._places = {name: place for place, name in enumerate(self._names)}
        border = max(0, len(self._names) - settled)
        self._new = OrderedDict.fromkeys(self._names[:border])
        self._settled = OrderedDict.fromkeys(self._names[border:])

    def _turn(self, at: int, machine: str, seconds: float | None) -> _Turn:
        """Advance a machine's clock to a reading's time.

        Args:
            at: The reading's position, for `_Turn`.
            machine: Equipment id.
            seconds: The reading's time; None if it does not count.
        """
        place = self._place(machine)
        if seconds is None or not math.isfinite(seconds):
            return _Turn(at, place, None, due=False)
        newest = self._newest[place]
        if seconds > newest:
            self._newest[place], self._late[place] = seconds, 0
            if newest == -math.inf:
                return _Turn(at, place, 0.0, due=False)
            step = self._plan.step
            return _Turn(at, place, seconds - newest, due=math.floor(seconds / step) > math.floor(newest / step))
        if seconds < newest:
            self._late[place] += 1
            if self._late[place] >= LATE_IN_A_ROW:
                self._newest[place], self._late[place] = seconds, 0
        return _Turn(at, place, None, due=False)

    def _place(self, machine: str) -> int:
        """Where a machine's state is; makes room for a new one."""
        place = self._places.get(machine)
        if place is not None:
            (self._settled if machine in self._settled else self._new).move_to_end(machine)
            return place
        if len(self._places) >= self._max:
            evicted, _ = (self._new or self._settled).popitem(last=False)
            place = self._places.pop(evicted)
            self._names[place], self._newest[place], self._late[place] = machine, -math.inf, 0
        else:
            place = len(self._places)
            self._names.append(machine)
            self._newest.append(-math.inf)
            self._late.append(0)
            if place == len(self._moments):
                size = min(max(1, 2 * place), self._max)
                self._moments, self._baseline = _grown(self._moments, size), _grown(self._baseline, size)
        self._moments[place] = 0.0
        self._baseline[place] = 0.0
        self._places[machine] = place
        self._new[machine] = None
        return place

    def _take(self, rounds: Sequence[Sequence[_Turn]], values: Float64Array) -> Float64Array:
        """Let readings in, and describe the past after each.

        Args:
            rounds: No machine twice in one round.
            values: Shape (n, 1, s), which the turns' `at` point into.

        Returns:
            Shape (n, k).
        """
        count = len(values)
        gaps = np.zeros((count, 1, 1))
        for turns in rounds:
            for turn in turns:
                if turn.gap is not None:
                    gaps[turn.at] = turn.gap
        stays, fresh = passage(self._plan.windows, gaps)
        moments = np.empty((count, *self._moments.shape[1:]))
        baseline = np.empty((count, *self._baseline.shape[1:]))
        for turns in rounds:
            due = [turn.place for turn in turns if turn.due]
            if due:
                self._step(due)
            if len(turns) <= _FEW:
                for at, place, gap, _ in turns:
                    if gap is not None:
                        here, own = slice(place, place + 1), slice(at, at + 1)
                        update_windows(self._moments[here], stays[own], fresh[own], values[own])
                    moments[at], baseline[at] = self._moments[place], self._baseline[place]
                continue
            counted = [turn for turn in turns if turn.gap is not None]
            rows, places = [turn.at for turn in counted], [turn.place for turn in counted]
            advanced = self._moments[places]
            update_windows(advanced, stays[rows], fresh[rows], values[rows])
            self._moments[places] = advanced
            rows, places = [turn.at for turn in turns], [turn.place for turn in turns]
            moments[rows], baseline[rows] = self._moments[places], self._baseline[places]
        return describe(self._plan, moments, baseline)

    def _step(self, places: list[int]) -> None:
        """Let the baselines of some machines take a step; a machine whose baseline is known no longer counts as new."""
        baseline, shortest = self._baseline[places], self._plan.shortest
        update_baseline(baseline, self._moments[places, 0, shortest], self._moments[places, 1, shortest])
        self._baseline[places] = baseline
        most_steps: list[float] = baseline[:, 0].max(axis=1).tolist()
        for place, steps in zip(places, most_steps, strict=True):
            name = self._names[place]
            if steps >= BASELINE_STEPS and name in self._new:
                del self._new[name]
                self._settled[name] = None


def _grown(array: Float64Array, size: int) -> Float64Array:
    grown = np.zeros((size, *array.shape[1:]))
    grown[: len(array)] = array
    return grown


def _key(plan: Plan) -> list[list[Any]]:
    """What a state depends on: the sensors in their order and the windows, from which everything else is computed."""
    return [list(plan.sensors), plan.windows.ravel().tolist(), [plan.shortest, plan.step]]
