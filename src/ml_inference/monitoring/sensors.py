"""Sensors that are broken, told from machines that are: stuck, at their end, or gone.

A sensor that froze repeats one value exactly more often than a healthy one ever does. For each sensor of each machine the
evidence for that is a log-likelihood ratio, added up reading by reading and never below zero (CUSUM; Page, "Continuous
Inspection Schemes", 1954): a reading with the suspected value adds `log(q / p)`, any other takes away `log((1 - p) / (1 - q))`,
where p is the share that training says one value usually takes, and q what a contact that fails now and then gives. The same
sum with "is missing" in place of "has that value" finds a sensor that is gone. It judges sensors, never the machine.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import Usual

STUCK, SATURATED, MISSING, INCONSISTENT = "stuck", "saturated", "missing", "inconsistent"

FAULTY_SHARE = 0.25
"""Share of readings that a failing sensor freezes or loses: a smaller one is noticed too, a little later."""
EVIDENCE = 18.0
"""Evidence from which a sensor counts as faulty: by Wald's bound one such sum in e^18 = 66 million reaches it by chance, and a
sensor begins some 30 million a machine-year at one reading a second. Of rarer readings less will do, by the logarithm of their interval."""
CERTAIN = 1.5
"""Times the evidence that makes a sensor faulty, beyond which none is gathered: it is to end in time when the sensor is well."""
WELL_READINGS = 16
"""Other values in a row after which a stuck sensor is well: of one that freezes at `FAULTY_SHARE` one such row in a hundred is chance."""
WELL_SECONDS = 60.0
"""Time that these have to take, or at many readings a second such chance would come every minute."""
OFTEN = 0.4
"""Share of the training's interval up to which a machine that reports more often is judged by how alike successive readings are."""
COMMON = 1.5
"""Evidence of one recurrence from which a value is rare enough that a sensor that is well does not have it in `WELL_READINGS`."""
SUSPICIOUS = 6.0
"""Evidence from which a reading with the suspected value says nothing about the machine any more."""
MARGIN = 1.3
"""A sensor is faulty only beyond so many times the evidence that healthy machines gave in training."""
MIN_SECONDS = 30.0
"""A sensor that stands still, or is gone, for less is not worth an alarm."""
MAX_WAIT_SECONDS = 300.0
"""Longest wait for a noisy sensor that is slow to be told from a stuck one, at more readings than it was trained at."""
SLOW_SHARE = 0.05
"""A sensor that repeats its value in a larger share of the training readings changes slowly: there the longest run counts."""
MOST_RECURRING = 0.9
"""Where one value is so usual (the speed of a machine at rest), its recurrence says nothing."""
LEAST_SHARE = 0.002
"""Even a value that training never saw twice comes twice by chance."""
LEAST_REST_SHARE = 0.02
"""The same of a machine at rest, of which training has few readings."""
REST_READINGS = 100_000
"""The longest run of a value that comes with probability p among so many readings is ln(REST_READINGS) / ln(1 / p)."""
REST_MARGIN = 1.5
"""Of one value's share at rest over that of all pairs of readings that are alike."""
REGISTER_ENDS = tuple(
    sign * end / scale
    for scale in (1.0, 10.0, 100.0, 1000.0)
    for sign, end in ((1, 32767.0), (-1, 32768.0), (1, 65535.0), (1, 2147483647.0), (-1, 2147483648.0))
)
"""Ends of signed and unsigned registers of 16 and 32 bits, as they are or with up to three decimals."""


class SensorState:
    """What is remembered of one machine's sensors.

    Attributes:
        evidence: By feature, for a value that recurs; 0 where nothing is suspected.
        value: By feature, the latest value, or the one that is suspected.
        other: By feature, the latest value besides the one that is suspected; None while there was none.
        gain: By feature, what a reading with the suspected value adds.
        loss: By feature, what another one takes away.
        since: By feature, when the suspicion began, in epoch seconds; of a faulty sensor, when the value came last.
        gone: By feature, the evidence that it is missing; None while nothing was missing.
        gone_since: By feature, when that began.
        faulty: What is wrong by feature; None while all is well.
        off: Whether the machine stood still at its latest reading.
        busy: Whether anything is suspected, faulty or gone; while nothing is, a reading without a recurring value is soon done.
    """

    __slots__ = ("busy", "evidence", "faulty", "gain", "gone", "gone_since", "loss", "off", "other", "since", "value")

    def __init__(self, features: int) -> None:
        zeros = bytes(8 * features)
        self.evidence = array("d", zeros)
        self.value: Sequence[float] = [math.nan] * features
        self.other: array[float] | None = None
        self.gain = array("d", zeros)
        self.loss = array("d", zeros)
        self.since = array("d", zeros)
        self.gone: array[float] | None = None
        self.gone_since: array[float] | None = None
        self.faulty: dict[int, str] | None = None
        self.off = False
        self.busy = False


@dataclass(frozen=True, slots=True)
class Change:
    """A sensor that became faulty, or is well again.

    Attributes:
        column: Of the feature.
        reason: `stuck`, `saturated`, `missing` or `inconsistent`; None if it is well again.
    """

    column: int
    reason: str | None


class SensorWatch:
    """Watches the sensors of machines for one model. A model without `usual` values is not watched.

    Args:
        features: The model's inputs in column order.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._features = features
        self._running = [_Reference(feature, feature.usual) for feature in features]
        self._off = [
            self._running[column] if feature.usual_off is None else _Reference(feature, feature.usual_off, at_rest=True)
            for column, feature in enumerate(features)
        ]
        self._missing_gain = [_odds(reference.missing_share, FAULTY_SHARE)[0] for reference in self._running]
        self._missing_loss = [_odds(reference.missing_share, FAULTY_SHARE)[1] for reference in self._running]
        self.active = any(feature.usual for feature in features)

    def state(self) -> SensorState:
        """Of a machine that is new."""
        return SensorState(len(self._features))

    def look(  # noqa: C901, PLR0912 - once for each value of each reading: a call would cost more than it does
        self,
        state: SensorState,
        values: Sequence[float],
        seconds: float,
        *,
        step: float = 1.0,
        off: bool = False,
        held: Sequence[int] = (),
    ) -> tuple[list[Change] | None, bool]:
        """Take one reading into account.

        Args:
            state: The machine's.
            values: As the sensors gave them, in column order; NaN for one that is missing.
            seconds: Time of the reading, in epoch seconds, after the one before.
            step: Seconds since the reading before.
            off: Whether the machine stands still.
            held: Columns that a gateway merely repeated, which say nothing.

        Returns:
            Sensors whose state changed, and whether the reading holds a value that is suspected to be no measurement.
        """
        if off != state.off:
            self._change_over(state, off=off)
        # By far the most readings; the loop below would come to the same.
        if not state.busy and not held and True not in map(eq, values, state.value):
            total = sum(values)
            if total == total:  # not NaN  # noqa: PLR0124
                state.value = values
                return None, False
        changes: list[Change] | None = None
        suspicious = False
        complete = True
        evidence = state.evidence
        latest = state.value = list(state.value)
        for column, value in enumerate(values):
            if value == latest[column]:
                if column in held:
                    continue
                if self._recurs(state, column, seconds, step, off=off):
                    changes = changes or []
                    changes.append(Change(column, state.faulty[column]))  # type: ignore[index]
                # One that is known to be faulty is withheld, or has to be believed for want of anything better.
                suspicious |= evidence[column] >= SUSPICIOUS and not (state.faulty and column in state.faulty)
            elif value != value:  # NaN  # noqa: PLR0124
                complete = False
            elif evidence[column] > 0.0:
                if column in held:
                    continue
                left = evidence[column] - state.loss[column]
                if left > 0.0:
                    evidence[column] = left
                    weak = left < state.gain[column] or (self._off if off else self._running)[column].unseen(value)
                    if weak and self._is_other(state, column, value):
                        latest[column], evidence[column] = value, 0.0
                        # What came before may be a coincidence; one recurrence alone makes no sensor faulty.
                        self._recurs(state, column, seconds, step, off=off)
                elif not (state.faulty and state.faulty.get(column) in (STUCK, SATURATED)):
                    evidence[column] = 0.0
                    latest[column] = value
                elif seconds - state.since[column] >= WELL_SECONDS:
                    evidence[column] = 0.0
                    latest[column] = value
                    changes = changes or []
                    changes.append(self._well(state, column))
            else:
                latest[column] = value
        if not complete or state.gone is not None:
            gone = self._missing(state, values, seconds)
            changes = (changes or []) + gone if gone else changes
        state.busy = any(evidence) or state.gone is not None
        return changes, suspicious

    def reasons(self, state: SensorState) -> dict[str, str]:
        """Faulty sensors of a machine by name, with what is wrong with them."""
        return {self._features[column].name: reason for column, reason in (state.faulty or {}).items()}

    def _recurs(self, state: SensorState, column: int, seconds: float, step: float, *, off: bool) -> bool:
        """Whether a value that came again makes its sensor faulty."""
        reference = (self._off if off else self._running)[column]
        before = state.evidence[column]
        if before == 0.0:
            gain, loss = reference.odds(state.value[column], step)
            if gain <= 0.0:
                return False
            state.gain[column], state.loss[column], state.since[column] = gain, loss, seconds
        else:
            gain = state.gain[column]
        certain = CERTAIN * reference.evidence
        state.evidence[column] = after = min(before + gain, certain)
        if state.faulty and state.faulty.get(column, INCONSISTENT) != INCONSISTENT:
            if gain >= COMMON:
                state.evidence[column], state.loss[column] = certain, certain / WELL_READINGS
            state.since[column] = seconds
            return False
        if after < reference.evidence and after < reference.enough(step):
            return False
        if seconds - state.since[column] < reference.wait(state.value[column]):
            return False
        state.faulty = (state.faulty or {}) | {column: reference.reason(state.value[column])}
        return True

    def _is_other(self, state: SensorState, column: int, value: float) -> bool:
        """Whether another value than the suspected one came twice in a row."""
        other = state.other
        if other is None:
            other = state.other = array("d", [math.nan]) * len(state.value)
        again = value == other[column] and not (state.faulty and column in state.faulty)
        other[column] = value
        return again

    def _missing(self, state: SensorState, values: Sequence[float], seconds: float) -> list[Change]:
        if state.gone is None or state.gone_since is None:
            state.gone = array("d", bytes(8 * len(values)))
            state.gone_since = array("d", bytes(8 * len(values)))
        changes, left = [], False
        for column, value in enumerate(values):
            reference = self._running[column]
            if not reference.known:
                continue
            before = state.gone[column]
            if value != value:  # NaN  # noqa: PLR0124
                if before == 0.0:
                    state.gone_since[column] = seconds
                after = min(before + self._missing_gain[column], CERTAIN * EVIDENCE)
                state.gone[column] = after
                faulty = state.faulty or {}
                if (
                    after >= EVIDENCE
                    and faulty.get(column, INCONSISTENT) == INCONSISTENT
                    and seconds - state.gone_since[column] >= MIN_SECONDS
                    and self._missing_gain[column] > 0.0
                ):
                    state.faulty = faulty | {column: MISSING}
                    changes.append(Change(column, MISSING))
            elif before > 0.0:
                state.gone[column] = max(0.0, before - self._missing_loss[column])
                if state.gone[column] == 0.0 and state.faulty and state.faulty.get(column) == MISSING:
                    changes.append(self._well(state, column))
            left |= state.gone[column] > 0.0
        if not left:
            state.gone = state.gone_since = None
        return changes

    def _change_over(self, state: SensorState, *, off: bool) -> None:
        """A machine that starts or stops has other values and other usual ones: suspicions do not go over."""
        state.off = off
        values = state.value = list(state.value)
        for column in range(len(self._features)):
            if not (state.faulty and column in state.faulty):
                state.evidence[column] = 0.0
                values[column] = math.nan
        state.other = None

    def _well(self, state: SensorState, column: int) -> Change:
        left = {key: reason for key, reason in (state.faulty or {}).items() if key != column}
        state.faulty = left or None
        return Change(column, None)


class _Reference:
    """What is usual for one sensor, in the terms of the evidence.

    Args:
        feature: The sensor's.
        usual: What training says; None for nothing.
        at_rest: Whether this is about machines that stand still.
    """

    __slots__ = (
        "_edges",
        "_ends",
        "_highest",
        "_odds",
        "_often",
        "_often_below",
        "_range",
        "_usual_evidence",
        "_wait",
        "evidence",
        "known",
        "missing_share",
    )

    def __init__(self, feature: Feature, usual: Usual | None, *, at_rest: bool = False) -> None:
        self.known = usual is not None
        self._edges: list[float] = []
        self._odds = self._often = [(0.0, 0.0)]
        self._often_below = 0.0
        self.evidence, self._usual_evidence = EVIDENCE, 0.0
        self._wait, self.missing_share = MIN_SECONDS, LEAST_SHARE
        self._ends = frozenset(end for end in (feature.minimum, feature.maximum, 0.0) if end is not None)
        self._range = (-math.inf, math.inf)
        # A machine at rest whose sensor still says what it said in operation has one that is stuck, not saturated.
        self._highest = max(
            (one.highest for one in (feature.usual, feature.usual_off) if one is not None), default=math.inf
        )
        if usual is None:
            return
        self._edges = usual.edges
        self._range = (usual.lowest, usual.highest)
        recurring = _recurring_at_rest(usual) if at_rest else 1.0
        shares = [min(share, recurring) for share in usual.shares]
        self._odds = [_odds(share, FAULTY_SHARE) for share in shares]
        # Within minutes a machine changes less than within the windows that training counts values in. The share of pairs
        # that are alike is the sum of the squares of the values' shares, so none of these is larger than its root.
        self._often = [_odds(max(share, math.sqrt(usual.repeat_share)), FAULTY_SHARE) for share in shares]
        self._often_below = OFTEN * usual.interval_seconds
        self._usual_evidence = MARGIN * usual.evidence
        self.evidence = max(EVIDENCE, self._usual_evidence)
        longest = MARGIN * usual.longest_run_seconds
        self._wait = max(MIN_SECONDS, longest if usual.repeat_share >= SLOW_SHARE else min(longest, MAX_WAIT_SECONDS))
        self.missing_share = usual.missing_share

    def odds(self, value: float, step: float) -> tuple[float, float]:
        """What a recurrence of a value adds to the evidence, and what another value takes away, at an interval in seconds."""
        if self.known and self.unseen(value) and self._at_an_end(value):
            return _odds(LEAST_SHARE, FAULTY_SHARE)
        odds = self._odds if step > self._often_below else self._often
        return odds[bisect_right(self._edges, value)]

    def enough(self, step: float) -> float:
        """Evidence that makes a sensor faulty at so many seconds between two readings."""
        return max(self._usual_evidence, EVIDENCE - math.log(max(step, 1.0)))

    def wait(self, value: float) -> float:
        """For how many seconds at least a value has to recur."""
        # How long healthy sensors stand still says nothing of a value that none of them had.
        return min(self._wait, MAX_WAIT_SECONDS) if self.unseen(value) else self._wait

    def reason(self, value: float) -> str:
        """What is wrong with a sensor that repeats a value."""
        if value == 0.0:
            return STUCK  # a dead sensor, and also the lower end of many
        return SATURATED if value > self._highest or self._at_an_end(value) else STUCK

    def unseen(self, value: float) -> bool:
        """Whether training never saw so high or so low a value."""
        lowest, highest = self._range
        return value < lowest or value > highest

    def _at_an_end(self, value: float) -> bool:
        # A register's end over a power of ten is not exact as a float.
        return value in self._ends or any(math.isclose(value, end) for end in REGISTER_ENDS)


def _recurring_at_rest(usual: Usual) -> float:
    """The largest share of its readings that one value takes while a machine stands still.

    The shares of `usual_off` do not say: what machines report at rest differs from one to the next. The longest run does.
    """
    repeats = usual.longest_run_readings - 1
    longest = REST_READINGS ** (-1.0 / repeats) if repeats else 0.0
    return max(LEAST_REST_SHARE, REST_MARGIN * usual.repeat_share, longest)


def _odds(usual: float, faulty: float) -> tuple[float, float]:
    """Gain and loss of the evidence; no gain where the value is too usual to say anything."""
    p = max(usual, LEAST_SHARE)
    if p >= MOST_RECURRING:
        return 0.0, 0.0
    # At least this much beyond what is usual.
    q = max(faulty, p + 0.25 * (1.0 - p))
    return math.log(q / p), math.log((1.0 - p) / (1.0 - q))
