"""Which machines are remembered, and the time of each.

A machine counts as known after ten minutes of valid readings; before that it is a newcomer, and newcomers evict only each
other, so that made-up names cannot push a real machine out of a gateway's memory. They may take what room known machines
leave, or a large line whose machines all begin at once would never become known. Time is always that of the readings: this
module never looks at a clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

MAX_KNOWN = 10_000
MAX_NEWCOMERS = 500
"""Newcomers for which there is always room."""
KNOWN_AFTER_SECONDS = 600.0
MAX_STEP_SECONDS = 900.0
"""Most time that one pair of readings counts for on the way to being known, or two readings years apart would do."""
LATE_IN_A_ROW = 30
"""So many late readings in a row are no stragglers: the machine's clock was set back, and its time begins anew."""


class Machine:
    """What is remembered of one machine by everything in this package; each part keeps its own object here.

    Attributes:
        equipment_id: The machine.
        last: Time of its latest reading, in epoch seconds; NaN before the first.
        late: Late readings in a row.
        valid_seconds: Time over which it sent valid readings, up to where it is known.
        known: Whether it is known.
    """

    __slots__ = ("equipment_id", "known", "last", "late", "valid_seconds")

    def __init__(self, equipment_id: str) -> None:
        self.equipment_id = equipment_id
        self.last = float("nan")
        self.late = 0
        self.valid_seconds = 0.0
        self.known = False

    def advance(self, seconds: float) -> float | None:
        """Let its time go on to that of a reading.

        Args:
            seconds: Time of the reading, in epoch seconds.

        Returns:
            Seconds since the reading before; 0 for the first one; None for a late or doubled one, which is to leave the
            machine's state alone.
        """
        step = seconds - self.last
        if step > 0.0:
            self.late = 0
            self.last = seconds
            return step
        if step == 0.0:
            return None
        if step < 0.0:
            self.late += 1
            if self.late < LATE_IN_A_ROW:
                return None
        self.late = 0
        self.last = seconds
        return 0.0


MachineType = TypeVar("MachineType", bound=Machine)


class Machines(Generic[MachineType]):
    """Machines by equipment id, in bounded memory.

    Args:
        new: Makes a machine.
        known: Most known machines; the one that was silent the longest is forgotten first.
        newcomers: Most machines that are not known yet, beside those that take the room of known ones.
    """

    def __init__(
        self, new: Callable[[str], MachineType], *, known: int = MAX_KNOWN, newcomers: int = MAX_NEWCOMERS
    ) -> None:
        self._new = new
        self._most_known = known
        self._most_newcomers = newcomers
        self._known: OrderedDict[str, MachineType] = OrderedDict()
        self._newcomers: OrderedDict[str, MachineType] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known) + len(self._newcomers)

    def __iter__(self) -> Iterator[MachineType]:
        yield from self._known.values()
        yield from self._newcomers.values()

    @property
    def known(self) -> int:
        """How many are known."""
        return len(self._known)

    def known_now(self) -> list[MachineType]:
        """Those that are known; any thread may ask, since a list is made of them in one step."""
        return list(self._known.values())

    def get(self, equipment_id: str) -> MachineType | None:
        """A machine that is remembered."""
        return self._known.get(equipment_id) or self._newcomers.get(equipment_id)

    def seen(self, equipment_id: str) -> MachineType:
        """The machine of a reading; a new one where it is not remembered."""
        machine = self._known.get(equipment_id)
        if machine is not None:
            self._known.move_to_end(equipment_id)
            return machine
        machine = self._newcomers.get(equipment_id)
        if machine is not None:
            self._newcomers.move_to_end(equipment_id)
            return machine
        machine = self._newcomers[equipment_id] = self._new(equipment_id)
        if len(self._newcomers) > self._most_newcomers and len(self) > self._most_known:
            self._newcomers.popitem(last=False)
        return machine

    def count_valid(self, machine: MachineType, step: float) -> None:
        """Count a valid reading of a newcomer on its way to being known.

        Args:
            machine: The newcomer.
            step: Seconds since its reading before.
        """
        machine.valid_seconds += min(step, MAX_STEP_SECONDS)
        if machine.valid_seconds >= KNOWN_AFTER_SECONDS:
            self.restore(machine)

    def restore(self, machine: MachineType) -> None:
        """Take in a machine that is known."""
        machine.known = True
        self._newcomers.pop(machine.equipment_id, None)
        self._known[machine.equipment_id] = machine
        if len(self._known) > self._most_known:
            self._known.popitem(last=False)
