"""The one thread that scores, so that results leave in the order in which readings came.

Everything that changes what it does (another model, other rules) is handed to it and takes effect between two messages.
Nothing that a message holds, and no internal error in handling it, ends it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

from ml_inference.delivery.routing import Message, Router
from ml_inference.logs import Occurrences
from ml_inference.model.bundle import Model
from ml_inference.monitoring.alarms import Event as AlarmEvent
from ml_inference.monitoring.watch import AlarmSettings
from ml_inference.scoring.challenger import Comparison
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import FieldError, Outcome, Rejection
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.serving.control import Control
from ml_inference.serving.intake import Arrival, Intake
from ml_inference.serving.memory import Memory

IDLE_SECONDS = 0.2
"""How long a change waits for its turn when no message comes."""
LATENCIES = 1_000
TICK_SECONDS = 1.0
"""Between two looks at what is due while messages come."""
TOGETHER = 32
"""Most messages that are scored together. More would save little, and as many are on their way to the nucleus at most."""
TOGETHER_SECONDS = 0.005
"""What a message waits at most for others to be scored with it."""
SLICED_BYTES = 64 * 1024
"""A larger message is scored in slices."""
SLICE = 256
"""Readings of a slice, some 20 ms."""
PUBLISHED_AT_ONCE = 32
"""Messages of one outcome, after which others have their turn."""
KEEP_SECONDS = 1.0
"""For writing the last checkpoint when it ends."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Times:
    """Seconds.

    Attributes:
        ticked: When what is due was looked at last.
        seconds: That a message takes, by the latest ones.
    """

    ticked: float
    seconds: float = 0.0


class Worker:
    """Takes messages from the intake, scores them, and hands on what they become.

    Args:
        intake: Where messages come from; its counters are told what became of each.
        pipeline: Scores; from `start` on it belongs to the worker's thread.
        router: Turns outcomes into messages.
        publish: Sends a local message; may wait.
        offer: Takes messages for the cloud, and the number of readings not wanted there; does not wait.
        memory: Keeps what is known of the machines; None where nothing is to be kept.
        control: Does what requests about alarms ask for; None where there are none.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        pipeline: Pipeline,
        router: Router,
        publish: Callable[[Message], None],
        offer: Callable[[Sequence[Message], int], None],
        memory: Memory | None = None,
        control: Control | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        self._intake = intake
        self._pipeline = pipeline
        self._router = router
        self._publish = publish
        self._offer = offer
        self._memory = memory
        self._control = control
        self._times = _Times(monotonic())
        self._monotonic = monotonic
        self._changes: deque[Callable[[], None]] = deque()
        self._finish = Event()
        self._challenger: tuple[Pipeline, Comparison] | None = None
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._internal_errors = Occurrences()
        self._thread = Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def swap(self, model: Model, done: Callable[[], None]) -> None:
        """Score with another model from the next message on, then call `done`."""

        def change() -> None:
            self._pipeline.swap(model)
            if self._memory:
                self._memory.save(self._pipeline)
            done()

        self._changes.append(change)

    def judge_by(self, judgement: Judgement, settings: AlarmSettings) -> None:
        """Judge by other rules from the next message on."""

        def change() -> None:
            self._pipeline.judge_by(judgement, settings)
            if self._challenger:
                self._challenger[0].judge_by(judgement)

        self._changes.append(change)

    def challenge(self, model: Model | None, judgement: Judgement) -> None:
        """Let a second model score the same messages in silence; None for none."""
        challenger = None
        if model is not None:
            comparison = Comparison(model.manifest.name, model.manifest.version)
            challenger = (Pipeline(model, judgement, watching=False), comparison)

        def change() -> None:
            self._challenger = challenger

        self._changes.append(change)

    def request(self, payload: bytes, reply: Callable[[dict[str, Any]], None]) -> None:
        """Do what a request about alarms asks for, between two messages.

        Args:
            payload: JSON in UTF-8.
            reply: Gets the reply.
        """

        def change() -> None:
            if self._control:
                pipeline = self._pipeline
                reply(self._control.handle(payload, pipeline.watch, pipeline.truth.machines(), pipeline.forget))
            self._tell(self._pipeline.tick(0.0))

        self._changes.append(change)

    def resume(self) -> None:
        """Readings could not arrive for a while: no machine is silent for that."""

        def change() -> None:
            if self._pipeline.watch is not None:
                self._pipeline.watch.resume()

        self._changes.append(change)

    def finish(self, timeout: float) -> bool:
        """Work off what is queued, then end. The intake must be closed.

        Args:
            timeout: Seconds.

        Returns:
            Whether it ended in time.
        """
        self._finish.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def as_message(self) -> dict[str, Any]:
        """The worker's part of the health message: time from arrival to publish, of the latest messages."""
        latencies = sorted(self._latencies.copy())
        message: dict[str, Any] = {"errors_suppressed": self._router.errors_suppressed}
        if self._pipeline.explanations_skipped:
            message["explanations_skipped"] = self._pipeline.explanations_skipped
        if latencies:
            message["latency_ms"] = {
                f"p{percent}": round(latencies[min(len(latencies) - 1, len(latencies) * percent // 100)] * 1000, 2)
                for percent in (50, 99)
            }
        drift = self._pipeline.drift  # once: another model may come in meanwhile, which has none yet
        if drift:
            message["drift"] = drift.as_message()
        watch = self._pipeline.watch
        if watch is not None:
            shifts = watch.shifts()
            if shifts is not None:
                message["drift"] = {"largest": shifts}
            if len(self._pipeline.truth):
                message["truth"] = self._pipeline.truth.as_message()
            message["alarms"] = watch.as_message() | {"said_false": self._control.false_alarms if self._control else 0}
        challenger = self._challenger
        if challenger:
            message["challenger"] = challenger[1].as_message()
        return message

    @property
    def quality_problem(self) -> str | None:
        """What the line's own label says is worse than the model promises."""
        alarm = self._pipeline.model.manifest.alarm
        return None if alarm is None else self._pipeline.truth.problem(alarm.measured)

    @property
    def rate_problem(self) -> str | None:
        """What is wrong with the rate of readings for this model's alarms; None if nothing is."""
        watch = self._pipeline.watch
        return None if watch is None else watch.rate_problem

    @property
    def problem(self) -> str | None:
        """What is wrong with keeping the machines' states; None if nothing is."""
        return self._memory.problem if self._memory else None

    def _run(self) -> None:
        self._change(self._go_on)
        while True:
            arrivals = self._intake.take(IDLE_SECONDS, self._most)
            while self._changes:
                self._change(self._changes.popleft())
            if arrivals:
                self._work(arrivals)
                if self._monotonic() - self._times.ticked >= TICK_SECONDS:
                    self._change(self._tick)
            elif self._finish.is_set():
                self._change(self._keep)
                return
            else:
                self._change(self._tick)

    def _go_on(self) -> None:
        """Take up what the process before knew; what may not have been heard is told again."""
        if self._memory:
            self._tell_again(self._memory.restore(self._pipeline))

    def _tick(self) -> None:
        moment = self._monotonic()
        elapsed, self._times.ticked = moment - self._times.ticked, moment
        self._tell(self._pipeline.tick(elapsed))
        if self._memory:
            self._memory.save_if_due(self._pipeline)

    def _keep(self) -> None:
        if self._memory:
            self._memory.save(self._pipeline)
            self._memory.close(KEEP_SECONDS)

    def _tell(self, events: Sequence[AlarmEvent]) -> None:
        """Keep events of alarms, then tell them: the other way round a crash could forget what was told."""
        if events:
            if self._memory:
                self._memory.record(events, self._pipeline)
            self._tell_again(events)

    def _tell_again(self, events: Sequence[AlarmEvent]) -> None:
        if not events:
            return
        local, cloud = self._router.alarms(events)
        for message in local:
            self._publish(message)
        self._offer(cloud, 0)

    def _change(self, change: Callable[[], None]) -> None:
        try:
            change()
        except Exception:
            logger.exception("a change met an internal error; what was in force stays")

    @property
    def _most(self) -> int:
        """How many messages may be scored together, so that none of them waits long for that."""
        return (
            max(1, min(TOGETHER, int(TOGETHER_SECONDS / self._times.seconds)))
            if self._times.seconds > 0.0
            else TOGETHER
        )

    def _work(self, arrivals: Sequence[Arrival]) -> None:
        began = self._monotonic()
        outcomes = self._process(arrivals)
        seconds = (self._monotonic() - began) / len(arrivals)
        self._times.seconds += 0.2 * (seconds - self._times.seconds)
        if self._memory and (events := [event for outcome in outcomes for event in outcome.alarms]):
            # All of them before the first is told: the machines' states are already those after the last message.
            self._memory.record(events, self._pipeline)
        for arrival, outcome in zip(arrivals, outcomes, strict=True):
            self._hand_on(arrival, outcome)
        if self._challenger:  # not before: whoever waits for a result does not wait for a second opinion
            for arrival, outcome in zip(arrivals, outcomes, strict=True):
                self._compare(arrival, outcome, seconds)

    def _process(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """What becomes of messages, of several with one prediction."""
        self._pipeline.explaining = not self._intake.crowded
        if len(arrivals) > 1:
            try:
                return self._pipeline.process_many([arrival.payload for arrival in arrivals])
            except Exception:
                # One of them, or all: that is found out, and told, one by one.
                logger.debug("together the messages met an internal error", exc_info=True)
        outcomes = []
        for arrival in arrivals:
            try:
                outcomes.append(self._process_alone(arrival.payload))
            except Exception:  # noqa: BLE001 - ours, whatever it was: logged, counted, and the next one gets its chance
                outcomes.append(self._refuse(arrival))
        return outcomes

    def _process_alone(self, payload: bytes) -> Outcome:
        if len(payload) <= SLICED_BYTES:
            return self._pipeline.process(payload)
        return self._pipeline.process_in_slices(payload, SLICE, self._give_way)

    def _give_way(self, machines: Collection[str], events: Sequence[AlarmEvent] = ()) -> None:
        """Between two slices of a large message: what waits of other machines does not wait for all of it."""
        self._tell(events)
        arrivals = self._intake.take_beside(machines, self._most)
        if arrivals:
            self._work(arrivals)

    def _hand_on(self, arrival: Arrival, outcome: Outcome) -> None:
        self._tell_again(outcome.alarms)
        try:
            local, cloud, unwanted = self._route(outcome)
        except Exception:  # noqa: BLE001 - as above
            outcome = self._refuse(arrival)
            local, cloud, unwanted = self._router.errors(outcome), [], 0
        machines = {item.equipment_id for item in outcome.results}
        for place, message in enumerate(local, 1):
            self._publish(message)
            if place % PUBLISHED_AT_ONCE == 0:
                self._give_way(machines | {item.equipment_id for item in outcome.items})
        self._latencies.append(self._monotonic() - arrival.moment)
        scored = len(outcome.results)
        for machine in machines:
            self._intake.known.heard(machine)
        with self._intake.counters.lock:
            if self._intake.counters.over:
                return  # too late: it is counted as dropped
            self._offer(cloud, unwanted)
            self._intake.counters.finished(scored=scored, rejected=len(outcome.items) - scored)

    def _refuse(self, arrival: Arrival) -> Outcome:
        """What becomes of a message that met an internal error; called while that is handled."""
        if self._internal_errors.add():
            logger.exception("%d messages met an internal error; the last", self._internal_errors.count)  # noqa: LOG004
        error = FieldError((), "internal_error", "the component could not process this message; see its log")
        return Outcome((Rejection((error,), received=arrival.payload),))

    def _route(self, outcome: Outcome) -> tuple[list[Message], list[Message], int]:
        """Local messages, messages for the cloud, and how many readings the cloud does not want."""
        return self._router.results(outcome) + self._router.errors(outcome), *self._router.cloud(outcome)

    def _compare(self, arrival: Arrival, outcome: Outcome, seconds: float) -> None:
        if self._challenger is None:  # it has failed meanwhile
            return
        pipeline, comparison = self._challenger
        began = self._monotonic()
        away = 0.0

        def give_way(machines: Collection[str], events: Sequence[AlarmEvent]) -> None:
            nonlocal away
            left = self._monotonic()
            self._give_way(machines, events)
            away += self._monotonic() - left

        try:
            if len(arrival.payload) <= SLICED_BYTES:
                other = pipeline.process(arrival.payload)
            else:
                other = pipeline.process_in_slices(arrival.payload, SLICE, give_way)
        except Exception:
            logger.exception("the challenger met an internal error and is switched off")
            self._challenger = None
            return
        comparison.add(outcome, other, seconds, self._monotonic() - began - away)
