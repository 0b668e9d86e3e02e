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

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import Usual

STUCK, SATURATED, MISSING, INCONSISTENT = "stuck", "saturated", "missing", "inconsistent"

FAULTY_SHARE = 0.25
"""Share of readings that a failing sensor freezes or loses: a smaller one is noticed too, a little later."""
EVIDENCE = 18.0
"""Evidence from which a sensor counts as faulty: by Wald's bound one such sum in e^18 = 66 million reaches it by chance, and a
sensor begins some 30 million a machine-year at one reading a second."""
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
        gain: By feature, what a reading with the suspected value adds.
        loss: By feature, what another one takes away.
        since: By feature, when the suspicion began, in epoch seconds.
        gone: By feature, the evidence that it is missing; None while nothing was missing.
        gone_since: By feature, when that began.
        faulty: What is wrong by feature; None while all is well.
        off: Whether the machine stood still at its latest reading.
    """

    __slots__ = ("evidence", "faulty", "gain", "gone", "gone_since", "loss", "off", "since", "value")

    def __init__(self, features: int) -> None:
        zeros = bytes(8 * features)
        self.evidence = array("d", zeros)
        self.value = array("d", [math.nan]) * features
        self.gain = array("d", zeros)
        self.loss = array("d", zeros)
        self.since = array("d", zeros)
        self.gone: array[float] | None = None
        self.gone_since: array[float] | None = None
        self.faulty: dict[int, str] | None = None
        self.off = False


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
        self._off = [_Reference(feature, feature.usual_off or feature.usual) for feature in features]
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
        off: bool = False,
        held: Sequence[int] = (),
    ) -> tuple[list[Change] | None, bool]:
        """Take one reading into account.

        Args:
            state: The machine's.
            values: As the sensors gave them, in column order; NaN for one that is missing.
            seconds: Time of the reading, in epoch seconds, after the one before.
            off: Whether the machine stands still.
            held: Columns that a gateway merely repeated, which say nothing.

        Returns:
            Sensors whose state changed, and whether the reading holds a value that is suspected to be no measurement.
        """
        if off != state.off:
            self._change_over(state, off=off)
        changes: list[Change] | None = None
        suspicious = False
        complete = True
        evidence, latest = state.evidence, state.value
        for column, value in enumerate(values):
            if value == latest[column]:
                if column in held:
                    continue
                if self._recurs(state, column, seconds, off=off):
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
                else:
                    evidence[column] = 0.0
                    latest[column] = value
                    if state.faulty and state.faulty.get(column) in (STUCK, SATURATED):
                        changes = changes or []
                        changes.append(self._well(state, column))
            else:
                latest[column] = value
        if not complete or state.gone is not None:
            gone = self._missing(state, values, seconds)
            changes = (changes or []) + gone if gone else changes
        return changes, suspicious

    def reasons(self, state: SensorState) -> dict[str, str]:
        """Faulty sensors of a machine by name, with what is wrong with them."""
        return {self._features[column].name: reason for column, reason in (state.faulty or {}).items()}

    def _recurs(self, state: SensorState, column: int, seconds: float, *, off: bool) -> bool:
        """Whether a value that came again makes its sensor faulty."""
        reference = (self._off if off else self._running)[column]
        before = state.evidence[column]
        if before == 0.0:
            gain, loss = reference.odds(state.value[column])
            if gain <= 0.0:
                return False
            state.gain[column], state.loss[column], state.since[column] = gain, loss, seconds
        else:
            gain = state.gain[column]
        limit = reference.evidence
        # What is certain need not become more so: it is to end in time when the sensor is well again.
        after = min(before + gain, 1.5 * limit)
        state.evidence[column] = after
        if after < limit or seconds - state.since[column] < reference.wait:
            return False
        if state.faulty and state.faulty.get(column, INCONSISTENT) != INCONSISTENT:
            return False
        state.faulty = (state.faulty or {}) | {column: reference.reason(state.value[column])}
        return True

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
                after = min(before + self._missing_gain[column], 1.5 * EVIDENCE)
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
        for column in range(len(self._features)):
            if not (state.faulty and column in state.faulty):
                state.evidence[column] = 0.0
                state.value[column] = math.nan

    def _well(self, state: SensorState, column: int) -> Change:
        left = {key: reason for key, reason in (state.faulty or {}).items() if key != column}
        state.faulty = left or None
        return Change(column, None)


class _Reference:
    """What is usual for one sensor, in the terms of the evidence."""

    __slots__ = ("_edges", "_ends", "_highest", "_odds", "evidence", "known", "missing_share", "wait")

    def __init__(self, feature: Feature, usual: Usual | None) -> None:
        self.known = usual is not None
        self._edges: list[float] = []
        self._odds = [(0.0, 0.0)]
        self.evidence, self.wait, self.missing_share = EVIDENCE, MIN_SECONDS, LEAST_SHARE
        self._ends = frozenset(end for end in (feature.minimum, feature.maximum) if end is not None)
        self._highest = math.inf
        if usual is None:
            return
        self._edges = usual.edges
        self._odds = [_odds(share, FAULTY_SHARE) for share in usual.shares]
        self.evidence = max(EVIDENCE, MARGIN * usual.evidence)
        longest = MARGIN * usual.longest_run_seconds
        self.wait = max(MIN_SECONDS, longest if usual.repeat_share >= SLOW_SHARE else min(longest, MAX_WAIT_SECONDS))
        self.missing_share = usual.missing_share
        self._highest = usual.highest

    def odds(self, value: float) -> tuple[float, float]:
        """What a recurrence of a value adds to the evidence, and what another value takes away."""
        return self._odds[bisect_right(self._edges, value)]

    def reason(self, value: float) -> str:
        """What is wrong with a sensor that repeats a value."""
        if value == 0.0:
            return STUCK  # a dead sensor, and also the lower end of many
        at_an_end = value > self._highest or value in self._ends
        # A register's end over a power of ten is not exact as a float.
        return SATURATED if at_an_end or any(math.isclose(value, end) for end in REGISTER_ENDS) else STUCK


def _odds(usual: float, faulty: float) -> tuple[float, float]:
    """Gain and loss of the evidence; no gain where the value is too usual to say anything."""
    p = max(usual, LEAST_SHARE)
    if p >= MOST_RECURRING:
        return 0.0, 0.0
    # At least this much beyond what is usual.
    q = max(faulty, p + 0.25 * (1.0 - p))
    return math.log(q / p), math.log((1.0 - p) / (1.0 - q))
