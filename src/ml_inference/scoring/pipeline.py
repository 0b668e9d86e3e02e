"""Bytes in, an outcome out: decode, validate, score, judge, explain.

The whole of inference, without I/O, threads or a clock of its own, so that a device, a test and a replay of last week's
file run the same code. Nothing in a message makes it raise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ml_inference.model.bundle import Model
from ml_inference.model.history import History, HistoryError, Plan
from ml_inference.model.manifest import ModelError
from ml_inference.model.objectives import is_abnormal, reasons
from ml_inference.model.scorer import FEW
from ml_inference.monitoring.alarms import EQUIPMENT, Event, epoch
from ml_inference.monitoring.drift import Drift, DriftReport
from ml_inference.monitoring.states import ABNORMAL, MachineStates
from ml_inference.monitoring.truth import Truth
from ml_inference.monitoring.watch import FUTURE_SECONDS, OFF, REASON_SECONDS, AlarmSettings, Seen, Watch
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import Explanation, FieldError, Outcome, OverTime, Rejection, Result, Score
from ml_inference.scoring.readings import Decoded, Reading, ReadingDecoder
from ml_inference.times import parse_timestamp

Row: TypeAlias = Sequence[float] | npt.NDArray[np.float32]
Rows: TypeAlias = Sequence[Sequence[float]] | npt.NDArray[np.float32]


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(timezone.utc)


class Pipeline:
    """Scores messages with one model at a time.

    Not thread-safe: one thread processes, and swaps the model between two messages.

    Args:
        model: A verified model.
        judgement: How scores become verdicts.
        clock: Gives the time for readings that bring none.
        watching: Whether machines are watched over time, as far as the model's manifest says how: alarms, sensors, drift.
            Without it only single readings are judged.
        settings: What is configured about alarms.
        salt: What tells this device's alarms from another's, such as the thing's name.

    Attributes:
        explaining: Whether abnormal readings are explained without being asked, unless their state is new; whoever has too
            much to do says no.
        truth: What the line's own label says of the alarms, where it sends one and the model knows of time.
        explanations_skipped: Abnormal readings that got no explanation since there was no time for it.
    """

    def __init__(
        self,
        model: Model,
        judgement: Judgement | None = None,
        clock: Callable[[], datetime] = now,
        *,
        watching: bool = True,
        settings: AlarmSettings | None = None,
        salt: str = "",
    ) -> None:
        self._clock = clock
        self._watching = watching
        self._settings = settings or AlarmSettings()
        self._salt = salt
        self._generation = 0
        self._states = MachineStates()
        self._watch: Watch | None = None
        self._history: History | None = None
        self.explaining = True
        self.truth = Truth()
        self.explanations_skipped = 0
        self.judge_by(judgement or Judgement())
        self.swap(model)

    @property
    def model(self) -> Model:
        """The model that scores the next message."""
        return self._model

    def now(self) -> datetime:
        """What a reading without a time of its own is given."""
        return self._clock()

    @property
    def threshold(self) -> float | None:
        """A score from here on is abnormal; None where the model defines no threshold."""
        return self._judgement.threshold_for(self._model.manifest)

    @property
    def drift(self) -> DriftReport | None:
        """How far the latest readings are from the model's training data; None before there are enough, or not watched."""
        return self._drift.report

    @property
    def watch(self) -> Watch | None:
        """What is known of the machines over time; None where the model's manifest says nothing of it."""
        return self._watch

    @property
    def history(self) -> History | None:
        """The past of the machines; None where the model has no derived features."""
        return self._history

    def swap(self, model: Model) -> None:
        """Score with another model from the next message on; machines keep their states."""
        manifest = model.manifest
        decoder = self._decoder_of(model)
        # With a reference for means over time these say more, and cry less often.
        compared = any(feature.means for feature in manifest.features)
        drift = Drift(manifest.features if self._watching and not compared else ())
        history = None
        if manifest.derived:
            history = History(Plan.of(manifest.derived, manifest.feature_names))
            if self._history is not None:
                # The pasts go on where the derived features are the same.
                with suppress(HistoryError):
                    history.restore(self._history.state())
        if self._watch is not None:
            self._watch.swap(manifest)
        elif self._watching and manifest.needs_format_2:
            self._watch = Watch(manifest, self._settings, self._salt)
        self._model, self._decoder, self._drift, self._history = model, decoder, drift, history
        self._generation += 1

    def judge_by(self, judgement: Judgement, settings: AlarmSettings | None = None) -> None:
        """Judge by other rules from the next message on; machines keep their states."""
        self._judgement = judgement
        self._generation += 1
        self._states.debounce = judgement.debounce_readings
        if settings is not None:
            self._settings = settings
            self._decoder = self._decoder_of(self._model)
            if self._watch is not None:
                self._watch.set(settings)

    def _decoder_of(self, model: Model) -> ReadingDecoder:
        return ReadingDecoder(model.manifest.features, self._settings.zone, self._settings.label_key)

    def process(self, payload: bytes) -> Outcome:
        """Score one message.

        Args:
            payload: JSON in UTF-8, one reading or a batch.

        Returns:
            A result or a rejection for each reading.
        """
        return self.score(self._decoder.decode(payload))

    def process_many(self, payloads: Sequence[bytes]) -> list[Outcome]:
        """Score several messages with one prediction; each becomes what it would have become alone.

        Args:
            payloads: In the order of arrival.

        Returns:
            The outcome of each.
        """
        return self.score_many([self._decoder.decode(payload) for payload in payloads])

    def process_in_slices(
        self, payload: bytes, size: int, between: Callable[[Collection[str], Sequence[Event]], None]
    ) -> Outcome:
        """Score a message that may hold very many readings, and give way to others between slices of it.

        Args:
            payload: JSON in UTF-8.
            size: Readings of a slice.
            between: Called after each slice but the last, with the message's machines and what happened to alarms; may
                process messages of other machines.

        Returns:
            What `process` returns, without the alarms that `between` was told.
        """
        batch = self._decoder.open(payload)
        if isinstance(batch, Decoded):
            return self.score(batch)
        machines = batch.machines
        items: list[Result | Rejection] = []
        alarms: tuple[Event, ...] = ()
        for start in range(0, len(batch.documents), size):
            if start:
                between(machines, alarms)
            outcome = self.score(self._decoder.readings(batch, start, start + size))
            items += [replace(item, index=start + place) for place, item in enumerate(outcome.items)]
            alarms = outcome.alarms
        return Outcome(tuple(items), batch=True, correlation_id=batch.correlation_id, alarms=alarms)

    def tick(self, elapsed: float) -> tuple[Event, ...]:
        """Time went on without messages.

        Args:
            elapsed: Seconds since the latest message or tick.

        Returns:
            What happened to alarms.
        """
        if self._watch is None:
            return ()
        self._watch.tick(elapsed)
        return self._watch.events()

    def forget(self, equipment_id: str) -> None:
        """Let a machine's past begin anew: it is not the same one any more."""
        if self._history is not None:
            self._history.forget(equipment_id)

    def score(self, decoded: Decoded) -> Outcome:
        """Score a message that is already taken apart."""
        return self.score_many((decoded,))[0]

    def score_many(self, messages: Sequence[Decoded]) -> list[Outcome]:
        """Score messages that are already taken apart, with one prediction for all."""
        if self._watch is not None or self._history is not None:
            return self._score_over_time(messages)
        readings = [item for decoded in messages for item in decoded.items if isinstance(item, Reading)]
        scored = iter(self._results(readings) if readings else ())
        for reading in readings:
            self._drift.add(reading.values)
        return [
            Outcome(
                tuple(
                    _placed(next(scored), index) if isinstance(item, Reading) else item
                    for index, item in enumerate(decoded.items)
                )
                if decoded.batch
                else tuple(next(scored) if isinstance(item, Reading) else item for item in decoded.items),
                decoded.batch,
                decoded.correlation_id,
            )
            for decoded in messages
        ]

    # A model that judges single readings.

    def verdicts(
        self, rows: Sequence[Sequence[float]] | npt.NDArray[np.float32]
    ) -> tuple[list[Score | ModelError], list[bool | None]]:
        """Scores of valid readings and the verdicts on them, whatever machine they are of.

        Args:
            rows: n readings, in the manifest's order of features.
        """
        scores = self._scores(rows)
        manifest = self._model.manifest
        threshold = self.threshold
        return scores, [
            None if isinstance(score, ModelError) else is_abnormal(score, threshold, manifest) for score in scores
        ]

    def explain(
        self, rows: Sequence[Sequence[float]], scores: Sequence[Score | ModelError]
    ) -> list[tuple[Explanation, ...]]:
        """What the scores of single readings are due to; nothing if that is switched off, or the booster cannot explain."""
        if self._judgement.explain_top_k == 0 or not len(rows):
            return [()] * len(rows)
        try:
            values = self._model.scorer.contributions(rows)
        except ModelError:
            return [()] * len(rows)
        return [self._largest(*one) for one in zip(values, scores, rows, strict=True)]

    def _results(self, readings: Sequence[Reading]) -> list[Result | Rejection]:
        scores, verdicts = self.verdicts([reading.values for reading in readings])
        manifest, threshold = self._model.manifest, self.threshold
        explanations = self._explain(readings, scores, verdicts)
        arrived = parse_timestamp(self._clock())
        results: list[Result | Rejection] = []
        for position, reading in enumerate(readings):
            score, abnormal = scores[position], verdicts[position]
            if isinstance(score, ModelError):
                results.append(self._unscored(reading, score, None))
                continue
            state, changed = None, False
            if abnormal is not None:
                state, changed = self._states.update(reading.equipment_id, abnormal=abnormal)
            results.append(
                Result(
                    equipment_id=reading.equipment_id,
                    timestamp=reading.timestamp or arrived,
                    correlation_id=reading.correlation_id,
                    score=score,
                    threshold=threshold,
                    abnormal=abnormal,
                    state=state,
                    state_changed=changed,
                    model_name=manifest.name,
                    model_version=manifest.version,
                    explanation=explanations.get(position, ()),
                )
            )
        return results

    def _explain(
        self, readings: Sequence[Reading], scores: Sequence[Score | ModelError], verdicts: Sequence[bool | None]
    ) -> dict[int, tuple[Explanation, ...]]:
        """Explanations by position, for the abnormal readings, and those who ask, only: SHAP costs some six predictions.

        None if the booster cannot explain: a result without its reasons is better than no result.
        """
        if self._judgement.explain_top_k == 0:
            return {}
        abnormal = [position for position, verdict in enumerate(verdicts) if verdict or readings[position].explain]
        if not self.explaining:
            asked = [position for position in abnormal if readings[position].explain]
            self.explanations_skipped += len(abnormal) - len(asked)
            abnormal = asked
        if not abnormal:
            return {}
        explained = self.explain(
            [readings[position].values for position in abnormal], [scores[position] for position in abnormal]
        )
        return dict(zip(abnormal, explained, strict=True))

    def _largest(
        self, contributions: npt.NDArray[np.float32], score: Score | ModelError, values: Sequence[float]
    ) -> tuple[Explanation, ...]:
        if isinstance(score, ModelError):
            return ()
        own = reasons(contributions, score, self._model.manifest)
        if own is None:
            return ()
        if self._model.manifest.derived:
            own = self._by_sensor(own)
        features = self._model.manifest.features
        largest = (-own).argsort(kind="stable")[: self._judgement.explain_top_k].tolist()
        if contributions.ndim > 1:
            # What argues for another class is no reason of this one.
            largest = [column for column in largest if own[column] > 0.0]
        return tuple(
            Explanation(
                feature=features[column].name,
                value=features[column].value(values[column]),
                unit=features[column].unit,
                contribution=round(float(own[column]), 4),
            )
            for column in largest
        )

    # A model that knows of time.

    def _score_over_time(self, messages: Sequence[Decoded]) -> list[Outcome]:
        """Readings in order: sensors (what they say can be withheld), the machine's past, the score, the alarm."""
        alarms: list[tuple[Event, ...]] = []
        observed: list[list[_Waiting | Rejection]] = []
        for decoded in messages:
            # Its own for each message: readings that bring no time are told apart by it.
            instant = self._clock()
            arrival = _Arrival(instant, instant.timestamp())
            observed.append(
                [
                    self._observe(item, arrival, index if decoded.batch else None)
                    for index, item in enumerate(decoded.items)
                ]
            )
            alarms.append(self._watch.events() if self._watch is not None else ())
        waiting = [one for items in observed for one in items if isinstance(one, _Waiting)]
        rows = self._rows(waiting) if waiting else []
        for held in waiting:
            if held.seen is None or not held.seen.missing:
                self._drift.add(held.reading.values)
        scored = zip(rows, self._scores(rows) if waiting else (), strict=True)
        outcomes = []
        for decoded, items, told in zip(messages, observed, alarms, strict=True):
            results = tuple(self._judged(one, *next(scored)) if isinstance(one, _Waiting) else one for one in items)
            events = told + self._watch.events() if self._watch is not None else ()
            outcomes.append(Outcome(results, decoded.batch, decoded.correlation_id, events))
        return outcomes

    def _judged(self, held: _Waiting, row: Row, score: Score | ModelError) -> Result | Rejection:
        if isinstance(score, ModelError):
            return self._unscored(held.reading, score, held.index)
        return self._judge(held, row, score)

    def _observe(self, item: Reading | Rejection, arrival: _Arrival, index: int | None) -> _Waiting | Rejection:
        watch = self._watch
        if isinstance(item, Reading):
            seconds = arrival.seconds if item.timestamp is None else epoch(item.timestamp)
            if watch is None:
                return _Waiting(item, arrival.time, seconds, arrival.believes(seconds), index)
            seen = watch.observe(item.equipment_id, seconds, item.values, clock=arrival.seconds, held=item.held)
            counts = arrival.believes(seconds) and seen.in_operation
            return _Waiting(item, arrival.time, seconds, counts, index, seen, self._unlearned(seen))
        if watch is None or not watch.watches_sensors:
            return item
        raw = self._decoder.raw(item)
        if raw is None:
            return item
        timestamp, values = raw
        seconds = arrival.seconds if timestamp is None else epoch(timestamp)
        seen = watch.observe(item.equipment_id, seconds, values, clock=arrival.seconds, valid=False)
        # A sensor that is known to be faulty takes nothing with it, if the model can do without.
        reading = self._decoder.without(item, watch.faulty(item.equipment_id))
        if reading is None:
            if self._history is not None and seen.begins_anew:
                self._history.forget(item.equipment_id, self._unlearned(seen))
            return item
        counts = arrival.believes(seconds) and seen.in_operation
        return _Waiting(reading, arrival.time, seconds, counts, index, seen, self._unlearned(seen))

    def _unlearned(self, seen: Seen) -> tuple[str, ...]:
        """Features whose past is to be forgotten: what a sensor said until it was found faulty is no part of it."""
        if not seen.begins_anew or self._history is None or self._watch is None:
            return ()
        names = self._model.manifest.feature_names
        return tuple(names[column] for column in self._watch.faulty(seen.machine.equipment_id))

    def _rows(self, waiting: Sequence[_Waiting]) -> Rows:
        """The booster's rows: features, then what the machines' pasts say."""
        rows = [held.values for held in waiting]
        if self._history is None:
            return rows
        pasts = []
        begin = 0
        for place, held in enumerate(waiting):
            # Readings before the one that found a sensor faulty are let in before that is forgotten, as they would be alone.
            if held.unlearned:
                pasts += self._pasts(self._history, waiting[begin:place], rows[begin:place])
                self._history.forget(held.reading.equipment_id, held.unlearned)
                begin = place
        pasts += self._pasts(self._history, waiting[begin:], rows[begin:])
        past = pasts[0] if len(pasts) == 1 else np.concatenate(pasts)
        if len(rows) <= FEW:
            return [[*row, *more] for row, more in zip(rows, past.tolist(), strict=True)]
        features = len(rows[0])
        table = np.empty((len(rows), features + past.shape[1]), dtype=np.float32)
        table[:, :features] = rows
        table[:, features:] = past
        return table

    @staticmethod
    def _pasts(
        history: History, waiting: Sequence[_Waiting], rows: Sequence[Sequence[float]]
    ) -> list[npt.NDArray[np.float64]]:
        if not waiting:
            return []
        derived = history.update_many(
            [held.reading.equipment_id for held in waiting],
            [held.seconds for held in waiting],
            rows,
            [held.counts for held in waiting],
        )
        return [derived]

    def _judge(self, held: _Waiting, row: Row, score: Score) -> Result:
        reading, seen, manifest = held.reading, held.seen, self._model.manifest
        threshold = self._judgement.threshold_for(manifest)
        abnormal = is_abnormal(score, threshold, manifest)
        verdict = None
        if self._watch is not None and seen is not None and self._watch.alarmed and isinstance(score, float):
            verdict = self._watch.judge(seen, score, partial(self._listed_contributions, held, row))
        state, changed = (verdict.state, verdict.changed) if verdict else (None, False)
        if verdict is None and abnormal is not None:
            state, changed = self._states.update(reading.equipment_id, abnormal=abnormal)
            if seen is not None and seen.off:
                state = OFF
        if reading.label is not None and held.counts and state != OFF:
            self.truth.add(
                reading.equipment_id,
                held.seconds,
                label=reading.label != 0.0,
                alarmed=state == ABNORMAL,
                horizon=manifest.horizon_seconds,
            )
        explanation: tuple[Explanation, ...] = ()
        age = None
        if (abnormal or reading.explain) and self._judgement.explain_top_k:
            explanation, age = self._explanation(held, row, score, changed=changed)
        horizon = manifest.horizon_seconds
        return Result(
            equipment_id=reading.equipment_id,
            timestamp=reading.timestamp or parse_timestamp(held.arrived),
            correlation_id=reading.correlation_id,
            score=score,
            threshold=threshold,
            abnormal=abnormal,
            state=state,
            state_changed=changed,
            model_name=manifest.name,
            model_version=manifest.version,
            explanation=explanation,
            index=held.index,
            over_time=OverTime(
                smoothed_score=verdict.smoothed if verdict else None,
                sensors=seen.sensors if seen else {},
                missing=seen.missing if seen else (),
                forecast_hours=None if horizon is None else horizon / 3600.0,
                explanation_age_seconds=age,
            ),
        )

    def _explanation(
        self, held: _Waiting, row: Row, score: Score, *, changed: bool
    ) -> tuple[tuple[Explanation, ...], float | None]:
        """The reading's explanation, or an earlier one of the same machine in the same condition and its age in seconds.

        An explanation costs ten times what everything else does, so it is fresh where somebody will read it: when the state
        changes, each `REASON_SECONDS`, and on request.
        """
        machine = held.seen.machine if held.seen is not None else None
        alarm = self._watch.book.find(EQUIPMENT, held.reading.equipment_id) if self._watch is not None else None
        condition = (self._generation, alarm and alarm.id, _class_of(score))
        wanted = held.reading.explain or changed or held.contributions is not None
        if machine is not None and machine.explanation is not None and not wanted:
            of, at, earlier = machine.explanation
            age = held.seconds - at
            if of == condition and 0.0 <= age < REASON_SECONDS:
                return earlier, round(age, 3)
        if not self.explaining and not wanted:
            self.explanations_skipped += 1
            return (), None
        values = self._contributions(held, row)
        if values is None:
            return (), None
        explanation = self._largest(values, score, held.values)
        if machine is not None:
            machine.explanation = (condition, held.seconds, explanation)
        return explanation, None

    def _contributions(self, held: _Waiting, row: Row) -> npt.NDArray[np.float32] | None:
        """The reading's SHAP values, computed once; None if the booster has none."""
        if held.contributions is None:
            with suppress(ModelError):
                held.contributions = self._model.scorer.contributions(np.asarray([row], dtype=np.float32))[0]
        return held.contributions

    def _listed_contributions(self, held: _Waiting, row: Row) -> list[float] | None:
        values = self._contributions(held, row)
        if values is None:
            return None
        listed: list[float] = values.tolist()
        return listed

    def _by_sensor(self, contributions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What derived features contribute counts for their sensors."""
        names = self._model.manifest.feature_names
        sums: npt.NDArray[np.float32] = contributions[: len(names)].copy()
        for derived, value in zip(self._model.manifest.derived, contributions[len(names) :], strict=True):
            sums[names.index(derived.source)] += value
        return sums

    # Both.

    def _scores(self, rows: Rows) -> list[Score | ModelError]:
        try:
            return [_rounded(score) for score in self._model.scorer.score(rows)]
        except ModelError as error:
            if len(rows) == 1:
                return [error]
        # One reading that the model cannot score must not cost its neighbours theirs.
        return [self._scores([row])[0] for row in rows]

    def _unscored(self, reading: Reading, error: ModelError, index: int | None) -> Rejection:
        return Rejection(
            errors=(FieldError((), "model_error", str(error)),),
            received=dict(zip(self._model.manifest.feature_names, reading.values, strict=True)),
            index=index,
            equipment_id=reading.equipment_id,
            correlation_id=reading.correlation_id,
        )


@dataclass(frozen=True, slots=True)
class _Arrival:
    """When a message came: as a time and in epoch seconds."""

    time: datetime
    seconds: float

    def believes(self, seconds: float) -> bool:
        """Whether a reading's time is not too far ahead."""
        return seconds <= self.seconds + FUTURE_SECONDS


@dataclass(slots=True)
class _Waiting:
    """A reading that was observed and waits for its score.

    Attributes:
        reading: It.
        arrived: When it came.
        seconds: Its time, in epoch seconds.
        counts: Whether it belongs to the machine's past, unless it comes too late, which the history finds out itself.
        index: Position in the batch; None for a single reading.
        seen: What the watch saw; None where nothing is watched.
        unlearned: Features whose past is forgotten before it.
        contributions: Its SHAP values, once they were needed.
    """

    reading: Reading
    arrived: datetime
    seconds: float
    counts: bool
    index: int | None
    seen: Seen | None = None
    unlearned: tuple[str, ...] = ()
    contributions: npt.NDArray[np.float32] | None = None

    @property
    def values(self) -> Sequence[float]:
        """Its features, NaN where missing or withheld."""
        return self.reading.values if self.seen is None else self.seen.values


def _class_of(score: Score) -> int:
    """The most likely class: an explanation is about that one."""
    return max(range(len(score)), key=score.__getitem__) if isinstance(score, list) else 0


def _placed(item: Result | Rejection, index: int) -> Result | Rejection:
    return replace(item, index=index)


def _rounded(score: Score) -> Score:
    """Nine significant digits tell every float32 from its neighbours (IEEE 754). The rest is noise of its conversion."""
    if isinstance(score, list):
        return [float(f"{part:.9g}") for part in score]
    return float(f"{score:.9g}")
