"""The bounded queue between the IPC callback and the worker.

Its `put` is all that the callback does: on nucleus lite a subscriber that stops reading stalls IPC for every component
on the device. It never blocks and never grows past its bound; what it gives up is counted.
"""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from threading import Condition

from ml_inference.monitoring.machines import Machine, Machines
from ml_inference.scoring.readings import MAX_MESSAGE_BYTES, Oversized
from ml_inference.serving.counters import Counters

SEARCHED_MESSAGES = 1_000
"""That are looked at for others to take."""
CROWDED_SHARE = 0.25
"""Of the queue's bound; a quarter of 10,000 messages is some seconds' work."""
MAX_SILENT_SECONDS = 60.0
"""Most time between two readings that counts on the way to being known."""
SMALL_BYTES = 4096
"""Of a message that may be taken together with others."""

_EQUIPMENT = re.compile(rb'"equipment_id"\s*:\s*"((?:[^"\\]|\\.){0,256})"')


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message and when it came, in seconds of the monotonic clock."""

    payload: bytes
    moment: float


class Regulars:
    """Machines that have sent valid readings for ten minutes, by the clock of this device: no message can pretend that.

    Filled by one thread and asked by another. Those that an earlier process knew are known from the start.

    Args:
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._machines: Machines[Machine] = Machines(Machine)

    def heard(self, equipment_id: str) -> None:
        """A valid reading of a machine came."""
        machine = self._machines.seen(equipment_id)
        if machine.known:
            return
        step = machine.advance(self._monotonic())
        if step:
            self._machines.count_valid(machine, min(step, MAX_SILENT_SECONDS))

    def names(self) -> list[str]:
        """The machines that are known, the one that was silent the longest first."""
        return [machine.equipment_id for machine in self._machines.known_now()]

    def restore(self, names: Iterable[str]) -> None:
        """Know machines that an earlier process knew.

        Args:
            names: In the order of `names`.
        """
        for name in names:
            self._machines.restore(Machine(name))

    def __contains__(self, machine: bytes) -> bool:
        """Whether a machine is known, by its name as it stands in JSON."""
        if not self._machines.known or (name := _name(machine)) is None:
            return False
        found = self._machines.get(name)
        return found is not None and found.known


def _name(machine: bytes) -> str | None:
    """A machine's name of the bytes that stand for it in JSON; None for what is none."""
    try:
        return str(json.loads(b'"%s"' % machine)) if b"\\" in machine else machine.decode()
    except ValueError:
        return None


def _is_single(payload: bytes) -> bool:
    """Whether a message is small and a single reading, or nothing at all."""
    return len(payload) <= SMALL_BYTES and payload.lstrip()[:1] == b"{" and b'"readings"' not in payload


class Intake:
    """Messages in the order of arrival, bounded in number and in bytes.

    When it is full, the oldest message of the same machine makes room, since its newer reading says more. If that machine
    has none waiting, or is known, the oldest of all machines that are not known does, so that a flood of made-up names
    costs the flooder; and if only known ones wait, a message of an unknown machine is not taken. Of what is too large to be scored only the
    beginning is kept, to refuse it by. The machine is guessed from the raw bytes: parsing is the worker's work.

    Args:
        limit: Most messages that wait.
        counters: Told of every message in and every message given up.
        max_bytes: Most bytes that wait.
        monotonic: Seconds of a clock that never goes back.
        known: Which machines are known; fed by whoever scores.

    Attributes:
        counters: As given.
        known: As given.
    """

    def __init__(
        self,
        limit: int,
        counters: Counters,
        max_bytes: int = 64 * 1024 * 1024,
        monotonic: Callable[[], float] = time.monotonic,
        known: Regulars | None = None,
    ) -> None:
        self.known = known or Regulars(monotonic)
        self._limit = limit
        self._monotonic = monotonic
        self._max_bytes = max_bytes
        self.counters = counters
        self._changed = Condition()
        # Not a dict: one that is emptied from its front looks for its first key among all those that are gone.
        self._messages: OrderedDict[int, tuple[bytes, Arrival]] = OrderedDict()
        self._by_machine: dict[bytes, deque[int]] = {}
        self._strangers: OrderedDict[int, None] = OrderedDict()
        self._next = 0
        self._bytes = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, payload: bytes) -> None:
        """Queue a message, giving up an older one if there is no room. Does not block."""
        found = _EQUIPMENT.search(payload, 0, 4096)
        machine = found[1] if found else b""
        if len(payload) > MAX_MESSAGE_BYTES:
            payload = Oversized.of(payload)
        stranger = machine not in self.known
        with self._changed:
            if self._closed:
                return
            self.counters.arrived()
            while self._messages and (
                len(self._messages) >= self._limit or self._bytes + len(payload) > self._max_bytes
            ):
                if not self._give_up(machine, stranger=stranger):
                    return
            self._messages[self._next] = (machine, Arrival(payload, self._monotonic()))
            self._by_machine.setdefault(machine, deque()).append(self._next)
            if stranger:
                self._strangers[self._next] = None
            self._next += 1
            self._bytes += len(payload)
            self._changed.notify()

    def get(self, timeout: float) -> Arrival | None:
        """Take the oldest message.

        Args:
            timeout: Longest wait in seconds.

        Returns:
            The message, or None if none came in time or the intake is closed and empty.
        """
        return next(iter(self.take(timeout, 1)), None)

    def take(self, timeout: float, most: int) -> list[Arrival]:
        """Take the oldest message, and small ones that wait behind it.

        Args:
            timeout: Longest wait in seconds for the first.
            most: Most messages; a quarter of the bound, too, since those taken no longer make room for newer ones.

        Returns:
            Messages in the order of arrival; none if none came in time or the intake is closed and empty.
        """
        with self._changed:
            if not self._messages and not self._closed:
                self._changed.wait(timeout)
            if not self._messages:
                return []
            taken = [self._take(next(iter(self._messages)))]
            crowded = self.crowded
            most = min(most, self._limit // 4)
            # No small message waits for a large one to be scored, and all of them are taken in the same plight.
            while self._messages and len(taken) < most and len(taken[-1].payload) <= SMALL_BYTES:
                number, (_, oldest) = next(iter(self._messages.items()))
                if len(oldest.payload) > SMALL_BYTES or self._crowded_without(oldest) != crowded:
                    break
                taken.append(self._take(number))
            return taken

    def take_beside(self, machines: Collection[str], most: int) -> list[Arrival]:
        """Take small messages of other machines, oldest first, while a large one is being scored.

        No machine's messages change places: behind the first message that may hold anything, such as a batch, none is taken.

        Args:
            machines: Whose readings the large one holds.
            most: Most messages.
        """
        with self._changed:
            numbers: list[int] = []
            for number, (machine, arrival) in islice(self._messages.items(), SEARCHED_MESSAGES):
                name = _name(machine)
                if len(numbers) == most or name is None or not _is_single(arrival.payload):
                    break
                if name not in machines:
                    numbers.append(number)
            return [self._take(number) for number in numbers]

    @property
    def crowded(self) -> bool:
        """Whether so much waits that what can be done without should not be done: explanations go before readings do."""
        return self._is_crowded(len(self._messages), self._bytes)

    def _crowded_without(self, oldest: Arrival) -> bool:
        return self._is_crowded(len(self._messages) - 1, self._bytes - len(oldest.payload))

    def _is_crowded(self, messages: int, size: int) -> bool:
        return messages > CROWDED_SHARE * self._limit or size > CROWDED_SHARE * self._max_bytes

    def close(self) -> None:
        """Take no more; what is queued can still be got."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drop_all(self) -> int:
        """Drop whatever is queued, as the time to stop is over; returns how many messages that were."""
        with self._changed:
            dropped = len(self._messages)
            self._messages.clear()
            self._by_machine.clear()
            self._strangers.clear()
            self._bytes = 0
            self.counters.dropped(dropped)
            return dropped

    def resize(self, limit: int) -> None:
        """Change the bound; a smaller one takes effect at the next `put`."""
        with self._changed:
            self._limit = limit

    def _give_up(self, machine: bytes, *, stranger: bool) -> bool:
        """Drop a message; False if that is the one which comes."""
        self.counters.dropped()
        own = self._by_machine.get(machine)
        if self._strangers and (not stranger or not own):
            self._take(next(iter(self._strangers)))
        elif own:
            self._take(own[0])
        elif stranger:
            return False
        else:
            self._take(next(iter(self._messages)))
        return True

    def _take(self, number: int) -> Arrival:
        machine, arrival = self._messages.pop(number)
        self._strangers.pop(number, None)
        numbers = self._by_machine[machine]
        # Both structures are in order of arrival, so the one taken is its machine's oldest.
        numbers.popleft()
        if not numbers:
            del self._by_machine[machine]
        self._bytes -= len(arrival.payload)
        return arrival
