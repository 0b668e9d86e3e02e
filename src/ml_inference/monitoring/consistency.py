"""A sensor that suddenly disagrees with the others of its machine: another range, an offset, a transformer of another ratio.

A fault of a machine grows over hours and moves several sensors; a sensor that breaks jumps between two readings and moves alone.
So what the last minutes changed over the last half hour is set against how such changes go together in training (their
precision matrix): the sensor that changed the most, given what all the others did, is the suspect, as long as the others agree
among themselves. It judges sensors, never the machine.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from operator import mul
from typing import Any

import numpy as np

from ml_inference.model.manifest import Feature
from ml_inference.model.over_time import Consistency

SAMPLE_SECONDS = 20.0
"""Time between two samples of a machine, or every reading of a fast line would cost its share."""
MAX_SHARE = 0.5
"""Most that one sample weighs."""
REACH = 10.0
"""Usual changes from its slow mean that a reading counts at most: one that is an outlier is not to be felt for an hour."""
MIN_SAMPLES = 4
"""A suspicion of so few samples is none."""
WELL_SHARE = 0.5
"""A sensor is well again when it is off by less than this share of its jump."""
SPIKE_SHARE = 0.5
"""Of the mean's change, which the reading itself has to show."""
NEW_NORMAL_SECONDS = 3 * 86_400.0
"""After so much time what a sensor reads is its new normal: it was exchanged, or calibrated."""
REST_FACTOR = 25.0
"""The other sensors may have changed so much more since the jump, which can be days ago."""


class Course:
    """How one machine's sensors went lately.

    Attributes:
        sampled: Time of the latest sample, in epoch seconds; NaN before the first.
        fast: Means over minutes; None before there are any.
        slow: Means over half an hour.
        seconds: Time over which these were taken.
        settled: Time for which the machine has been running.
        suspect: Position of the sensor that disagrees; -1 for none.
        sign: Of its disagreement.
        since: When it began to.
        samples: For how many samples it has.
        before: The slow means when it began to.
        broken: The sensor that is known to disagree.
    """

    __slots__ = (
        "before",
        "broken",
        "fast",
        "sampled",
        "samples",
        "seconds",
        "settled",
        "sign",
        "since",
        "slow",
        "suspect",
    )

    def __init__(self) -> None:
        self.sampled = math.nan
        self.fast: array[float] | None = None
        self.slow: array[float] | None = None
        self.seconds = self.settled = 0.0
        self.suspect, self.sign, self.since, self.samples = -1, 0.0, 0.0, 0
        self.before: array[float] | None = None
        self.broken: Broken | None = None

    def begin_anew(self) -> None:
        """Forget what was measured; what is known to be broken stays so."""
        self.fast = self.slow = self.before = None
        self.suspect, self.seconds = -1, 0.0


class Broken:
    """A sensor that disagrees.

    Attributes:
        place: Position of the sensor.
        before: All means before it did.
        jump: How far it went, given what the others did, in its unit.
        opened: When it was found out.
        well_since: Since when it has agreed again; NaN while it does not.
    """

    __slots__ = ("before", "jump", "opened", "place", "well_since")

    def __init__(self, place: int, before: Sequence[float], jump: float, opened: float) -> None:
        self.place = place
        self.before = array("d", before)
        self.jump = jump
        self.opened = opened
        self.well_since = math.nan

    def as_state(self) -> list[Any]:
        """What a restart must not lose."""
        return [self.place, [float(f"{value:.6g}") for value in self.before], self.jump, self.opened]


class ConsistencyWatch:
    """Compares the sensors of machines with one another, by one model's reference.

    Args:
        reference: The manifest's; None: nothing is compared.
        features: The model's.
    """

    def __init__(self, reference: Consistency | None, features: Sequence[Feature]) -> None:
        self.active = reference is not None
        if reference is None:
            return
        names = [feature.name for feature in features]
        self.columns = [names.index(name) for name in reference.features]
        means = [features[column].means for column in self.columns]
        self._usual = [held[-1].mean if held else None for held in means]
        self._precision = [list(row) for row in reference.precision]
        self._own = [row[place] for place, row in enumerate(reference.precision)]
        self._limits = list(reference.limits)
        self._reach = (REACH * np.sqrt(np.diag(np.linalg.inv(reference.precision)))).tolist()
        self._rest = reference.rest
        self._fast, self._slow = reference.fast_seconds, reference.slow_seconds
        self._hold, self._settle = reference.hold_seconds, reference.settle_seconds

    def add(
        self,
        course: Course,
        seconds: float,
        values: Sequence[float],
        repeats: Sequence[float],
        *,
        off: bool = False,
        well: bool = True,
    ) -> int | None:
        """Take a reading into account.

        Args:
            course: The machine's.
            seconds: Its time, in epoch seconds.
            values: By column; NaN for what is missing or no measurement.
            repeats: By column, the evidence that its value merely recurs.
            off: Whether the machine stands still.
            well: Whether the machine itself is. While it is at fault no sensor is suspected.

        Returns:
            The column of a sensor that is found to disagree now, or to be well again (then `broken` is None); else None.
        """
        if seconds - course.sampled < SAMPLE_SECONDS or not self.advance(course, seconds, values, off=off):
            return None
        held = self._disagrees(course, seconds, values)
        broken = course.broken
        if broken is not None:
            # As far back as it went, or back to what the other sensors say.
            back = held and course.suspect == broken.place and course.sign * broken.jump < 0.0
            if not back and not self._recovered(course, broken, seconds):
                return None
            course.broken = None
            course.begin_anew()
            return self.columns[broken.place]
        if not well or repeats[self.columns[course.suspect]] > 0.0:
            # A value that recurs makes the sensor stuck, which says more.
            held = False
        if not well:
            course.suspect = -1
        elif held and self._returned(course):
            course.begin_anew()
        elif held:
            return self._found(course, seconds)
        return None

    def _found(self, course: Course, seconds: float) -> int:
        """Name the suspect."""
        assert course.fast is not None  # noqa: S101 - it advanced
        assert course.before is not None  # noqa: S101 - set with the suspect
        jump = self._off_by([new - old for new, old in zip(course.fast, course.before, strict=True)], course.suspect)
        course.broken = Broken(course.suspect, course.before, jump, seconds)
        course.suspect = -1
        return self.columns[course.broken.place]

    def advance(self, course: Course, seconds: float, values: Sequence[float], *, off: bool = False) -> bool:
        """Take a sample into the means.

        Returns:
            Whether they say something: the machine has been running for long enough, and nothing is missing.
        """
        step = seconds - course.sampled
        course.sampled = seconds
        if off:
            course.begin_anew()
            course.settled = 0.0
            return False
        row = [values[column] for column in self.columns]
        fast, slow = course.fast, course.slow
        if math.isnan(sum(row)):
            course.begin_anew()
            return False
        if fast is None or slow is None or not step <= self._fast:
            if not step <= self._slow:
                course.settled = 0.0
            course.begin_anew()
            course.fast, course.slow = array("d", row), array("d", row)
            return False
        course.seconds += step
        course.settled += step
        fast_share = min(-math.expm1(-step / self._fast), MAX_SHARE)
        # The mean of all at first, then one that forgets.
        slow_share = max(-math.expm1(-step / self._slow), step / (course.seconds + step))
        for place, value in enumerate(row):
            reach = self._reach[place]
            near = min(max(value, slow[place] - reach), slow[place] + reach)
            fast[place] += fast_share * (near - fast[place])
            slow[place] += slow_share * (near - slow[place])
        return course.seconds >= self._slow and course.settled >= self._settle

    def restored(self, state: Sequence[Any]) -> Course:
        """A machine with a sensor that was known to be broken before a restart; see `Broken.as_state`."""
        course = Course()
        place, before, jump, opened = state
        course.broken = Broken(int(place), before, float(jump), float(opened))
        return course

    def fits(self, broken: Broken) -> bool:
        """Whether this reference can tell when the sensor is well again."""
        return self.active and len(broken.before) == len(self.columns)

    def _disagrees(self, course: Course, seconds: float, values: Sequence[float]) -> bool:
        """Whether one sensor has disagreed with the others for long enough; which one is the course's suspect."""
        fast, slow = course.fast, course.slow
        assert fast is not None  # noqa: S101 - it advanced
        assert slow is not None  # noqa: S101
        change = [new - old for new, old in zip(fast, slow, strict=True)]
        suspect, score, rest = self._most(change)
        if (
            abs(score) < self._limits[suspect]
            or rest > min(self._rest, score * score)
            # A spike is over while the mean still shows it.
            or (values[self.columns[suspect]] - slow[suspect]) / change[suspect] < SPIKE_SHARE
        ):
            course.suspect = -1
            return False
        if suspect != course.suspect or score * course.sign < 0.0:
            course.suspect, course.sign, course.since, course.samples = suspect, score, seconds, 0
            course.before = array("d", slow)
        course.samples += 1
        return course.samples >= MIN_SAMPLES and seconds - course.since >= self._hold

    def _most(self, change: Sequence[float]) -> tuple[int, float, float]:
        """The sensor that changed the most given the others, by how much in spreads, and how unusual the others' change is."""
        scaled = [sum(map(mul, row, change)) for row in self._precision]
        scores = [value / math.sqrt(own) for value, own in zip(scaled, self._own, strict=True)]
        suspect = max(range(len(scores)), key=lambda place: abs(scores[place]))
        return suspect, scores[suspect], sum(map(mul, scaled, change)) - scores[suspect] ** 2

    def _off_by(self, change: Sequence[float], place: int) -> float:
        """What a sensor changed beyond what the others' change explains, in its unit."""
        explained: float = sum(map(mul, self._precision[place], change))
        return explained / self._own[place]

    def _returned(self, course: Course) -> bool:
        """Whether the suspect went back to what sensors usually read: it was broken before, and nobody had found out."""
        usual, place = self._usual[course.suspect], course.suspect
        if usual is None or course.fast is None or course.before is None:
            return False
        return abs(course.fast[place] - usual) < abs(course.before[place] - usual)

    def _recovered(self, course: Course, broken: Broken, seconds: float) -> bool:
        """Whether a broken sensor reads again what the others say, or has read otherwise for so long that it is usual."""
        assert course.fast is not None  # noqa: S101 - it advanced
        change = [new - old for new, old in zip(course.fast, broken.before, strict=True)]
        scaled = [sum(map(mul, row, change)) for row in self._precision]
        off_by = self._off_by(change, broken.place)
        rest = sum(map(mul, scaled, change)) - off_by**2 * self._own[broken.place]
        if abs(off_by) >= WELL_SHARE * abs(broken.jump) or rest > REST_FACTOR * self._rest:
            broken.well_since = math.nan
        elif math.isnan(broken.well_since):
            broken.well_since = seconds
        return seconds - broken.opened >= NEW_NORMAL_SECONDS or seconds - broken.well_since >= self._hold
