"""The component as a whole: connects, configures, scores, reconnects, stops.

One thread supervises and is the only one that decides; callbacks and other threads tell it what happened through a queue
of events. It ends only when asked to (0), when it cannot start (1), or when only a restart by the nucleus can help (75).
A bad message, a bad new model, a bad new configuration, a missing permission or an absent cloud are no reasons.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ml_inference import __version__
from ml_inference.greengrass.connection import EXIT_CONNECTION_LOST, Connection
from ml_inference.greengrass.errors import CallFailedError, ConnectionLostError
from ml_inference.greengrass.listener import Listener
from ml_inference.greengrass.session import Connector, Session
from ml_inference.logs import Occurrences
from ml_inference.model.bundle import Model
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.serving import heap
from ml_inference.serving.control import Control
from ml_inference.serving.counters import Counters
from ml_inference.serving.exits import EXIT_STOPPED, ExitError
from ml_inference.serving.health import Health
from ml_inference.serving.intake import Intake
from ml_inference.serving.last_good import LastGood
from ml_inference.serving.memory import Memory
from ml_inference.serving.models import Models
from ml_inference.serving.outputs import Outputs
from ml_inference.serving.requests import ControlSubscription
from ml_inference.serving.rollout import Loaded, load_checked
from ml_inference.serving.settings import Settings, alarm_settings_of, judgement_of
from ml_inference.serving.subscription import InputSubscription
from ml_inference.serving.timing import Timing
from ml_inference.serving.updates import UpdateGate
from ml_inference.serving.worker import Worker

STATE_FOLDER = "state"
"""In the work directory: what is known of the machines."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


@dataclass(frozen=True, slots=True)
class _Lost:
    session: Session


@dataclass(frozen=True, slots=True)
class _ConfigurationChanged:
    pass


@dataclass(frozen=True, slots=True)
class _ConfigurationCheck:
    deployment_id: str
    proposed: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _ComponentUpdate:
    deployment_id: str


@dataclass(frozen=True, slots=True)
class _ModelLoaded:
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class _ChallengerLoaded:
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class _ModelInUse:
    model: Model


@dataclass(slots=True)
class _Due:
    """When the next look is due, in seconds of the clock."""

    configuration: float
    models: float


class Component:
    """The long-running inference component.

    Args:
        connector: Opens connections to the nucleus.
        thing_name: The device's name in AWS IoT.
        work_directory: Where the outbox lives; survives restarts and updates.
        overrides: Configuration that wins over the nucleus's, for local overrides.
        version: Of the deployment.
        timing: How long it waits for what.
        load: Checks and loads a model directory.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        thing_name: str,
        work_directory: Path,
        overrides: Mapping[str, Any] | None = None,
        version: str = __version__,
        timing: Timing | None = None,
        load: Callable[[Path, Sequence[str]], Model] = load_checked,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timing = timing = timing or Timing()
        self._monotonic = monotonic
        self._events: SimpleQueue[object] = SimpleQueue()
        put = self._events.put
        last_good = LastGood(work_directory / "last-good")
        self._settings = Settings(overrides or {}, last_good)
        self._intake = Intake(self._settings.current.max_queue, Counters(), monotonic=monotonic)
        self._outputs = Outputs(
            self._settings.current,
            thing_name=thing_name,
            work_directory=work_directory,
            answer=timing.cloud,
            monotonic=monotonic,
        )
        self._models = Models(
            lambda loaded: put(_ModelLoaded(loaded)),
            lambda loaded: put(_ChallengerLoaded(loaded)),
            load=load,
            last_good=last_good,
            served=timing.served,
            wait=timing.model_wait,
            monotonic=monotonic,
        )
        self._connection = Connection(
            connector,
            lambda session: put(_Lost(session)),
            monotonic=monotonic,
            timeout=timing.connect,
            first_pause=timing.first_reconnect,
            longest_pause=timing.longest_reconnect,
            limit=timing.reconnect_limit,
        )
        listener = Listener(self._intake.put, monotonic=monotonic, silence=timing.silence, patience=timing.patience)
        self._subscription = InputSubscription(
            listener,
            monotonic,
            pause=timing.listen_retry,
            longest_pause=timing.longest_listen_retry,
            grace=timing.listen_grace,
        )
        self._requests = ControlSubscription(
            Listener(self._request, monotonic=monotonic, silence=timing.control_silence, patience=timing.patience),
            monotonic,
        )
        self._updates = UpdateGate(monotonic, pause=timing.defer, longest=timing.longest_defer)
        self._health = Health(
            thing_name=thing_name,
            version=version,
            settings=self._settings,
            subscription=self._subscription,
            requests=self._requests,
            models=self._models,
            outputs=self._outputs,
            counters=self._intake.counters,
            monotonic=monotonic,
        )
        self._worker: Worker | None = None
        self._errors = Occurrences()
        self._due = _Due(monotonic() + timing.configuration_poll, monotonic() + timing.model_poll)

    def stop(self) -> None:
        """Ask it to stop. May be called from a signal handler or another thread."""
        self._connection.give_up()
        self._events.put(_Stop())

    def run(self) -> int:
        """Work until asked to stop.

        Returns:
            The exit code.
        """
        logger.info(
            "version %s: ml-inference %s on Python %s", self._health.version, __version__, platform.python_version()
        )
        try:
            while True:
                self._supervise()
        except ExitError as end:
            if end.code and not self._connection.given_up:
                logger.error("exit %d: %s", end.code, end)
            else:
                logger.info("stopping: %s", end)
            self._finish()
            # Asked to stop it waits for no answer any more, and what fails for that is no failure.
            return EXIT_STOPPED if self._connection.given_up else end.code

    def health(self) -> dict[str, Any]:
        """The health message at this moment."""
        return self._health.message(self._worker)

    # Events and due times.

    def _supervise(self) -> None:
        """One round; no internal error ends the component."""
        try:
            self._do_what_is_due()
            self._handle(self._next_event())
        except ExitError:
            raise
        except ConnectionLostError as error:
            raise ExitError(EXIT_CONNECTION_LOST, str(error)) from error
        except CallFailedError as error:
            self._disconnect(str(error))
        except Exception:
            if self._errors.add():
                logger.exception("%d internal errors in the supervision; the last", self._errors.count)
            if self._connection.session and not self._connection.confirmed:
                # What failed half-way through the beginning of a session is undone and tried again.
                self._disconnect("a session could not be begun")

    def _next_event(self) -> object | None:
        due = min(self._monotonic() + self._timing.tick, self._connection.next_attempt)
        try:
            return self._events.get(timeout=max(0.0, due - self._monotonic()))
        except Empty:
            return None

    def _handle(self, event: object | None) -> None:
        match event:
            case _Stop():
                raise ExitError(EXIT_STOPPED, "asked to stop")
            case _Lost(session) if session is self._connection.session:
                self._disconnect("the connection to the nucleus is lost")
            case _ConfigurationChanged():
                self._read_configuration()
            case _ConfigurationCheck(deployment_id, proposed):
                self._answer_check(deployment_id, proposed)
            case _ComponentUpdate(deployment_id):
                # More than the one that is always on its way: what the worker has taken out of the queue waits, too.
                recheck_after = self._updates.recheck_after(busy=self._intake.counters.snapshot().queued > 1)
                if self._connection.session:
                    self._connection.session.answer_component_update(deployment_id, recheck_after=recheck_after)
            case _ModelLoaded(loaded):
                self._take_model(loaded)
            case _ChallengerLoaded(loaded):
                self._take_challenger(loaded)
            case _ModelInUse(model):
                self._models.in_force = model
                self._models.begin_trial(self._intake.counters.snapshot().scored)
                self._publish_health()
                heap.trim()

    def _do_what_is_due(self) -> None:
        now = self._monotonic()
        self._models.require()
        if self._connection.session is None:
            session = self._connection.open()
            if session:
                self._begin(session)
            return
        if self._outputs.local.stalled_for() > self._timing.stall:
            self._disconnect(f"the nucleus has not answered for {self._timing.stall:g} s")
            return
        if now >= self._due.configuration:
            self._due.configuration = now + self._timing.configuration_poll
            self._read_configuration()
        if now >= self._due.models:
            self._due.models = now + self._timing.model_poll
            self._models.look()
            self._models.look_at_trial(self._intake.counters.snapshot().scored)
        due = now >= self._health.due
        if self._listen(self._connection.session) or due:
            self._publish_health()
        if due:
            heap.trim()

    # The connection.

    def _disconnect(self, reason: str) -> None:
        """Give the session up and schedule the next.

        Raises:
            ExitError: There has been none for too long.
        """
        self._subscription.forget()
        self._requests.forget()
        self._outputs.detach()
        try:
            self._connection.drop(reason)
        except ConnectionLostError as error:
            raise ExitError(EXIT_CONNECTION_LOST, str(error)) from error

    def _begin(self, session: Session) -> None:
        """Everything that a new session needs.

        Raises:
            CallFailedError: A required IPC call failed.
        """
        first = not self._settings.known
        self._read_configuration()
        self._watch(session, first=first)
        self._listen(session)
        self._outputs.attach(session)
        if self._worker:
            self._worker.resume()
        if not first:
            logger.info("connected again after %.1f s", self._connection.down_for)
        self._connection.confirm()
        self._publish_health()

    def _watch(self, session: Session, *, first: bool) -> None:
        put = self._events.put
        watches: tuple[tuple[Callable[[Callable[..., None]], None], Callable[..., object]], ...] = (
            (session.watch_configuration, _ConfigurationChanged),
            (session.watch_component_updates, _ComponentUpdate),
        )
        for watch, event in watches:
            try:
                watch(lambda *details, event=event: put(event(*details)))
            except CallFailedError as error:
                self._say_not_offered(error, first=first)
        self._be_asked(session, first=first)

    def _be_asked(self, session: Session, *, first: bool) -> None:
        """Whether the nucleus asks about configurations follows the configuration in force."""

        def on_check(deployment_id: str, proposed: dict[str, Any]) -> None:
            self._events.put(_ConfigurationCheck(deployment_id, proposed))

        try:
            self._updates.be_asked(session, on_check, wanted=self._settings.current.validate_configuration)
        except CallFailedError as error:
            self._say_not_offered(error, first=first)

    def _say_not_offered(self, error: CallFailedError, *, first: bool) -> None:
        # Nucleus lite has neither checks nor questions before updates, and can do without.
        logger.log(logging.INFO if first else logging.DEBUG, "not offered by this nucleus: %s", error)

    # Configuration.

    def _read_configuration(self) -> None:
        session = self._connection.session
        if session is None:
            return
        first = not self._settings.known
        try:
            tree = session.configuration()
        except CallFailedError as error:
            if first:
                raise
            logger.warning("%s", error)
            return
        if not self._settings.take(tree):
            return
        if self._settings.problem is None or first:
            self._apply()
        self._publish_health()

    def _apply(self) -> None:
        configuration = self._settings.current
        logging.getLogger("ml_inference").setLevel(configuration.log_level)
        self._intake.resize(configuration.max_queue)
        self._outputs.configure(configuration)
        challenged = self._models.want(configuration)
        if self._worker:
            self._worker.judge_by(judgement_of(configuration), alarm_settings_of(configuration))
            if not challenged:
                self._worker.challenge(None, judgement_of(configuration))
            self._subscription.want(configuration.input_topic)
            self._requests.want(configuration.control_topic)
            logger.info("a new configuration is in force")
            if self._connection.session:
                self._listen(self._connection.session)
                self._be_asked(self._connection.session, first=True)
            if self._subscription.settled:
                self._settings.keep()

    def _listen(self, session: Session) -> bool:
        """Listen to what the configuration wants; whether that changed anything."""
        changed = self._subscription.look(session)
        self._requests.look(session)
        if self._subscription.listening:
            self._health.state = "running"
        if changed and self._subscription.settled:  # the configuration has proved itself
            self._settings.keep()
        return changed

    def _request(self, payload: bytes) -> None:
        """A request about alarms; on the SDK's thread."""
        worker = self._worker
        if worker is not None:
            worker.request(payload, self._reply)

    def _reply(self, reply: dict[str, Any]) -> None:
        self._outputs.local.publish(self._outputs.router.reply(reply))

    def _answer_check(self, deployment_id: str, proposed: dict[str, Any]) -> None:
        problem = self._settings.check(proposed)
        if problem:
            logger.warning("deployment %s: its configuration is refused: %s", deployment_id, problem)
        if self._connection.session:
            self._connection.session.answer_configuration_check(deployment_id, problem)

    # Models.

    def _take_model(self, loaded: Loaded) -> None:
        model = self._models.take_champion(loaded)
        if model is None:
            self._publish_health()
        elif self._worker is None:
            self._start_work(model)
        else:
            self._worker.swap(model, lambda: self._events.put(_ModelInUse(model)))

    def _start_work(self, model: Model) -> None:
        self._models.in_force = model
        self._models.begin_trial(0)
        configuration = self._settings.current
        state = self._outputs.work_directory / STATE_FOLDER
        self._worker = Worker(
            intake=self._intake,
            pipeline=Pipeline(
                model,
                judgement_of(configuration),
                settings=alarm_settings_of(configuration),
                salt=self._health.thing_name,
            ),
            memory=Memory(state, self._monotonic, self._intake.known),
            control=Control(state),
            router=self._outputs.router,
            publish=self._outputs.local.publish,
            offer=self._outputs.offer,
            monotonic=self._monotonic,
        )
        heap.settle()
        self._worker.start()
        self._subscription.want(configuration.input_topic, self._settings.kept_input_topic())
        self._requests.want(configuration.control_topic)
        if self._connection.session:
            self._listen(self._connection.session)
        self._publish_health()

    def _take_challenger(self, loaded: Loaded) -> None:
        if self._worker and self._models.take_challenger(loaded):
            self._worker.challenge(loaded.model, judgement_of(self._settings.current))
            self._publish_health()

    # Health and the end.

    def _publish_health(self) -> None:
        self._health.publish(self._worker)

    def _finish(self) -> None:
        """Stop taking, finish what is queued, deliver or keep what is for the cloud: all within `Timing.stop`."""
        total = self._timing.stop
        deadline = self._monotonic() + total
        local, cloud = self._outputs.local, self._outputs.cloud
        self._health.state = "stopping"
        self._models.end()
        self._subscription.close()
        self._requests.close()
        self._intake.close()
        if self._connection.session is None:
            local.abandon()
        if self._worker and not self._worker.finish(timeout=0.6 * total):
            dropped = self._intake.drop_all()
            local.abandon()
            if not self._worker.finish(timeout=0.1 * total):
                dropped += self._intake.counters.end()
            logger.warning("%d queued messages were dropped: no time was left to score them", dropped)
        local.drain(max(0.0, deadline - self._monotonic() - 0.3 * total))
        if cloud:
            cloud.stop(max(0.0, deadline - self._monotonic() - 0.1 * total))
        self._outputs.close()
        self._publish_health()
        if not local.drain(max(0.0, deadline - self._monotonic())):
            logger.warning("%d local messages were not confirmed by the nucleus", local.unconfirmed)
        health = self.health()
        logger.info("stopped: %s", json.dumps({key: health[key] for key in ("counters", "cloud", "local")}))
        self._connection.close()
