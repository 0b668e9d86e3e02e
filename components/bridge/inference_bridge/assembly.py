"""Values become readings: the last value of each feature of each machine, and the moment at which a machine is read.

Pure: the caller gives the time. A reading carries new values, and names those that were only `held`; a value that is older than its
maximum age is left out, not repeated. State is a few hundred bytes a machine. It must never put a missing value into a reading, count a
value twice, or let made-up machines take more than their room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from math import inf
from typing import Any

from inference_bridge.accounts import Examples, ValueCounts
from inference_bridge.extract import Sample
from inference_bridge.mapping import Mapping

FORGET_SECONDS = 600.0
"""A machine that was silent for so long makes room for a new one, where there is none left."""
SWEEP_SECONDS = 0.2
"""Between two looks for machines whose patience is over."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class _Machine:
    """What is known of a machine; features by their position, sets of them as bits."""

    __slots__ = (
        "changed",
        "expected",
        "first_new",
        "heard",
        "name",
        "new",
        "read_at",
        "sources",
        "time",
        "times",
        "values",
    )

    def __init__(self, name: str, features: int) -> None:
        self.name = name
        self.values: list[float | str | None] = [None] * features
        self.times = [-inf] * features
        self.heard = [-inf] * features
        self.sources = [0] * features
        self.new = 0
        self.expected = (1 << features) - 1
        self.first_new = inf
        self.changed = False
        self.read_at = -inf
        self.time = -inf

    @property
    def complete(self) -> bool:
        """Whether each feature that is expected has a new value."""
        return self.new & self.expected == self.expected


@dataclass(frozen=True, slots=True)
class Stale:
    """Something that used to come and does not.

    Attributes:
        machine: Whose.
        feature: Which; "" for all of them.
        seconds: For how long; None if it never came.
    """

    machine: str
    feature: str
    seconds: float | None


class Assembler:
    """Assembles readings. For one thread at a time.

    Args:
        mapping: Its features, and when a machine is read.
        counts: Takes what became of each value.
        examples: Takes the names of what went wrong.
        max_machines: How many machines there may be.
    """

    def __init__(self, mapping: Mapping, counts: ValueCounts, examples: Examples, *, max_machines: int) -> None:
        self._features = tuple(mapping.features)
        self._rule = mapping.assemble
        self._max_age = [feature.max_age_seconds or self._rule.max_age_seconds for feature in mapping.features.values()]
        self._counts = counts
        self._examples = examples
        self._max_machines = max_machines
        self._machines: dict[str, _Machine] = {}
        self._due: dict[str, _Machine] = {}
        # Of `all_new`: those that had a new value of everything, so that no others need be looked at between sweeps.
        self._complete: dict[str, _Machine] = {}
        self._all_new = mapping.assemble.when == "all_new"
        self._exception_sources: dict[int, float] = {}
        self._next_tick: float | None = None
        self._next_sweep = -inf
        self._looked_for_room = -inf

    def __len__(self) -> int:
        return len(self._machines)

    def connected(self, source: int, now: float, *, connected: bool) -> None:
        """A source that reports by exception is connected or not: while it is, what it once said holds.

        Args:
            source: Its number.
            now: Seconds of a clock that never goes back.
            connected: Whether it is.
        """
        self._exception_sources[source] = inf if connected else min(now, self._exception_sources.get(source, now))

    def put(self, source: int, sample: Sample, now: float, wall: float) -> None:  # noqa: C901, PLR0912 - one branch a fate
        """Take a value.

        Args:
            source: Number of the source that it came from.
            sample: The value.
            now: Seconds of a clock that never goes back.
            wall: Seconds since 1970, by the gateway's clock.
        """
        counts = self._counts
        counts.received += 1
        machine = self._machines.get(sample.machine)
        if machine is None:
            machine = self._room(sample.machine, now)
            if machine is None:
                counts.dropped += 1
                self._examples.note("dropped", sample.machine, f"there are {self._max_machines} machines already")
                return
        feature, value, time = sample.feature, sample.value, sample.time
        if time is None:
            time = wall
            if time < machine.time:
                machine.time = -inf  # the gateway's clock was set back
        elif time > wall + self._rule.future_seconds:
            counts.rejected += 1
            ahead = (
                f"its time is {time - wall:.0f} s ahead of the gateway's clock: a time zone, or a clock that is wrong?"
            )
            self._examples.note("rejected", f"{sample.machine}/{self._features[feature]}", ahead)
            return
        elif time <= machine.times[feature]:
            if time < machine.times[feature] and not self._set_back(machine, feature, now, wall):
                counts.late += 1
                self._examples.note("late", f"{sample.machine}/{self._features[feature]}")
                return
            if time == machine.times[feature] and value == machine.values[feature]:
                counts.duplicate += 1
                machine.heard[feature] = now
                return
        machine.times[feature] = time
        machine.heard[feature] = now
        machine.sources[feature] = source
        bit = 1 << feature
        if machine.new & bit:
            machine.new &= ~bit
            counts.superseded += 1
            counts.waiting -= 1
        if value is None:
            self._missing(machine, sample)
            return
        if not machine.new:
            machine.first_new = now
        machine.new |= bit
        machine.expected |= bit
        counts.waiting += 1
        if value != machine.values[feature]:
            machine.values[feature] = value
            machine.changed = True
        self._due[sample.machine] = machine
        if self._all_new and machine.complete:
            self._complete[sample.machine] = machine

    def _set_back(self, machine: _Machine, feature: int, now: float, wall: float) -> bool:
        """Whether an old time means that the source's clock was set back: what was known is of the future, or all is old for long."""
        of_the_future = machine.times[feature] > wall + self._rule.future_seconds
        if of_the_future or now - machine.heard[feature] > self._max_age[feature]:
            machine.time = -inf
            return True
        return False

    def _missing(self, machine: _Machine, sample: Sample) -> None:
        feature = sample.feature
        name = f"{sample.machine}/{self._features[feature]}"
        if sample.rejected:
            self._counts.rejected += 1
            self._examples.note("rejected", name, sample.problem)
        else:
            self._counts.missing += 1
            self._examples.note("missing", name, sample.problem)
        machine.changed = machine.changed or machine.values[feature] is not None
        machine.values[feature] = None

    def death(self, name: str, now: float) -> None:
        """A machine's connection is gone: nothing of what it said holds any longer."""
        machine = self._machines.get(name)
        if machine is not None:
            for feature in range(len(self._features)):
                # What waits goes into the next reading: it was said before.
                if not machine.new >> feature & 1:
                    machine.values[feature] = None
                    machine.heard[feature] = min(machine.heard[feature], now - self._max_age[feature])

    def due(self, now: float, wall: float) -> list[dict[str, Any]]:
        """The readings that are due.

        Args:
            now: Seconds of a clock that never goes back.
            wall: Seconds since 1970.
        """
        when = self._rule.when
        if when == "clock":
            return self._on_clock(now, wall)
        machines = self._all_new_now(now) if when == "all_new" else self._changed_now(now)
        return [self._read(machine, now, wall) for machine in machines]

    def _all_new_now(self, now: float) -> list[_Machine]:
        machines = [machine for machine in self._complete.values() if machine.complete]
        self._complete.clear()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            patience = self._rule.patience_seconds
            machines += [
                machine
                for machine in self._due.values()
                if now - machine.first_new >= patience and not machine.complete
            ]
        return machines

    def _changed_now(self, now: float) -> list[_Machine]:
        settle, heartbeat = self._rule.settle_seconds, self._rule.heartbeat_seconds
        machines = [
            machine
            for machine in self._due.values()
            if now - machine.first_new >= settle and (machine.changed or now - machine.read_at >= heartbeat)
        ]
        if self._exception_sources and now >= self._next_sweep:
            self._next_sweep = now + min(1.0, heartbeat)
            machines += [
                machine
                for machine in self._machines.values()
                if not machine.new
                and now - machine.read_at >= heartbeat
                and machine.read_at > -inf
                and self._holds(machine)
            ]
        return machines

    def _on_clock(self, now: float, wall: float) -> list[dict[str, Any]]:
        every = self._rule.every_seconds
        if self._next_tick is None:
            self._next_tick = now + every - wall % every  # on the full second, as far as the clock is right
        if now < self._next_tick:
            return []
        self._next_tick += every * (1 + (now - self._next_tick) // every)
        machines = dict(self._due)
        if self._exception_sources:
            for name, machine in self._machines.items():
                if name not in machines and self._holds(machine):
                    machines[name] = machine
        return [self._read(machine, now, wall) for machine in machines.values()]

    def _holds(self, machine: _Machine) -> bool:
        """Whether a machine of which nothing is new has a value that its connection still vouches for."""
        return any(
            value is not None and self._exception_sources.get(source, -inf) == inf
            for value, source in zip(machine.values, machine.sources, strict=True)
        )

    def flush(self, now: float, wall: float) -> list[dict[str, Any]]:
        """All machines of which something waits, whether they are due or not: the end is near."""
        return [self._read(machine, now, wall) for machine in list(self._due.values())]

    def _age(self, machine: _Machine, feature: int, now: float) -> float:
        vouched = self._exception_sources.get(machine.sources[feature], -inf)
        return max(0.0, now - max(machine.heard[feature], vouched))

    def _read(self, machine: _Machine, now: float, wall: float) -> dict[str, Any]:
        reading: dict[str, Any] = {"equipment_id": machine.name, "timestamp": ""}
        held: list[str] = []
        newest = -inf
        for feature, value in enumerate(machine.values):
            if value is None:
                continue
            name = self._features[feature]
            if machine.new >> feature & 1:
                newest = max(newest, machine.times[feature])
            elif self._age(machine, feature, now) > self._max_age[feature]:
                continue
            else:
                held.append(name)
            reading[name] = value
        if newest == -inf:
            newest = wall
        # A machine's readings never go back in time, whatever order its values came in.
        machine.time = max(machine.time, newest)
        reading["timestamp"] = iso(machine.time)
        if held:
            reading["held"] = held
        number = machine.new.bit_count()
        self._counts.assembled += number
        self._counts.waiting -= number
        if self._rule.when == "all_new" and machine.new:
            machine.expected = machine.new
        machine.new, machine.first_new, machine.changed, machine.read_at = 0, inf, False, now
        self._due.pop(machine.name, None)
        return reading

    def _room(self, name: str, now: float) -> _Machine | None:
        if len(self._machines) >= self._max_machines:
            if now - self._looked_for_room < FORGET_SECONDS / 60:
                return None
            self._looked_for_room = now
            for old in [each for each in self._machines.values() if now - max(each.heard) > FORGET_SECONDS]:
                if not old.new:
                    del self._machines[old.name]
            if len(self._machines) >= self._max_machines:
                return None
        machine = self._machines[name] = _Machine(name, len(self._features))
        return machine

    def stale(self, now: float) -> Iterator[Stale]:
        """Machines of which nothing comes, and features that do not come of a machine that does; looks at all of them."""
        for machine in self._machines.values():
            ages = [self._age(machine, feature, now) for feature in range(len(self._features))]
            known = [age for age, heard in zip(ages, machine.heard, strict=True) if heard > -inf]
            if not known:
                continue
            if all(age > limit for age, limit in zip(ages, self._max_age, strict=True)):
                yield Stale(machine.name, "", min(known))
                continue
            for feature, age in enumerate(ages):
                if age > self._max_age[feature]:
                    yield Stale(machine.name, self._features[feature], None if age == inf else age)


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    try:
        moment = _EPOCH + timedelta(milliseconds=round(seconds * 1000))
    except OverflowError:
        moment = _EPOCH
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"
