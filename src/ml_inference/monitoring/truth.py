"""What the line itself says of its machines, set against what the model said: episodes noticed, and false alarms.

Lines that send a label with their readings (`LabelKey`) let the figures that a training promised be checked in operation. An
episode is the time over which a machine's label is set; it is noticed if an alarm was open at some time of it. An alarm is
false if no label was set while it was open, nor within the model's horizon after it opened.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ml_inference.model.over_time import MeasuredAlarms

WEEK = 7 * 86_400.0
MAX_MACHINES = 2_000
MAX_GAP_SECONDS = 3_600.0
"""Longest time between two readings that counts as observed."""
WORST = 10
GRACE_SECONDS = 3_600.0
"""For which a label may come after the alarm, of a model without a horizon."""
MIN_EPISODES = 10
MIN_WEEKS = 2.0
"""From less than this nothing is said about quality."""
FACTOR = 3.0
"""So many times the promised false alarms are a problem, where at least `MIN_FALSE` were seen."""
MIN_FALSE = 5
SHORTFALL = 0.2
"""So much less of the episodes noticed than promised is a problem."""


@dataclass(slots=True)
class Tally:
    """One machine's figures.

    Attributes:
        episodes: Of the label, ended or not.
        noticed: Of these.
        false_alarms: Alarms without a label.
        seconds: Observed time.
        last: Time of the latest reading; NaN before the first.
        labelled: Whether the label was set there.
        seen: Whether the present episode was noticed.
        opened: When the present alarm opened; NaN while none is open.
        right: Whether a label was set during the present alarm.
        doubtful: Until when a label may still come for an alarm that has closed; -inf for none.
    """

    episodes: int = 0
    noticed: int = 0
    false_alarms: int = 0
    seconds: float = 0.0
    last: float = math.nan
    labelled: bool = False
    seen: bool = False
    opened: float = math.nan
    right: bool = False
    doubtful: float = -math.inf

    def as_message(self) -> dict[str, Any]:
        """As it stands in a message."""
        return {
            "episodes": self.episodes,
            "noticed": self.noticed,
            "false_alarms": self.false_alarms,
            "machine_weeks": round(self.seconds / WEEK, 4),
        }


class Truth:
    """Tallies by machine, in bounded memory: the machine that was silent the longest is forgotten first."""

    def __init__(self) -> None:
        self._machines: OrderedDict[str, Tally] = OrderedDict()
        self._total = Tally()

    def __len__(self) -> int:
        return len(self._machines)

    def add(self, equipment_id: str, seconds: float, *, label: bool, alarmed: bool, horizon: float | None) -> None:
        """Take a reading's label into account; times of a machine that do not go on are left out.

        Args:
            equipment_id: The machine.
            seconds: Time of the reading, in epoch seconds.
            label: Whether the line calls the machine abnormal.
            alarmed: Whether an alarm is open.
            horizon: The model's, in seconds.
        """
        tally = self._machines.get(equipment_id)
        if tally is None:
            tally = self._machines[equipment_id] = Tally()
            if len(self._machines) > MAX_MACHINES:
                self._machines.popitem(last=False)
        self._machines.move_to_end(equipment_id)
        step = seconds - tally.last
        if step <= 0.0:
            return
        tally.last = seconds
        observed = min(step, MAX_GAP_SECONDS) if step > 0.0 else 0.0  # NaN at the first reading
        tally.seconds += observed
        self._total.seconds += observed
        if label and not tally.labelled:
            tally.episodes += 1
            self._total.episodes += 1
            tally.seen = False
        tally.labelled = label
        if label:
            tally.right, tally.doubtful = True, -math.inf
            if alarmed and not tally.seen:
                tally.seen = True
                tally.noticed += 1
                self._total.noticed += 1
        self._alarm(tally, seconds, label=label, alarmed=alarmed, grace=horizon or GRACE_SECONDS)

    def as_message(self) -> dict[str, Any]:
        """Totals and the worst machines."""
        worst = dict(list(self.machines().items())[:WORST])
        return self._total.as_message() | {"worst": worst}

    def machines(self) -> dict[str, dict[str, Any]]:
        """Figures by machine, the ones with the most false alarms and missed episodes first."""

        def bad(pair: tuple[str, Tally]) -> int:
            return -(pair[1].false_alarms + pair[1].episodes - pair[1].noticed)

        return {name: tally.as_message() for name, tally in sorted(self._machines.items(), key=bad)}

    def problem(self, promised: MeasuredAlarms) -> str | None:
        """What is worse than the model's manifest promises; None if nothing is, or too little was seen."""
        total = self._total
        weeks = total.seconds / WEEK
        rate = promised.false_alarms_per_machine_week
        if rate is not None and weeks >= MIN_WEEKS and total.false_alarms >= max(MIN_FALSE, FACTOR * rate * weeks):
            found = total.false_alarms / weeks
            return f"{found:.2f} false alarms a machine-week by the line's own label, {rate:.2f} are promised"
        share = promised.noticed
        if (
            share is not None
            and total.episodes >= MIN_EPISODES
            and total.noticed < (share - SHORTFALL) * total.episodes
        ):
            return f"{total.noticed} of {total.episodes} episodes were noticed, {share:.0%} are promised"
        return None

    def _alarm(self, tally: Tally, seconds: float, *, label: bool, alarmed: bool, grace: float) -> None:
        if alarmed and math.isnan(tally.opened):
            tally.opened, tally.right = seconds, label
        elif not alarmed and not math.isnan(tally.opened):
            if not tally.right:
                tally.doubtful = tally.opened + grace
            tally.opened = math.nan
        if -math.inf < tally.doubtful < seconds:
            tally.doubtful = -math.inf
            tally.false_alarms += 1
            self._total.false_alarms += 1
