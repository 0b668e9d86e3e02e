"""Everything that is known of the machines over time, in one place for the pipeline: alarms, sensors, off-time, silence.

A reading passes twice: `observe` before it is scored (which sensors can be believed), `judge` after (what the score means for
the machine's alarm). Time is that of the readings; a reading that brings none has the time of its arrival. It does no I/O,
and a model without the sections that it needs is left alone.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timezone, tzinfo
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_inference.model.manifest import Manifest
from ml_inference.monitoring.alarms import (
    DRIFT,
    EQUIPMENT,
    SENSOR,
    SILENCE,
    UPDATED,
    Alarm,
    AlarmBook,
    Event,
    Reason,
    Rules,
    log_odds,
    probability,
    weight,
)
from ml_inference.monitoring.consistency import ConsistencyWatch, Course
from ml_inference.monitoring.machines import Machine, Machines
from ml_inference.monitoring.normal import Normal
from ml_inference.monitoring.sensors import INCONSISTENT, SensorState, SensorWatch
from ml_inference.monitoring.shift import CLOSE_SHARE, Deviation, Means, ShiftWatch
from ml_inference.monitoring.silence import SWEEP_SECONDS, Habit, silent
from ml_inference.monitoring.standstill import Standstill
from ml_inference.monitoring.states import ABNORMAL, NORMAL

OFF = "off"
FORMAT = 1
"""Of the state that is kept."""
COMPARE_SECONDS = 60.0
"""Time between two comparisons of the whole line with the training data."""
FUTURE_SECONDS = 300.0
"""A reading further ahead of the clock is scored and leaves the state alone."""
REASON_SECONDS = 60.0
"""Time between two explanations of a machine that go into its alarm's reasons."""
NORMAL_READINGS = 200
"""Readings of a normal machine to one whose contributions are taken as its normal ones: explaining costs six predictions."""
NORMAL_INTERVAL_SECONDS = 1_800.0
"""Shortest time between two such explanations, or at a reading a second they would cost a twentieth of the throughput."""
NORMAL_MEMORY = 0.1
"""Weight of one such explanation."""
REASON_MEMORY = 0.2
"""Weight of one explanation before the alarm opens; within the alarm all count alike."""
NEAR = 1.5
"""Log-odds below the opening level from which on reasons are gathered."""
RATE_SECONDS = 1_800.0
"""A machine's rate is compared after so much regular reporting."""
SLOWER, FASTER = 4.0, 300.0
"""Times the interval between readings may differ from the measured one. Readings that come more often say the same (the shipped
model was measured at two minutes and evaluated at a second); of rarer ones an alarm may have too few to open in time."""
REASONS = 3
NONE_FAULTY: Mapping[str, str] = MappingProxyType({})
"""Shared by all readings of machines whose sensors are well."""
BASE_SHARE = 1.0
"""Added to a sensor's share of the contributions before it is weighed by how unusual the sensor is: where several move
together the model may have learnt from any of them."""


class WatchedMachine(Machine):
    """What is remembered of a machine.

    Attributes:
        odds: Smoothed log-odds; NaN before the first reading that counts.
        habit: When it reports.
        sensors: Its sensors; None before its first reading with this model.
        normal: Contributions by feature while it is normal; None before there are any.
        reasons: Mean contributions by feature in and shortly before an alarm; None while it is normal.
        explained: How many explanations are in `reasons`.
        explained_at: Time of the latest explanation; -inf before there is one.
        unexplained: Normal readings since the latest explanation.
        explanation: The latest explanation of an abnormal reading, as it was given.
        own: What is normal for its sensors; None before its first reading with this model.
        course: How its sensors went together lately; None before its first reading with this model.
        means: Its means over time; None before its first reading with this model.
    """

    __slots__ = (
        "course",
        "explained",
        "explained_at",
        "explanation",
        "habit",
        "means",
        "normal",
        "odds",
        "own",
        "reasons",
        "sensors",
        "unexplained",
    )

    def __init__(self, equipment_id: str) -> None:
        super().__init__(equipment_id)
        self.odds = math.nan
        self.habit = Habit()
        self.sensors: SensorState | None = None
        self.normal: array[float] | None = None
        self.reasons: array[float] | None = None
        self.explained = 0
        self.explained_at = -math.inf
        self.unexplained = NORMAL_READINGS // 2
        self.explanation: Any = None
        self.means: Means | None = None
        self.own: Normal | None = None
        self.course: Course | None = None


@dataclass(slots=True)
class Seen:
    """What one reading means before it is scored.

    Attributes:
        machine: Its machine.
        seconds: Its time, in epoch seconds.
        step: Seconds since the machine's reading before; None for one that leaves the state alone.
        values: For the model: faulty sensors that it can do without are missing (NaN).
        off: Whether the machine stands still; None where the manifest has no such condition.
        quiet: Whether the machine is under maintenance.
        suspicious: Whether it holds a value that may be no measurement.
        begins_anew: Whether a sensor was found faulty with it.
        sensors: Faulty sensors by name with what is wrong with them.
        missing: Features that the reading lacks, or whose sensor is faulty.
        in_operation: Whether the machine runs and is not under maintenance.
    """

    machine: WatchedMachine
    seconds: float
    step: float | None
    values: Sequence[float]
    off: bool | None
    quiet: bool
    suspicious: bool
    begins_anew: bool
    sensors: Mapping[str, str]
    missing: tuple[str, ...]
    in_operation: bool

    @property
    def learns(self) -> bool:
        """Whether references may learn from it."""
        return self.step is not None and self.in_operation and not self.suspicious


class Verdict(NamedTuple):
    """What a score means for the machine.

    Attributes:
        smoothed: The smoothed score; None before the first reading that counts.
        state: `normal`, `abnormal` or `off`.
        changed: Whether this reading changed whether an alarm is open, or is the machine's first.
    """

    smoothed: float | None
    state: str
    changed: bool


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """What is configured about alarms; None for the manifest's.

    Attributes:
        smoothing_seconds: Time constant of the smoothed log-odds.
        open_score: Smoothed score from which an alarm opens.
        close_score: Smoothed score below which it closes.
        silence_seconds: Seconds without a reading that are silence; None: learnt; 0: not watched.
        maintenance: Machines under maintenance, with the end in epoch seconds (infinity: until it is taken away).
        shelved: Machines whose alarms are shelved, likewise.
        label_key: Key of the label that the line itself sends; "" for none.
        zone: Of times without an offset.
    """

    smoothing_seconds: float | None = None
    open_score: float | None = None
    close_score: float | None = None
    silence_seconds: float | None = None
    maintenance: Mapping[str, float] = field(default_factory=dict)
    shelved: Mapping[str, float] = field(default_factory=dict)
    label_key: str = ""
    zone: tzinfo = timezone.utc


@dataclass(frozen=True, slots=True)
class Detectors:
    """What a model brings to watch machines with.

    Attributes:
        manifest: The model's.
        names: Its features.
        sensors: Finds stuck, saturated and missing sensors.
        shift: Compares means with the training data's.
        consistency: Finds a sensor that disagrees with the others.
        standstill: Tells a machine that stands still.
        withholdable: Columns that the model can do without.
        sources: For each column of the booster the column of the reading that it is made of.
    """

    manifest: Manifest
    names: tuple[str, ...]
    sensors: SensorWatch
    shift: ShiftWatch
    consistency: ConsistencyWatch
    standstill: Standstill
    withholdable: frozenset[int]
    sources: Sequence[int]

    @classmethod
    def of(cls, manifest: Manifest) -> Detectors:
        """Those of a model."""
        features, names = manifest.features, manifest.feature_names
        return cls(
            manifest,
            names,
            SensorWatch(features),
            ShiftWatch(features),
            ConsistencyWatch(manifest.consistency, features),
            Standstill(manifest),
            frozenset(column for column, feature in enumerate(features) if feature.withholdable),
            [*range(len(names)), *(names.index(one.source) for one in manifest.derived)],
        )


class Watch:
    """Watches machines with one model at a time. Not thread-safe.

    Args:
        manifest: The model's.
        settings: What is configured.
        salt: See `AlarmBook`.

    Attributes:
        alarmed: Whether scores become alarms.
    """

    def __init__(self, manifest: Manifest, settings: AlarmSettings | None = None, salt: str = "") -> None:
        self.book = AlarmBook(salt)
        self.machines: Machines[WatchedMachine] = Machines(WatchedMachine)
        self.maintenance: dict[str, float] = {}
        self.shelved: dict[str, float] = {}
        self._settings = settings or AlarmSettings()
        self._now = -math.inf
        self._swept = -math.inf
        self._compared = -math.inf
        self._events: list[Event] = []
        self._silent: frozenset[str] = frozenset()
        self._shifts: list[tuple[str, Deviation]] = []
        self._detectors = Detectors.of(manifest)
        self._rules: Rules | None = None
        self.alarmed = False
        self.set(self._settings)

    @property
    def now(self) -> float:
        """The line's clock: the latest time of any reading, in epoch seconds, and what has passed since."""
        return self._now

    @property
    def _model(self) -> tuple[str, str]:
        return self._detectors.manifest.name, self._detectors.manifest.version

    @property
    def rules(self) -> Rules | None:
        """The rules in force; None where the model has no alarm section."""
        return self._rules

    def swap(self, manifest: Manifest) -> None:
        """Watch with another model: alarms, states and, where the features are the same, sensors go on."""
        names = manifest.feature_names
        if names != self._detectors.names:
            for machine in self.machines:
                machine.sensors = machine.normal = machine.reasons = machine.own = machine.course = None
            for alarm in self.book:
                if alarm.kind == SENSOR and alarm.sensor not in names:
                    self._events.append(self.book.close(alarm, self._now))
        self._detectors = Detectors.of(manifest)
        self._shifts.clear()
        for machine in self.machines:
            machine.normal = machine.means = None
            self._compare_anew(machine)
        self.set(self._settings)

    def set(self, settings: AlarmSettings) -> None:
        """Watch by other settings."""
        self._settings = settings
        alarm = self._detectors.manifest.alarm
        self._rules, self.alarmed = None, alarm is not None
        if alarm is not None:
            opens = alarm.open_score if settings.open_score is None else settings.open_score
            closes = alarm.close_score if settings.close_score is None else settings.close_score
            self._rules = Rules(
                alarm.smoothing_seconds if settings.smoothing_seconds is None else settings.smoothing_seconds,
                log_odds(opens),
                log_odds(min(opens, closes)),
            )

    def events(self) -> tuple[Event, ...]:
        """What happened to alarms since the last call."""
        if not self._events:
            return ()
        events = tuple(self._events)
        self._events.clear()
        return events

    # A reading, before it is scored.

    def observe(  # noqa: C901 - once for each reading, step by step in the order that matters
        self,
        equipment_id: str,
        seconds: float,
        values: Sequence[float],
        *,
        clock: float,
        held: Sequence[int] = (),
        valid: bool = True,
    ) -> Seen:
        """Take a reading into account, before it is scored.

        Args:
            equipment_id: The machine.
            seconds: Its time, in epoch seconds.
            values: As its sensors gave them, in column order; NaN for what is missing.
            clock: The time now, in epoch seconds.
            held: Columns that a gateway merely repeated.
            valid: Whether it can be scored; a rejected reading still tells something of its sensors.
        """
        machine = self.machines.seen(equipment_id)
        if seconds > clock + FUTURE_SECONDS:
            return self._seen(machine, seconds, None, values)
        if seconds > self._now:
            self._advance(seconds)
        machine.habit.report(self._now)
        if self._silent and equipment_id in self._silent:
            self._heard(equipment_id)
        step = machine.advance(seconds)
        detectors, state, course = self._detectors, machine.sensors, machine.course
        if state is None:
            state = machine.sensors = detectors.sensors.state()
        off = detectors.standstill.off(values, state, course) if detectors.standstill.known else None
        quiet = bool(self.maintenance or self._settings.maintenance) and self._lasts(
            equipment_id, self.maintenance, self._settings.maintenance
        )
        if step is None:
            # In off-time or under maintenance a late reading is no part of the machine's past, either.
            return self._seen(machine, seconds, None, values, off=off, quiet=quiet)
        if valid and not machine.known:
            self._become_known(machine, state, step, seconds)
        suspicious = begins_anew = False
        if detectors.sensors.active and not quiet:
            if (state.busy or state.faulty) and detectors.standstill.uncertain(state):
                # Whether it stands still cannot be known: only what says so is looked at, and whether faulty sensors are well.
                looked_at = detectors.standstill.columns.union(state.faulty or ())
                held = [column for column in range(len(values)) if column not in looked_at]
            changes, suspicious = detectors.sensors.look(state, values, seconds, step=step, off=bool(off), held=held)
            if changes:
                for change in changes:
                    self._sensor_changed(machine, change.column, change.reason, seconds)
                begins_anew = any(change.reason is not None for change in changes)
            if detectors.consistency.active and valid:
                disagrees, found = self._look_at_course(machine, state, seconds, values, off=bool(off))
                suspicious |= disagrees
                begins_anew |= found
        seen = self._seen(machine, seconds, step, values, off=off, quiet=quiet, suspicious=suspicious, anew=begins_anew)
        if machine.known and valid and detectors.shift.active and seen.learns:
            self._compare(machine, seconds, seen.values)
        return seen

    def _look_at_course(
        self, machine: WatchedMachine, state: SensorState, seconds: float, values: Sequence[float], *, off: bool
    ) -> tuple[bool, bool]:
        """Compare a machine's sensors with one another.

        Returns:
            Whether one of them disagrees, so that it may be no measurement, and whether it was found faulty now.
        """
        course = machine.course
        if course is None:
            course = machine.course = Course()
        faulty = state.faulty or {}
        if any(reason != INCONSISTENT for reason in faulty.values()):
            course.begin_anew()  # what is no measurement cannot be compared
            if INCONSISTENT not in faulty.values():
                course.broken = None
            return False, False
        well = self.book.find(EQUIPMENT, machine.equipment_id) is None
        column = self._detectors.consistency.add(course, seconds, values, state.evidence, off=off, well=well)
        if column is None:
            return course.suspect >= 0, False
        reason = INCONSISTENT if course.broken is not None else None
        if reason is None:
            faulty = {key: value for key, value in faulty.items() if key != column}
        else:
            faulty = faulty | {column: reason}
        state.faulty = faulty or None
        self._sensor_changed(machine, column, reason, seconds)
        return False, reason is not None

    def _compare_anew(self, machine: WatchedMachine) -> None:
        """Another model: what disagreed by the old one goes on only if the new one can tell when it is over."""
        course, state = machine.course, machine.sensors
        if course is None:
            return
        course.begin_anew()
        if course.broken is None or self._detectors.consistency.fits(course.broken):
            return
        course.broken = None
        for column, reason in list((state.faulty or {}).items() if state else ()):
            if reason == INCONSISTENT and state is not None:
                left = {key: value for key, value in (state.faulty or {}).items() if key != column}
                state.faulty = left or None
                self._sensor_changed(machine, column, None, self._now)

    def faulty(self, equipment_id: str) -> frozenset[int]:
        """Columns of a machine whose sensors are faulty and which the model can do without."""
        machine = self.machines.get(equipment_id)
        if machine is None or machine.sensors is None or not machine.sensors.faulty:
            return frozenset()
        return self._detectors.withholdable & frozenset(machine.sensors.faulty)

    @property
    def watches_sensors(self) -> bool:
        """Whether rejected readings are of use."""
        return self._detectors.sensors.active

    def _seen(
        self,
        machine: WatchedMachine,
        seconds: float,
        step: float | None,
        values: Sequence[float],
        *,
        off: bool | None = None,
        quiet: bool = False,
        suspicious: bool = False,
        anew: bool = False,
    ) -> Seen:
        state = machine.sensors
        sensors: Mapping[str, str] = NONE_FAULTY
        if state is not None and state.faulty:
            sensors = self._detectors.sensors.reasons(state)
            withheld = self._detectors.withholdable & state.faulty.keys()
            if withheld:
                values = [math.nan if column in withheld else value for column, value in enumerate(values)]
        missing: tuple[str, ...] = ()
        # One sum is cheaper than a look at each value; all of them are finite or NaN.
        total = sum(values)
        if total != total:  # NaN  # noqa: PLR0124
            missing = tuple(
                name
                for name, value in zip(self._detectors.names, values, strict=True)
                if value != value  # noqa: PLR0124
            )
        return Seen(machine, seconds, step, values, off, quiet, suspicious, anew, sensors, missing, not (off or quiet))

    def _become_known(self, machine: WatchedMachine, state: SensorState, step: float, seconds: float) -> None:
        """Count valid time; once that makes the machine known, what has failed before is told."""
        self.machines.count_valid(machine, step)
        if machine.known:
            for column, reason in list((state.faulty or {}).items()):
                self._sensor_changed(machine, column, reason, seconds)

    def _sensor_changed(self, machine: WatchedMachine, column: int, reason: str | None, seconds: float) -> None:
        name = self._detectors.names[column]
        alarm = self.book.find(SENSOR, machine.equipment_id, name)
        if reason is None:
            if alarm is not None:
                self._events.append(self.book.close(alarm, seconds))
        elif alarm is not None:
            if alarm.reason != reason:  # what is stuck now may have been inconsistent before
                alarm.reason = reason
                self._events.append(self.book.event(alarm, UPDATED, seconds))
        elif machine.known and not self._is_shelved(machine.equipment_id):
            _, event = self.book.open(
                SENSOR, machine.equipment_id, seconds, sensor=name, reason=reason, model=self._model
            )
            self._events.append(event)

    # Drift.

    def _compare(self, machine: WatchedMachine, seconds: float, values: Sequence[float]) -> None:
        """Set a machine's means against the training data."""
        if machine.means is None:
            machine.means = self._detectors.shift.state()
        if not self._detectors.shift.add(machine.means, seconds, values):
            return
        for found in self._detectors.shift.of_machine(machine.means):
            name = self._detectors.names[found.column]
            # Where all machines read differently it is no matter of this one.
            if self.book.find(DRIFT, "", name) is None or found.share < 1.0:
                self._drifts(machine.equipment_id, found, seconds)

    def _compare_line(self, now: float) -> None:
        known = [one.means for one in self.machines if one.known and one.means is not None]
        deviations = self._detectors.shift.of_line(known)
        if len(known) > 1:  # the line of one machine is that machine
            for found in deviations:
                self._drifts("", found, now)
        self._shifts = sorted((("", found) for found in deviations), key=lambda pair: -pair[1].share)

    def _drifts(self, equipment_id: str, found: Deviation, seconds: float) -> None:
        name = self._detectors.names[found.column]
        alarm = self.book.find(DRIFT, equipment_id, name)
        if alarm is not None:
            if found.share < CLOSE_SHARE:
                self._events.append(self.book.close(alarm, max(seconds, alarm.opened)))
        elif found.share >= 1.0 and not self._is_shelved(equipment_id):
            where = "above" if found.deviations > 0 else "below"
            reason = (
                f"its mean over {found.window_seconds / 60:.0f} min lies {abs(found.deviations):.1f} standard deviations "
                f"{where} that of the training data; {found.limit:.1f} are unusual"
            )
            self._events.append(
                self.book.open(DRIFT, equipment_id, seconds, sensor=name, reason=reason, model=self._model)[1]
            )

    # A reading, after it was scored.

    def judge(  # noqa: C901 - the one place where an alarm opens, goes on and closes
        self, seen: Seen, score: float, explain: Callable[[], Sequence[float] | None]
    ) -> Verdict:
        """What a score means for the machine's alarm.

        Args:
            seen: What `observe` gave for the reading.
            score: Its score.
            explain: Gives the reading's contributions by column, or None if the model has none; costs some six predictions.
        """
        rules = self._rules
        machine = seen.machine
        assert rules is not None  # noqa: S101 - the caller looked
        alarm = self.book.find(EQUIPMENT, machine.equipment_id)
        if seen.begins_anew and alarm is None:
            # What the broken sensor did to the smoothed score before it was found out is no evidence of the machine.
            machine.odds = math.nan
            machine.reasons, machine.explained = None, 0
        first = machine.odds != machine.odds  # NaN
        changed = False
        if seen.step is not None and not seen.off and not seen.quiet and not seen.suspicious:
            odds = log_odds(score)
            if first:
                # The first reading alone never opens an alarm.
                machine.odds = min(odds, rules.closes)
            else:
                machine.odds += weight(seen.step, rules.smoothing_seconds) * (odds - machine.odds)
            near = alarm is not None or machine.odds >= rules.opens - NEAR
            if machine.own is None:
                machine.own = Normal(len(self._detectors.names))
            machine.own.add(seen.seconds, seen.values, learn=not near)
            if near and seen.seconds - machine.explained_at >= REASON_SECONDS:
                self._gather(machine, seen, explain, alarm)
            elif not near:
                machine.unexplained += 1
                if (
                    machine.unexplained >= NORMAL_READINGS
                    and machine.known
                    and seen.seconds - machine.explained_at >= NORMAL_INTERVAL_SECONDS
                ):
                    machine.explained_at = seen.seconds
                    self._learn_normal(machine, explain)
            if alarm is None:
                if (
                    machine.odds >= rules.opens
                    and not first
                    and machine.known
                    and not self._is_shelved(machine.equipment_id)
                ):
                    alarm = self._open(machine, seen, explain)
                    changed = True
            else:
                self._go_on(alarm, machine, seen, rules)
                if self.book.find(EQUIPMENT, machine.equipment_id) is None:
                    alarm, changed = None, True
        smoothed = None if machine.odds != machine.odds else probability(machine.odds)
        state = OFF if seen.off else ABNORMAL if alarm is not None else NORMAL
        return Verdict(smoothed, state, changed or first)

    def _open(self, machine: WatchedMachine, seen: Seen, explain: Callable[[], Sequence[float] | None]) -> Alarm:
        if machine.reasons is None:
            self._gather(machine, seen, explain, None)
        alarm, event = self.book.open(
            EQUIPMENT,
            machine.equipment_id,
            seen.seconds,
            score=probability(machine.odds),
            explanation=self._reasons(machine, seen),
            model=self._model,
        )
        self._events.append(event)
        return alarm

    def _go_on(self, alarm: Alarm, machine: WatchedMachine, seen: Seen, rules: Rules) -> None:
        alarm.add(seen.seconds, probability(machine.odds))
        if machine.odds < rules.closes:
            machine.reasons, machine.explained = None, 0
            self._events.append(self.book.close(alarm, seen.seconds))
            return
        if machine.explained_at == seen.seconds:
            alarm.explanation = self._reasons(machine, seen)
        if not self._is_shelved(machine.equipment_id):
            event = self.book.update(alarm, seen.seconds)
            if event is not None:
                self._events.append(event)

    def _gather(
        self,
        machine: WatchedMachine,
        seen: Seen,
        explain: Callable[[], Sequence[float] | None],
        alarm: Alarm | None,
    ) -> None:
        """Take a reading's contributions into the reasons."""
        contributions = explain()
        machine.explained_at = seen.seconds
        if contributions is None:
            return
        by_sensor = self.by_sensor(contributions)
        if machine.reasons is None:
            machine.reasons, machine.explained = by_sensor, 1
            return
        machine.explained += 1
        share = max(REASON_MEMORY, 1.0 / machine.explained) if alarm is None else 1.0 / min(machine.explained, 500)
        reasons = machine.reasons
        for column, value in enumerate(by_sensor):
            reasons[column] += share * (value - reasons[column])

    def _learn_normal(self, machine: WatchedMachine, explain: Callable[[], Sequence[float] | None]) -> None:
        """Take a normal reading's contributions as the machine's normal ones."""
        machine.unexplained = 0
        machine.reasons, machine.explained = None, 0
        contributions = explain()
        if contributions is None:
            return
        by_sensor = self.by_sensor(contributions)
        if machine.normal is None:
            machine.normal = by_sensor
            return
        normal = machine.normal
        for column, value in enumerate(by_sensor):
            normal[column] += NORMAL_MEMORY * (value - normal[column])

    def by_sensor(self, contributions: Sequence[float]) -> array[float]:
        """Contributions of the booster's columns, those of derived features added to their sensors'."""
        sums = array("d", bytes(8 * len(self._detectors.names)))
        for column, value in zip(self._detectors.sources, contributions, strict=True):
            sums[column] += float(value)
        return sums

    def _reasons(self, machine: WatchedMachine, seen: Seen) -> tuple[Reason, ...]:
        """The sensors whose contributions have grown the most over what is normal for this machine."""
        if machine.reasons is None:
            return ()
        normal = machine.normal or array("d", bytes(8 * len(machine.reasons)))
        grown = [value - before for value, before in zip(machine.reasons, normal, strict=True)]
        total = sum(max(value, 0.0) for value in grown) or 1.0
        own = machine.own

        def weight_of(column: int) -> float:
            share = max(grown[column], 0.0) / total + BASE_SHARE
            return share * (1.0 if own is None else own.unusual(column))

        largest = sorted(range(len(grown)), key=weight_of, reverse=True)
        if len(largest) > 1:
            # A sensor that the model finds explained by another (a high load by its heat) contributes little. So the one that
            # reads the least like those of machines that are well is named, too.
            unusual = self._detectors.shift.distances(machine.means) if machine.means is not None else {}
            unusual = unusual or {column: 1.0 if own is None else own.unusual(column) for column in largest}
            farthest = max(largest[1:], key=lambda column: unusual.get(column, 0.0))
            if unusual.get(farthest, 0.0) > unusual.get(largest[1], 0.0):
                largest.remove(farthest)
                largest.insert(1, farthest)
        largest = largest[:REASONS]
        features = self._detectors.manifest.features
        return tuple(
            Reason(
                features[column].name,
                None if math.isnan(seen.values[column]) else seen.values[column],
                features[column].unit,
                round(grown[column], 4),
            )
            for column in largest
        )

    # Time without readings.

    def tick(self, elapsed: float) -> None:
        """Time went on without readings.

        Args:
            elapsed: Seconds since the latest reading arrived or the latest tick.
        """
        if elapsed > 0.0 and self._now > -math.inf:
            self._advance(self._now + elapsed)

    def resume(self) -> None:
        """This component was away: what machines did meanwhile is not known."""
        for machine in self.machines:
            machine.habit.seen = math.nan

    def _advance(self, now: float) -> None:
        self._now = now
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        if self._detectors.shift.active and now - self._compared >= COMPARE_SECONDS:
            self._compared = now
            self._compare_line(now)
        if self._settings.silence_seconds == 0.0:
            return
        found = silent(
            ((one.equipment_id, one.habit) for one in self.machines if one.known), now, self._settings.silence_seconds
        )
        self._silent = frozenset(found.machines)
        line = self.book.find(SILENCE, "")
        if found.line:
            if line is None:
                reason = f"{len(found.machines)} machines are silent"
                self._events.append(self.book.open(SILENCE, "", now, reason=reason)[1])
            return
        if line is not None:
            self._events.append(self.book.close(line, now))
        for name in found.machines:
            quiet = self._is_shelved(name) or self._lasts(name, self.maintenance, self._settings.maintenance)
            if self.book.find(SILENCE, name) is None and not quiet:
                self._events.append(self.book.open(SILENCE, name, now, reason="no reading")[1])

    def _heard(self, equipment_id: str) -> None:
        self._silent -= {equipment_id}
        alarm = self.book.find(SILENCE, equipment_id)
        if alarm is not None:
            self._events.append(self.book.close(alarm, self._now))

    def as_message(self) -> dict[str, Any]:
        """As it stands in the health message."""
        kinds: dict[str, int] = {}
        for alarm in self.book:
            kinds[alarm.kind] = kinds.get(alarm.kind, 0) + 1
        return {"open": kinds, "machines": len(self.machines), "silent": len(self._silent)}

    @property
    def rate_problem(self) -> str | None:
        """Readings that come at quite another rate than those that the model's alarm levels were measured at."""
        measured = (
            None if self._detectors.manifest.alarm is None else self._detectors.manifest.alarm.measured.interval_seconds
        )
        intervals = sorted(
            machine.habit.interval for machine in self.machines.known_now() if machine.habit.regular >= RATE_SECONDS
        )
        if measured is None or not intervals:
            return None
        usual = intervals[len(intervals) // 2]
        if measured / FASTER <= usual <= measured * SLOWER:
            return None
        return (
            f"a machine reports every {usual:.3g} s, the model's alarm levels were measured at a reading every {measured:.3g} s: "
            "their figures may not hold; train on data at this rate, or change the rate"
        )

    def shifts(self) -> list[dict[str, Any]] | None:
        """The line's sensors that read most unusually, for the health message; None where nothing is compared."""
        if not self._detectors.shift.active:
            return None
        return [
            {
                "feature": self._detectors.names[found.column],
                "deviations": round(found.deviations, 2),
                "limit": found.limit,
                "window_seconds": found.window_seconds,
            }
            for _, found in self._shifts[:REASONS]
        ]

    # What people say.

    def acknowledge(self, identifier: str) -> bool:
        """Somebody has seen an alarm; False if it is not open."""
        alarm = self.book.by_id(identifier)
        if alarm is None:
            return False
        alarm.acknowledged = True
        self._events.append(self.book.event(alarm, UPDATED, self._now))
        return True

    def shelve(self, equipment_id: str, seconds: float) -> None:
        """Let no alarm of a machine open, and tell nothing of open ones but their end, for some seconds; 0 to end that."""
        self._set_aside(self.shelved, equipment_id, seconds)

    def maintain(self, equipment_id: str, seconds: float, *, new_baseline: bool = False) -> None:
        """A machine is under maintenance for some seconds: its alarms close and nothing is learnt; 0 to end that.

        Args:
            equipment_id: The machine.
            seconds: From now on.
            new_baseline: Whether what is normal for this machine is to be learnt anew: it is not the same one any more.
        """
        self._set_aside(self.maintenance, equipment_id, seconds)
        if seconds > 0.0:
            for alarm in self.book:
                if alarm.equipment_id == equipment_id:
                    self._events.append(self.book.close(alarm, max(self._now, alarm.last)))
            machine = self.machines.get(equipment_id)
            if machine is not None:
                machine.odds = math.nan
                machine.reasons, machine.explained = None, 0
                # Its alarms are closed: a sensor that is still broken is found again.
                machine.course = None
                if machine.sensors is not None:
                    machine.sensors = self._detectors.sensors.state()
                if new_baseline:
                    machine.own = machine.means = machine.normal = None

    # Over a restart.

    def state(self) -> dict[str, Any]:
        """Everything that a restart must not lose, as JSON can hold it."""
        return {
            "format": FORMAT,
            "now": self._now,
            "features": list(self._detectors.names),
            "machines": [_machine_state(machine) for machine in self.machines if machine.known],
            "alarms": [asdict(alarm) for alarm in self.book],
            "maintenance": self.maintenance,
            "shelved": self.shelved,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError, KeyError, TypeError: It is damaged or of another format.
        """
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}, this version reads {FORMAT}")
        self._now = self._swept = float(state["now"])
        same = tuple(state["features"]) == self._detectors.names
        for kept in state["machines"]:
            machine = WatchedMachine(kept["id"])
            self._restore_machine(machine, kept, same=same)
            self.machines.restore(machine)
        for kept in state["alarms"]:
            self.book.restore(_alarm_of(kept))
        self.maintenance = {str(name): float(until) for name, until in state["maintenance"].items()}
        self.shelved = {str(name): float(until) for name, until in state["shelved"].items()}

    def undo(self, event: Event) -> dict[str, Any]:
        """What a journal keeps of an event, for `redo`."""
        message = event.message
        alarm = self.book.find(message["kind"], message["equipment_id"], message["sensor"])
        machine = self.machines.get(event.equipment_id)
        return {
            "event": event.event,
            "message": message,
            "alarm": asdict(alarm) if alarm is not None and alarm.id == event.id else None,
            "now": self._now,
            "machine": _machine_state(machine) if machine is not None else None,
        }

    def redo(self, line: Mapping[str, Any]) -> None:
        """Bring an event of a journal about once more."""
        message = line["message"]
        alarm = self.book.find(message["kind"], message["equipment_id"], message["sensor"])
        if alarm is not None and (line["alarm"] is None or alarm.id == message["id"]):
            self.book.forget(alarm)
        if line["alarm"] is not None:
            self.book.restore(_alarm_of(line["alarm"]))
        if line["machine"] is not None:
            machine = self.machines.get(line["machine"]["id"]) or WatchedMachine(line["machine"]["id"])
            self._restore_machine(machine, line["machine"])
            self.machines.restore(machine)
        self._now = max(self._now, float(line["now"]))

    def _restore_machine(self, machine: WatchedMachine, kept: Mapping[str, Any], *, same: bool = True) -> None:
        _restore_machine(machine, kept, self._detectors.sensors.state() if same else None)
        if same and "inconsistent" in kept:
            machine.course = self._detectors.consistency.restored(kept["inconsistent"])
            self._compare_anew(machine)

    def _set_aside(self, aside: dict[str, float], equipment_id: str, seconds: float) -> None:
        if seconds > 0.0:
            aside[equipment_id] = self._now + seconds
        else:
            aside.pop(equipment_id, None)

    def _is_shelved(self, equipment_id: str) -> bool:
        if not self.shelved and not self._settings.shelved:
            return False
        return self._lasts(equipment_id, self.shelved, self._settings.shelved)

    def _lasts(self, equipment_id: str, said: dict[str, float], configured: Mapping[str, float]) -> bool:
        until = said.get(equipment_id)
        if until is not None:
            if until > self._now:
                return True
            del said[equipment_id]
        return configured.get(equipment_id, -math.inf) > self._now


def _machine_state(machine: WatchedMachine) -> dict[str, Any]:
    habit, sensors = machine.habit, machine.sensors
    kept: dict[str, Any] = {
        "id": machine.equipment_id,
        "last": _kept(machine.last),
        "odds": _kept(machine.odds),
        "habit": [_kept(habit.interval), _kept(habit.longest), _kept(habit.regular)],
    }
    for name, values in (("normal", machine.normal), ("reasons", machine.reasons)):
        if values is not None:
            kept[name] = [round(value, 4) for value in values]
    if machine.reasons is not None:
        kept["explained"] = machine.explained
    if sensors is not None and sensors.faulty:
        kept["sensors"] = {
            str(column): [
                reason,
                sensors.evidence[column],
                _kept(sensors.value[column]),
                sensors.gain[column],
                sensors.loss[column],
                sensors.since[column],
                sensors.gone[column] if sensors.gone is not None else 0.0,
            ]
            for column, reason in sensors.faulty.items()
        }
        kept["off"] = sensors.off
        if machine.course is not None and machine.course.broken is not None:
            kept["inconsistent"] = machine.course.broken.as_state()
    return kept


def _restore_machine(machine: WatchedMachine, kept: Mapping[str, Any], sensors: SensorState | None) -> None:
    machine.last, machine.odds = _number(kept["last"]), _number(kept["odds"])
    interval, longest, regular = kept["habit"]
    machine.habit.interval, machine.habit.longest, machine.habit.regular = _number(interval), longest, regular
    if sensors is None:
        return
    if "normal" in kept:
        machine.normal = array("d", kept["normal"])
    if "reasons" in kept:
        machine.reasons, machine.explained = array("d", kept["reasons"]), int(kept["explained"])
    values = sensors.value = list(sensors.value)
    for key, (reason, evidence, value, gain, loss, since, gone) in kept.get("sensors", {}).items():
        sensors.busy = True
        column = int(key)
        sensors.faulty = (sensors.faulty or {}) | {column: str(reason)}
        sensors.evidence[column], values[column] = evidence, _number(value)
        sensors.gain[column], sensors.loss[column], sensors.since[column] = gain, loss, since
        if gone:
            if sensors.gone is None or sensors.gone_since is None:
                sensors.gone = array("d", bytes(8 * len(sensors.evidence)))
                sensors.gone_since = array("d", bytes(8 * len(sensors.evidence)))
            sensors.gone[column] = gone
        sensors.off = bool(kept["off"])
    machine.sensors = sensors


def _alarm_of(kept: Mapping[str, Any]) -> Alarm:
    held = dict(kept)
    held["explanation"] = tuple(Reason(**reason) for reason in held["explanation"])
    held["told_reasons"] = tuple(held["told_reasons"])
    held["model"] = tuple(held["model"]) if held["model"] else None
    return Alarm(**held)


def _kept(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else round(value, 6)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
