"""The label that people give in the second story: late, sometimes never, sometimes for nothing.

In the first one `wCylinderStatus` is what an ideal maintenance engineer would say, at once. It must never change the truth, only what the
line reports of it.
"""

import math
from collections.abc import Iterator
from random import Random

from sensor_simulator.faults import Episode
from sensor_simulator.plan import DAY_S, HOUR_S, Plan

_LATE_MEDIAN_HOURS = 1.5
_RESET_MEDIAN_HOURS = 0.4
_FORGOTTEN = 0.06
"""Share of the episodes that nobody ever labels."""
_NEEDLESS_DAYS = 45.0
"""Days between two labels for nothing on one machine."""


def labelled(random: Random, episodes: Iterator[Episode]) -> Iterator[tuple[Episode, tuple[float, float] | None]]:
    """Say for each episode from when to when people label the machine, in story seconds; None for never.

    Args:
        random: The dice for this machine.
        episodes: The machine's, from the beginning of the story.
    """
    free = 0.0
    for episode in episodes:
        late = HOUR_S * random.lognormvariate(math.log(_LATE_MEDIAN_HOURS), 0.8)
        reset = HOUR_S * random.lognormvariate(math.log(_RESET_MEDIAN_HOURS), 0.6)
        forgotten = random.random() < _FORGOTTEN
        called = episode.called_s
        begin = math.inf if called is None else max(free, called + late)
        if forgotten or begin >= episode.repair_s:
            yield episode, None
            continue
        free = episode.repair_s + reset
        yield episode, (begin, free)


class HumanLabels:
    """What people report, by story time."""

    def __init__(self, deserved: Random, needless: Random, episodes: Iterator[Episode]) -> None:
        """Begin with the story.

        Args:
            deserved: The dice for labels in episodes.
            needless: The dice for labels for nothing.
            episodes: The machine's, from the beginning of the story.
        """
        self.plans = (Plan(_stretches(deserved, episodes)), Plan(_needless(needless)))

    def at(self, time_s: float) -> bool:
        """Say whether the machine is labelled abnormal; times must not go back."""
        labels = [plan.at(time_s) for plan in self.plans]
        return any(labels)


def _stretches(random: Random, episodes: Iterator[Episode]) -> Iterator[tuple[bool, float]]:
    now = 0.0
    for _, stretch in labelled(random, episodes):
        if stretch is not None:
            begin, end = stretch
            yield False, begin - now
            yield True, end - begin
            now = end
    yield False, math.inf


def _needless(random: Random) -> Iterator[tuple[bool, float]]:
    while True:
        yield False, random.expovariate(1.0 / (_NEEDLESS_DAYS * DAY_S))
        yield True, HOUR_S * random.uniform(0.3, 3.0)
