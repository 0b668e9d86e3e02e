"""The alarm of a model: levels chosen on validation rows, judged once on held-out ones.

The three parts are of different machines, or of different times: training rows made the boosters, validation rows were scored
by boosters that did not see them and choose, held-out rows are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_inference.model.over_time import Alarm, MeasuredAlarms
from ml_inference.workbench.training.data import Data
from ml_inference.workbench.training.episodes import EQUIPMENT, Episode, Series, series
from ml_inference.workbench.training.fit import Fit
from ml_inference.workbench.training.levels import WEEK, Levels, Outcome, choose, log_odds, outcome
from ml_inference.workbench.training.operation import Operation
from ml_inference.workbench.training.split import Rows
from ml_inference.workbench.training.target import Task

MIN_EPISODES = 3
"""Of fewer validation episodes nothing can be learnt about levels."""
OTHER_ALLOWANCES = (0.05, 0.15, 0.5, 1.5, 5.0)
"""False alarms a machine-week for which the report shows the lead time."""
FEW_FALSE_ALARMS = 3.0
"""Validation that should show fewer than so many at the allowed rate cannot tell it from none."""


@dataclass(frozen=True, slots=True)
class Judging:
    """An alarm with what it comes to.

    Attributes:
        allowed: False alarms that were allowed, a machine-week.
        validated: On validation rows, which chose the levels.
        smoothings: There, the best levels of each smoothing.
        measured: On held-out rows; None until they are scored.
        others: On held-out rows, levels that validation chose for other allowances.
        table: Held-out rows by machine and time.
        odds: Their log-odds, in its order.
        onsets_known: Whether the episodes' true onsets are known.
    """

    allowed: float
    validated: Outcome
    smoothings: Sequence[Outcome]
    other_levels: Sequence[tuple[float, Levels]]
    onsets_known: bool
    measured: Outcome | None = None
    others: Sequence[tuple[float, Outcome]] = ()
    table: Series | None = None
    odds: npt.NDArray[np.float64] | None = None

    @property
    def levels(self) -> Levels:
        """The alarm's smoothing and levels."""
        return self.validated.levels

    def held_out(self, operation: Operation, data: Data, rows: Rows, scores: npt.NDArray[np.float32]) -> Judging:
        """The same with the figures of held-out rows.

        Args:
            operation: What time says of the table.
            data: The table.
            rows: Held-out rows.
            scores: Theirs.
        """
        table, odds = _aligned(data, rows, scores)
        return replace(
            self,
            measured=outcome(table, odds, operation.episodes, self.levels),
            others=[
                (allowed, outcome(table, odds, operation.episodes, levels)) for allowed, levels in self.other_levels
            ],
            table=table,
            odds=odds,
        )

    def alarm(self) -> Alarm:
        """The section of the manifest."""
        measured = self.measured or self.validated
        values, intervals = measured.figures(), measured.intervals()

        def figure(name: str) -> float | None:
            return round(values[name], 4) if np.isfinite(values[name]) else None

        def interval(name: str) -> list[float] | None:
            low, high = intervals[name]
            return [round(low, 4), round(high, 4)] if np.isfinite(values[name]) and np.isfinite(low) else None

        return Alarm(
            smoothing_seconds=self.levels.smoothing_seconds,
            open_score=self.levels.open_score,
            close_score=self.levels.close_score,
            measured=MeasuredAlarms(
                interval_seconds=measured.step or None,
                episodes=len(measured.noticed),
                machines=len(measured.machines),
                machine_weeks=round(measured.weeks, 3),
                false_alarms_per_machine_week=figure("false_alarms_per_week"),
                false_alarms_per_machine_week_interval=interval("false_alarms_per_week"),
                noticed=figure("noticed"),
                noticed_interval=interval("noticed"),
                before_label=figure("before_label"),
                before_label_interval=interval("before_label"),
                median_lead_seconds=figure("lead_to_full"),
                median_lead_seconds_interval=interval("lead_to_full"),
                median_lead_to_label_seconds=figure("lead_to_label"),
                median_lead_to_label_seconds_interval=interval("lead_to_label"),
                alarms_per_episode=figure("alarms_per_episode"),
            ),
        )


def judge(
    operation: Operation, data: Data, fitted: Fit, *, allowed: float, say: Callable[[str], None]
) -> Judging | None:
    """Choose smoothing and levels on validation rows.

    Args:
        operation: What time says of the table.
        data: The table.
        fitted: Has the validation rows' scores.
        allowed: False alarms, a machine-week.
        say: Told why there are no levels, where there are none.
    """
    if operation.table is None or operation.target.task is not Task.BINARY:
        return None
    table, odds = _aligned(data, fitted.validated, fitted.scores)
    episodes = operation.episodes
    count = _count(table, episodes)
    if count < MIN_EPISODES:
        say(f"{count} episodes validate: too few to choose alarm levels by, so DebounceReadings decides on a device")
        return None
    levels, smoothings = choose(table, odds, episodes, false_alarms=allowed)
    same = [levels.smoothing_seconds]
    others = [
        (other, choose(table, odds, episodes, false_alarms=other, smoothings=same)[0]) for other in OTHER_ALLOWANCES
    ]
    return Judging(
        allowed=allowed,
        validated=outcome(table, odds, episodes, levels),
        smoothings=smoothings,
        other_levels=others,
        onsets_known=operation.onsets_known,
    )


def expected_false_alarms(judging: Judging) -> float:
    """How many false alarms validation would show at exactly the allowed rate."""
    return judging.allowed * float(judging.validated.seconds.sum()) / WEEK


def _count(table: Series, episodes: Sequence[Episode]) -> int:
    last = {name: float(table.seconds[part.stop - 1]) for name, part in table.parts()}
    first = {name: float(table.seconds[part.start]) for name, part in table.parts()}
    return sum(
        episode.kind == EQUIPMENT
        and episode.machine in first
        and episode.label is not None
        and first[episode.machine] <= episode.label <= last[episode.machine]
        for episode in episodes
    )


def _aligned(data: Data, rows: Rows, scores: npt.NDArray[np.float32]) -> tuple[Series, npt.NDArray[np.float64]]:
    """Rows by machine and time, with their log-odds; the rows ascend, the scores are theirs."""
    assert data.machines is not None  # noqa: S101 - `operate` made a series of them
    assert data.seconds is not None  # noqa: S101
    table = series(data.machines, data.seconds, rows, names=data.machine_names)
    return table, log_odds(scores[np.searchsorted(rows, table.rows)])
