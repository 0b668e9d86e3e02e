"""The component as a whole: connects, configures, scores, reconnects, stops.

One thread supervises and is the only one that decides; callbacks and other threads tell it what happened through a queue
of events. It exits only when asked to (0), when it cannot start (1), or when only a restart by the nucleus can help (75).
A bad message, a bad new model, a bad new configuration or an absent cloud are no reasons.
"""

from __future__ import annotations

import json
import logging
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ml_inference import __version__
from ml_inference.config import Configuration, ConfigurationError, parse_configuration
from ml_inference.delivery.cloud import CloudPublisher
from ml_inference.delivery.local import LocalPublisher
from ml_inference.delivery.outbox.outbox import Outbox
from ml_inference.delivery.routing import Router
from ml_inference.greengrass.listener import Listener
from ml_inference.greengrass.session import (
    CallFailedError,
    Connector,
    NucleusUnavailableError,
    Session,
    TokenRefusedError,
)
from ml_inference.model.bundle import Model
from ml_inference.scoring.pipeline import Pipeline, now
from ml_inference.scoring.readings import parse_timestamp
from ml_inference.serving.backoff import Backoff
from ml_inference.serving.counters import Counters
from ml_inference.serving.intake import Intake
from ml_inference.serving.last_good import LastGood
from ml_inference.serving.rollout import Loaded, ModelSlot, Source, artifact_model_directory, load_checked
from ml_inference.serving.settings import judgement_of
from ml_inference.serving.timing import Timing
from ml_inference.serving.worker import Worker

EXIT_STOPPED = 0
EXIT_CANNOT_START = 1
EXIT_CONNECTION_LOST = 75
"""EX_TEMPFAIL of sysexits.h: start me again."""

REFUSALS = 2
"""Handshakes in a row that must be refused before it is the token: nucleus lite refuses one by closing the connection, and a
connection also closes because the nucleus is just going down."""

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


class _ExitError(Exception):
    """The component has to end with a code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Component:
    """The long-running inference component.

    Args:
        connector: Opens connections to the nucleus.
        thing_name: The device's name in AWS IoT.
        work_directory: Where the outbox lives; survives restarts and updates.
        overrides: Configuration that wins over the nucleus's, for trying things.
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
        timing: Timing | None = None,
        load: Callable[[Path, Sequence[str]], Model] = load_checked,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connector = connector
        self._thing_name = thing_name
        self._outbox_path = work_directory / "outbox" / "outbox.sqlite"
        self._overrides = dict(overrides or {})
        self._timing = timing = timing or Timing()
        self._monotonic = monotonic
        self._events: SimpleQueue[object] = SimpleQueue()
        self._counters = Counters()
        self._started = monotonic()
        self._state = "starting"
        self._asked_to_stop = False

        self._configuration = Configuration()
        self._tree: Mapping[str, Any] | None = None
        self._configuration_problem: str | None = None
        self._router = Router(self._configuration, thing_name, monotonic, _message_ids())
        self._intake = Intake(self._configuration.max_queue, self._counters, monotonic=monotonic)
        self._local = LocalPublisher(monotonic)
        self._cloud: CloudPublisher | None = None
        self._worker: Worker | None = None

        self._last_good = LastGood(work_directory / "last-good")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._champion = ModelSlot(
            self._loader, lambda loaded: self._events.put(_ModelLoaded(loaded)), load, monotonic, self._last_good
        )
        self._challenger = ModelSlot(
            self._loader, lambda loaded: self._events.put(_ChallengerLoaded(loaded)), load, monotonic
        )
        self._model: Model | None = None
        self._model_problem: str | None = None
        self._give_up_at = inf
        self._challenger_problem: str | None = None

        self._session: Session | None = None
        self._refusals = 0
        self._reconnect = Backoff(monotonic, first=timing.first_reconnect, longest=timing.longest_reconnect)
        self._listener = Listener(
            self._intake.put, monotonic=monotonic, silence=timing.silence, patience=timing.patience
        )
        self._internal_errors = 0
        self._deferred_since: float | None = None
        self._health_at = 0.0
        self._poll_at = monotonic() + timing.configuration_poll
        self._look_at = monotonic() + timing.model_poll

    def stop(self) -> None:
        """Ask it to stop. May be called from a signal handler or another thread."""
        self._asked_to_stop = True
        self._connector.give_up()
        self._events.put(_Stop())

    def run(self) -> int:
        """Work until asked to stop.

        Returns:
            The exit code.
        """
        logger.info("ml-inference %s on Python %s", __version__, platform.python_version())
        try:
            while True:
                self._supervise()
        except _ExitError as end:
            if end.code and not self._asked_to_stop:
                logger.error("exit %d: %s", end.code, end)
            else:
                logger.info("stopping: %s", end)
            self._finish()
            # Asked to stop it waits for no answer any more, and what fails for that is no failure.
            return EXIT_STOPPED if self._asked_to_stop else end.code

    # Events.

    def _supervise(self) -> None:
        """One round; no error of ours ends the component."""
        try:
            self._do_what_is_due()
            self._handle(self._next_event())
        except _ExitError:
            raise
        except (CallFailedError, ConfigurationError) as error:
            self._disconnect(str(error))
        except Exception:
            self._internal_errors += 1
            if self._internal_errors & (self._internal_errors - 1) == 0:
                logger.exception("%d internal errors in the supervision; the last", self._internal_errors)

    def _next_event(self) -> object | None:
        due = [self._monotonic() + self._timing.tick]
        if self._session is None:
            due.append(self._reconnect.at)
        try:
            return self._events.get(timeout=max(0.0, min(due) - self._monotonic()))
        except Empty:
            return None

    def _handle(self, event: object | None) -> None:
        match event:
            case _Stop():
                raise _ExitError(EXIT_STOPPED, "asked to stop")
            case _Lost(session) if session is self._session:
                self._disconnect("the connection to the nucleus is lost")
            case _ConfigurationChanged():
                self._read_configuration()
            case _ConfigurationCheck(deployment_id, proposed):
                self._answer_check(deployment_id, proposed)
            case _ComponentUpdate(deployment_id):
                self._answer_update(deployment_id)
            case _ModelLoaded(loaded):
                self._take_model(loaded)
            case _ChallengerLoaded(loaded):
                self._take_challenger(loaded)
            case _ModelInUse(model):
                self._model = model
                self._tell_health()

    def _do_what_is_due(self) -> None:
        moment = self._monotonic()
        if moment >= self._give_up_at:
            raise _ExitError(EXIT_CANNOT_START, f"model {self._model_problem}")
        if self._session is None:
            if moment >= self._reconnect.at:
                self._connect()
            return
        if self._local.stalled_for() > self._timing.stall:
            self._disconnect(f"the nucleus has not answered for {self._timing.stall:g} s")
            return
        if moment >= self._poll_at:
            self._poll_at = moment + self._timing.configuration_poll
            self._read_configuration()
        if moment >= self._look_at:
            self._look_at = moment + self._timing.model_poll
            self._champion.look()
            self._challenger.look()
        self._listener.check()
        if moment >= self._health_at:
            self._tell_health()

    # The connection.

    def _connect(self) -> None:
        """Try once to open a session and begin on it; the next try is scheduled if nobody answers."""
        try:
            session = self._connector.open(lambda lost: self._events.put(_Lost(lost)), self._timing.connect)
        except TokenRefusedError as error:
            self._refusals += 1
            if self._refusals >= REFUSALS:
                raise _ExitError(EXIT_CONNECTION_LOST, f"{error}; a restart brings a new one") from error
            self._try_again(str(error))
            return
        except NucleusUnavailableError as error:
            self._try_again(str(error))
            return
        self._refusals = 0
        self._session = session
        self._begin(session)

    def _try_again(self, reason: str) -> None:
        self._reconnect.failed()
        if self._reconnect.lasted > self._timing.reconnect_limit:
            raise _ExitError(
                EXIT_CONNECTION_LOST, f"no connection to the nucleus for {self._reconnect.lasted:.0f} s: {reason}"
            )

    def _disconnect(self, reason: str) -> None:
        """Give the session up and schedule the next."""
        logger.warning("%s; connecting again", reason)
        session, self._session = self._session, None
        self._listener.forget()
        self._local.detach()
        if self._cloud:
            self._cloud.detach()
        if session:
            session.close(timeout=0.5)
        self._try_again(reason)

    def _begin(self, session: Session) -> None:
        """Everything that a new session needs.

        Raises:
            CallFailedError, ConfigurationError: The nucleus does not play along.
        """
        first = self._tree is None
        self._read_configuration(session)
        put = self._events.put
        watches: tuple[tuple[Callable[[Callable[..., None]], None], Callable[..., object]], ...] = (
            (session.watch_configuration, _ConfigurationChanged),
            (session.watch_configuration_checks, _ConfigurationCheck),
            (session.watch_component_updates, _ComponentUpdate),
        )
        for watch, event in watches:
            try:
                watch(lambda *details, event=event: put(event(*details)))
            except CallFailedError as error:
                # Optional: nucleus lite has none of the last two.
                logger.log(logging.INFO if first else logging.DEBUG, "not offered by this nucleus: %s", error)
        if self._cloud is None:  # before anything can be scored for it
            self._cloud = self._start_cloud()
        if self._worker:
            self._listen(session, self._configuration.input_topic)
        self._local.attach(session)
        self._cloud.attach(session)
        if not first:
            logger.info("connected again after %.1f s", self._reconnect.lasted)
        self._reconnect.succeeded()
        self._tell_health()

    def _start_cloud(self) -> CloudPublisher:
        path, maximum = self._outbox_path, self._configuration.outbox_max_megabytes * 1_000_000
        cloud = CloudPublisher(
            lambda: Outbox(path, max_bytes=maximum),
            qos=self._configuration.cloud_qos,
            monotonic=self._monotonic,
            answer=self._timing.cloud,
        )
        cloud.start()
        return cloud

    # Configuration.

    def _read_configuration(self, session: Session | None = None) -> None:
        session = session or self._session
        if session is None:
            return
        try:
            tree = session.configuration()
        except CallFailedError as error:
            if self._tree is None:
                raise
            logger.warning("%s", error)
            return
        if tree == self._tree:
            return
        first = self._tree is None
        try:
            configuration = parse_configuration(tree | self._overrides)
            if self._worker:
                self._listen(session, configuration.input_topic)
        except ConfigurationError as error:
            self._tree = tree
            if first:
                self._apply(self._last_good_configuration(error))
                return
            self._configuration_problem = str(error)
            logger.error("the new configuration is refused, the old one stays in force: %s", error)
            self._tell_health()
            return
        self._tree = tree
        self._configuration_problem = None
        self._apply(configuration)
        if self._worker:
            self._last_good.keep_configuration(tree)

    def _last_good_configuration(self, problem: ConfigurationError) -> Configuration:
        """The configuration that was in force before this start, in place of one that is refused."""
        tree = self._last_good.configuration()
        self._configuration_problem = str(problem)
        try:
            if tree is None:
                raise problem
            configuration = parse_configuration(tree | self._overrides)
        except ConfigurationError as error:
            raise _ExitError(EXIT_CANNOT_START, f"configuration: {problem}") from error
        logger.error("the configuration is refused, the one that was last in force stays: %s", problem)
        return configuration

    def _apply(self, configuration: Configuration) -> None:
        before, self._configuration = self._configuration, configuration
        logging.getLogger("ml_inference").setLevel(configuration.log_level)
        self._router.configuration = configuration
        self._intake.resize(configuration.max_queue)
        if self._cloud:
            self._cloud.configure(
                qos=configuration.cloud_qos, outbox_bytes=configuration.outbox_max_megabytes * 1_000_000
            )
        if self._worker:
            self._worker.judge_by(judgement_of(configuration))
            logger.info("a new configuration is in force")
        keys = tuple(configuration.trusted_keys)
        directory = configuration.model_directory
        self._champion.want(Source(Path(directory) if directory else artifact_model_directory(), keys))
        self._challenger.want(Source(Path(configuration.challenger), keys) if configuration.challenger else None)
        if not configuration.challenger and before.challenger and self._worker:
            self._worker.challenge(None, judgement_of(configuration))
            self._challenger_problem = None
        self._tell_health()

    def _listen(self, session: Session, topic: str) -> None:
        """Listen on a topic, if that is not so already; then the component is running, and its configuration has proved itself.

        Raises:
            ConfigurationError: The nucleus refuses; what was listened to before still is.
            CallFailedError: It does not answer.
        """
        if self._listener.topic == topic:
            return
        try:
            self._listener.listen(session, topic)
        except CallFailedError as error:
            if error.refused:
                raise ConfigurationError(f"InputTopic: {error}") from error
            raise
        self._state = "running"
        if self._tree is not None and not self._configuration_problem:
            self._last_good.keep_configuration(self._tree)

    def _answer_check(self, deployment_id: str, proposed: dict[str, Any]) -> None:
        problem = None
        try:
            parse_configuration(proposed | self._overrides)
        except ConfigurationError as error:
            problem = str(error)
            logger.warning("deployment %s: its configuration is refused: %s", deployment_id, problem)
        if self._session:
            self._session.answer_configuration_check(deployment_id, problem)

    def _answer_update(self, deployment_id: str) -> None:
        """Let a deployment wait for the queue, but not for long."""
        moment = self._monotonic()
        if self._deferred_since is None:
            self._deferred_since = moment
        busy = len(self._intake) > 0 and moment - self._deferred_since < self._timing.longest_defer
        if not busy:
            self._deferred_since = None
        if self._session:
            self._session.answer_component_update(deployment_id, recheck_after=self._timing.defer if busy else 0)

    # Models.

    def _take_model(self, loaded: Loaded) -> None:
        if loaded.source != self._champion.source:
            return  # asked for before a newer wish
        self._model_problem = f"{loaded.source.directory}: {loaded.problem}" if loaded.problem else None
        self._give_up_at = inf
        if loaded.model is None:
            if self._worker:
                logger.error("the new model is refused, the old one goes on: %s", self._model_problem)
            elif loaded.missing:
                self._give_up_at = self._monotonic() + self._timing.model_wait
                logger.warning("waiting for the model: %s", self._model_problem)
            elif loaded.unchecked:
                logger.warning("no model yet: %s", self._model_problem)
            else:
                raise _ExitError(EXIT_CANNOT_START, f"model {self._model_problem}")
            self._tell_health()
            return
        if loaded.problem:
            logger.error("the model is refused, the one that was last in force goes on: %s", self._model_problem)
        model = loaded.model
        logger.info("model %s %s is ready: %s", model.manifest.name, model.manifest.version, model.directory)
        if self._worker is None:
            self._start_work(model)
        else:
            self._worker.swap(model, lambda: self._events.put(_ModelInUse(model)))

    def _start_work(self, model: Model) -> None:
        self._model = model
        pipeline = Pipeline(model, judgement_of(self._configuration))
        self._worker = Worker(
            intake=self._intake,
            pipeline=pipeline,
            router=self._router,
            counters=self._counters,
            publish=self._local.publish,
            offer=self._offer,
            monotonic=self._monotonic,
        )
        self._worker.start()
        if self._session:
            try:
                self._listen(self._session, self._configuration.input_topic)
            except ConfigurationError as error:
                self._apply(self._last_good_configuration(error))
                try:
                    self._listen(self._session, self._configuration.input_topic)
                except ConfigurationError as second:
                    raise _ExitError(EXIT_CANNOT_START, str(second)) from second
        self._tell_health()

    def _offer(self, messages: Any, unwanted: int) -> None:
        if self._cloud:
            self._cloud.offer(messages, unwanted)

    def _take_challenger(self, loaded: Loaded) -> None:
        if loaded.source != self._challenger.source or self._worker is None:
            return
        self._challenger_problem = loaded.problem
        if loaded.problem:
            logger.error("the challenger is refused: %s", loaded.problem)
        self._worker.challenge(loaded.model, judgement_of(self._configuration))
        self._tell_health()

    # Health.

    def health(self) -> dict[str, Any]:
        """The health message: what the component is doing, with which model, and the accounting."""
        with self._counters.lock:
            counts = self._counters.snapshot()
            cloud = self._cloud.counts() if self._cloud else None
        model = self._model
        problems = {
            "configuration": self._configuration_problem,
            "model": self._model_problem,
            "challenger": self._challenger_problem,
            "cloud": self._cloud.problem if self._cloud else None,
        }
        message: dict[str, Any] = {
            "state": self._state,
            "timestamp": parse_timestamp(now()),
            "thing_name": self._thing_name,
            "component_version": __version__,
            "uptime_seconds": round(self._monotonic() - self._started, 1),
            "model": {
                "name": model.manifest.name,
                "version": model.manifest.version,
                "directory": str(model.directory),
                "threshold": judgement_of(self._configuration).threshold_for(model.manifest),
            }
            if model
            else None,
            "counters": counts.as_message(),
            "cloud": (cloud.as_message() | {"offline": self._cloud.offline}) if cloud and self._cloud else None,
            "local": {"published": self._local.published, "failed": self._local.failed},
            "problems": {key: text[:500] for key, text in problems.items() if text},
        }
        if self._cloud and self._cloud.recovery:
            message["problems"]["outbox"] = "; ".join(self._cloud.recovery)[:500]
        return message | (self._worker.as_message() if self._worker else {})

    def _tell_health(self) -> None:
        sent = self._local.try_publish(self._router.health(self.health()))
        self._health_at = self._monotonic() + (self._configuration.health_interval_seconds if sent else 1.0)

    # The end.

    def _finish(self) -> None:
        """Stop taking, finish what is queued, deliver or keep what is for the cloud: all within `Timing.stop`."""
        total = self._timing.stop
        deadline = self._monotonic() + total
        self._state = "stopping"
        self._listener.close()
        self._intake.close()
        if self._session is None:
            self._local.abandon()
        if self._worker and not self._worker.finish(timeout=0.6 * total):
            dropped = self._intake.give_up_all()
            self._local.abandon()
            self._worker.finish(timeout=0.1 * total)
            logger.warning("%d queued messages were dropped: no time was left to score them", dropped)
        self._local.drain(max(0.0, deadline - self._monotonic() - 0.3 * total))
        if self._cloud:
            self._cloud.stop(max(0.0, deadline - self._monotonic() - 0.1 * total))
        self._tell_health()
        if not self._local.drain(max(0.0, deadline - self._monotonic())):
            logger.warning("%d local messages were not confirmed by the nucleus", self._local.unconfirmed)
        health = self.health()
        logger.info("stopped: %s", json.dumps({key: health[key] for key in ("counters", "cloud", "local")}))
        if self._session:
            self._session.close(timeout=0.2)


def _message_ids() -> Callable[[], str]:
    """Ids that no other process and no other device gives."""
    prefix, numbers = uuid.uuid4().hex[:16], count(1)
    return lambda: f"{prefix}-{next(numbers)}"
