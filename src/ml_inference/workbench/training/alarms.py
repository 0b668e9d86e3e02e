"""What a threshold means on the floor: false alarms per machine per day, faults noticed and how soon.

Figures by reading hide this: at a reading a second, 1 % of false alarms is 864 a day. It replays held-out readings machine by
machine through the component's own debouncing. It needs times and whole series, so it never works on rows split at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_inference.monitoring.states import NORMAL, MachineStates
from ml_inference.workbench.training.table import FloatArray

DEBOUNCES = (1, 2, 3, 5)
DAY = 86_400.0

_GAP = 10.0
"""A pause of more than so many usual steps ends an episode: nobody knows what was in between."""


@dataclass(frozen=True, slots=True)
class Alarms:
    """A threshold's consequence with one setting of `DebounceReadings`.

    Attributes:
        debounce: Readings in a row that it takes to change a machine's state.
        machines: How many were replayed.
        days: Machine-days on which the label was normal.
        false_alarms: Times a machine's state became abnormal and went back with no abnormal label meanwhile.
        episodes: Stretches of abnormal label.
        noticed: Of those, in how many the state was abnormal at some reading.
        delay: Median from an episode's first abnormal label to the state, in seconds; None where none was noticed.
        step: Median time between two readings of a machine, in seconds.
    """

    debounce: int
    machines: int
    days: float
    false_alarms: int
    episodes: int
    noticed: int
    delay: float | None
    step: float

    @property
    def false_alarms_per_day(self) -> float:
        """A machine and day of normal operation."""
        return self.false_alarms / self.days if self.days else 0.0


def replay(
    machines: npt.NDArray[Any],
    seconds: FloatArray,
    abnormal: FloatArray,
    verdict: npt.NDArray[np.bool_],
    debounces: Sequence[int] = DEBOUNCES,
) -> list[Alarms]:
    """Replay held-out readings in the order of time.

    Args:
        machines: n names.
        seconds: n moments.
        abnormal: n labels, 1 for abnormal.
        verdict: n verdicts of single readings.
        debounces: Settings to try.

    Returns:
        One a setting.
    """
    order = np.lexsort((seconds, machines))
    names, moments, truth = machines[order], seconds[order], abnormal[order] > 0
    same = names[1:] == names[:-1]
    steps = np.diff(moments)[same]
    step = float(np.median(steps)) if len(steps) else 0.0
    begins = np.append(True, ~(same & (np.diff(moments) <= _GAP * max(step, 1e-9))))
    episodes = _runs(truth, begins)
    results = []
    for debounce in debounces:
        alarm = _states(names, verdict[order], debounce)
        delays = [float(moments[run][alarm[run]][0] - moments[run][0]) for run in episodes if alarm[run].any()]
        results.append(
            Alarms(
                debounce=debounce,
                machines=len(np.unique(names)),
                days=float((~truth).sum()) * step / DAY,
                false_alarms=sum(not truth[run].any() for run in _runs(alarm, begins)),
                episodes=len(episodes),
                noticed=len(delays),
                delay=float(np.median(delays)) if delays else None,
                step=step,
            )
        )
    return results


def _states(names: npt.NDArray[Any], verdict: npt.NDArray[np.bool_], debounce: int) -> npt.NDArray[np.bool_]:
    """Whether the machine's debounced state is abnormal, reading by reading."""
    states = MachineStates(debounce, capacity=len(names))
    pairs = zip(names.tolist(), verdict.tolist(), strict=True)
    return np.array([states.update(name, abnormal=said)[0] != NORMAL for name, said in pairs])


def _runs(chosen: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]) -> list[slice]:
    """Stretches of neighbouring chosen rows of one machine without a gap."""
    starts = np.flatnonzero(chosen & (begins | ~np.append(False, chosen[:-1])))
    ends = np.flatnonzero(chosen & (np.append(begins[1:], True) | ~np.append(chosen[1:], False))) + 1
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]
