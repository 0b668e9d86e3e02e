"""The debounced state of each machine.

One odd reading is not a fault: a machine changes its state only after several readings in a row say so. It never
decides about a single reading; that is the threshold's.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

NORMAL = "normal"
ABNORMAL = "abnormal"

MAX_MACHINES = 10_000
"""Machines that are remembered; beyond it the one that was silent the longest is forgotten, so that made-up names cannot
fill a gateway's memory."""


@dataclass(slots=True)
class _Machine:
    state: str = NORMAL
    against: int = 0


class MachineStates:
    """Debounced states by equipment id.

    Args:
        debounce: Readings in a row, at least 1, that it takes to change a state.
        capacity: Machines remembered.
    """

    def __init__(self, debounce: int = 1, capacity: int = MAX_MACHINES) -> None:
        self.debounce = debounce
        self._capacity = capacity
        self._machines: OrderedDict[str, _Machine] = OrderedDict()

    def update(self, equipment_id: str, *, abnormal: bool) -> tuple[str, bool]:
        """Take one verdict into account.

        Args:
            equipment_id: The machine.
            abnormal: The reading's own verdict.

        Returns:
            The machine's state, and whether this reading changed it or is the machine's first.
        """
        machine = self._machines.get(equipment_id)
        first = machine is None
        if machine is None:
            machine = self._machines[equipment_id] = _Machine()
            if len(self._machines) > self._capacity:
                self._machines.popitem(last=False)
        else:
            self._machines.move_to_end(equipment_id)
        verdict = ABNORMAL if abnormal else NORMAL
        if verdict == machine.state:
            machine.against = 0
            return machine.state, first
        machine.against += 1
        if machine.against < self.debounce:
            return machine.state, first
        machine.state, machine.against = verdict, 0
        return machine.state, True

    def abnormal(self) -> list[str]:
        """Machines whose state is abnormal."""
        return [name for name, machine in self._machines.items() if machine.state == ABNORMAL]
