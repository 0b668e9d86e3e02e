"""Bytes in, an outcome out: decode, validate, score, judge, explain.

The whole of inference, without I/O, threads or a clock of its own, so that a device, a test and a replay of last week's
file run the same code. Nothing in a message makes it raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from ml_inference.model.bundle import Model
from ml_inference.model.manifest import ModelError
from ml_inference.monitoring.drift import Drift, DriftReport
from ml_inference.monitoring.states import MachineStates
from ml_inference.scoring.judgement import Judgement, is_abnormal
from ml_inference.scoring.outcomes import Explanation, FieldError, Outcome, Rejection, Result, Score
from ml_inference.scoring.readings import Decoded, Reading, ReadingDecoder, parse_timestamp


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
        watch_drift: Whether readings are compared with the model's training data.
    """

    def __init__(
        self,
        model: Model,
        judgement: Judgement | None = None,
        clock: Callable[[], datetime] = now,
        *,
        watch_drift: bool = True,
    ) -> None:
        self._clock = clock
        self._watch_drift = watch_drift
        self._states = MachineStates()
        self.judge_by(judgement or Judgement())
        self.swap(model)

    @property
    def model(self) -> Model:
        """The model that scores the next message."""
        return self._model

    @property
    def drift(self) -> DriftReport | None:
        """How far the latest readings are from the model's training data; None before there are enough, or not watched."""
        return self._drift.report

    def swap(self, model: Model) -> None:
        """Score with another model from the next message on; machines keep their states."""
        decoder = ReadingDecoder(model.manifest.features)
        drift = Drift(model.manifest.features if self._watch_drift else ())
        self._model, self._decoder, self._drift = model, decoder, drift

    def judge_by(self, judgement: Judgement) -> None:
        """Judge by other rules from the next message on; machines keep their states."""
        self._judgement = judgement
        self._states.debounce = judgement.debounce_readings

    def process(self, payload: bytes) -> Outcome:
        """Score one message.

        Args:
            payload: JSON in UTF-8, one reading or a batch.

        Returns:
            A result or a rejection for each reading.
        """
        return self.score(self._decoder.decode(payload))

    def score(self, decoded: Decoded) -> Outcome:
        """Score a message that is already taken apart."""
        readings = [item for item in decoded.items if isinstance(item, Reading)]
        scored = self._results(readings, decoded) if readings else []
        for reading in readings:
            self._drift.add(reading.values)
        results = iter(scored)
        items = tuple(next(results) if isinstance(item, Reading) else item for item in decoded.items)
        return Outcome(items=items, batch=decoded.batch, correlation_id=decoded.correlation_id)

    def _results(self, readings: Sequence[Reading], decoded: Decoded) -> list[Result | Rejection]:
        indices = [index for index, item in enumerate(decoded.items) if isinstance(item, Reading)]
        scores = self._scores(readings)
        manifest = self._model.manifest
        threshold = self._judgement.threshold_for(manifest)
        verdicts = [
            None if isinstance(score, ModelError) else is_abnormal(score, threshold, manifest.normal_class)
            for score in scores
        ]
        explanations = self._explain(readings, scores, verdicts)
        arrived = parse_timestamp(self._clock())
        results: list[Result | Rejection] = []
        for position, reading in enumerate(readings):
            index = indices[position] if decoded.batch else None
            score, abnormal = scores[position], verdicts[position]
            if isinstance(score, ModelError):
                error = FieldError((), "model_error", str(score))
                results.append(
                    Rejection(
                        errors=(error,),
                        received=dict(zip(manifest.feature_names, reading.values, strict=True)),
                        index=index,
                        equipment_id=reading.equipment_id,
                        correlation_id=reading.correlation_id,
                    )
                )
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
                    index=index,
                )
            )
        return results

    def _scores(self, readings: Sequence[Reading]) -> list[Score | ModelError]:
        try:
            return [_rounded(score) for score in self._model.scorer.score([reading.values for reading in readings])]
        except ModelError as error:
            if len(readings) == 1:
                return [error]
        # One reading that the model cannot score must not cost its neighbours theirs.
        return [self._scores([reading])[0] for reading in readings]

    def _explain(
        self, readings: Sequence[Reading], scores: Sequence[Score | ModelError], verdicts: Sequence[bool | None]
    ) -> dict[int, tuple[Explanation, ...]]:
        """Explanations by position, for the abnormal readings only: SHAP costs some six predictions.

        None if the booster cannot explain: a result without its reasons is better than no result.
        """
        top = self._judgement.explain_top_k
        abnormal = [position for position, verdict in enumerate(verdicts) if verdict]
        if top == 0 or not abnormal:
            return {}
        try:
            values = self._model.scorer.contributions([readings[position].values for position in abnormal])
        except ModelError:
            return {}
        features = self._model.manifest.features
        explanations = {}
        for row, position in enumerate(abnormal):
            score = scores[position]
            # Of a multi-class model: why it is the class that it most likely is.
            contributions = values[row][score.index(max(score))] if isinstance(score, list) else values[row]
            largest = (-contributions).argsort(kind="stable")[:top].tolist()
            explanations[position] = tuple(
                Explanation(
                    feature=features[column].name,
                    value=readings[position].values[column],
                    unit=features[column].unit,
                    contribution=round(float(contributions[column]), 4),
                )
                for column in largest
            )
        return explanations


def _rounded(score: Score) -> Score:
    """Nine significant digits tell every float32 from its neighbours (IEEE 754). The rest is noise of its conversion."""
    if isinstance(score, list):
        return [float(f"{part:.9g}") for part in score]
    return float(f"{score:.9g}")
