"""The component as a whole: sources, assembly and outputs of the mapping in force, and the connection to the nucleus.

Three kinds of threads: each source has one, the pump makes readings and sends them, and the main one keeps the connection and the
configuration. It ends with 0 when asked to, 1 when it cannot start, 75 when only a restart by the nucleus can help. A bad message, a
broker that is away or a bad new mapping are no reasons to end.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Table
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NoReturn

from inference_bridge import unsent
from inference_bridge.accounts import Examples, ReadingCounts, ValueCounts
from inference_bridge.extract import Sample
from inference_bridge.health import encode, health_message
from inference_bridge.intake import Intake
from inference_bridge.mapping import Mapping
from inference_bridge.outbox import Outbox
from inference_bridge.outputs import Outputs
from inference_bridge.settings import Settings, SettingsError, parse_settings, read_mapping
from inference_bridge.sources import Source, SourceError, make_source
from ml_inference.greengrass.connection import EXIT_CONNECTION_LOST, Connection
from ml_inference.greengrass.errors import CallFailedError, ConnectionLostError, NucleusUnavailableError
from ml_inference.greengrass.hearing import Hearing
from ml_inference.greengrass.session import Connector, Session
from ml_inference.logs import log_to_nucleus
from ml_inference.version import deployed_version

EXIT_CANNOT_START = 1
PUMP_SECONDS = 0.02
"""Between looks for readings that are due: a reading has to leave within 200 ms."""
POLL_SECONDS = 30.0
"""Between looks at the configuration: on nucleus lite its events can die in silence."""
SILENCE_SECONDS = 60.0
"""Without a result or an alarm, after which its subscription is renewed: on nucleus lite it can die in silence."""
DRAIN_SECONDS = 2.5
"""For sources to end and the last readings to be taken, once it is asked to stop; the nucleus kills after 5 s."""
JOIN_SECONDS = 1.0

logger = logging.getLogger(__name__)


def run(options: Sequence[str], fail: Callable[[str], NoReturn]) -> int:
    """Run the component; what the recipe starts.

    Args:
        options: `KEY=VALUE` of configuration that wins over the nucleus's.
        fail: Ends the process because of a wrong option.

    Returns:
        The exit code.
    """
    overrides = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            fail(f"--set {text}: expected KEY=VALUE")
        overrides[key] = value
    log_to_nucleus()
    for noisy in ("asyncua", "pymodbus"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # they log each attempt to connect, with a traceback
    try:
        connector = Connector()
    except NucleusUnavailableError as error:
        logger.error("%s", error)
        return EXIT_CANNOT_START
    return Application(connector, overrides, Path.cwd()).run()


class Line:
    """A mapping at work: its sources, what they say, and its outputs.

    Args:
        mapping: The mapping.
        settings: The configuration.
        secret: Asks the nucleus for a secret.
        values: Counts to go on with.
        examples: Names to go on with.
        lock: Of the counts.
    """

    def __init__(  # noqa: PLR0917 - what one mapping hands to the next
        self,
        mapping: Mapping,
        settings: Settings,
        secret: Callable[[str], str],
        values: ValueCounts,
        examples: Examples,
        lock: Lock,
    ) -> None:
        self.intake = Intake(mapping, max_machines=settings.max_machines, values=values, examples=examples, lock=lock)
        self._secret = secret
        self._features = {name: position for position, name in enumerate(mapping.features)}
        self.sources: dict[str, Source] = {
            configuration.name: make_source(configuration, self) for configuration in mapping.sources
        }
        self.outputs: Outputs | None = None
        if mapping.outputs:
            self.outputs = Outputs(mapping, self.sources, os.environ.get("AWS_IOT_THING_NAME", ""))

    def start(self) -> None:
        """Begin."""
        for source in self.sources.values():
            source.start()

    def stop(self) -> None:
        """Stop the outputs, then the sources; returns when no more values come."""
        if self.outputs is not None:
            self.outputs.stop()
        for source in self.sources.values():
            source.stop()
        until = time.monotonic() + JOIN_SECONDS
        for source in self.sources.values():
            source.join(max(0.0, until - time.monotonic()))

    # What sources say; see `inference_bridge.sources.base.Events`.

    def message(self, source: str, topic: str, payload: bytes) -> None:
        """A message came."""
        self.intake.message(source, topic, payload)

    def retained(self, source: str) -> None:
        """A message came that the broker had kept from before."""
        self.intake.retained(source)

    def samples(self, source: str, samples: Iterable[Sample]) -> None:
        """Values came."""
        self.intake.samples(source, samples)

    def missed(self, source: str, count: int) -> None:
        """Messages or values never came."""
        self.intake.missed(source, count)

    def connected(self, source: str, *, connected: bool) -> None:
        """A source has its connection, or lost it."""
        self.intake.connected(source, connected=connected)

    def feature(self, name: str) -> int:
        """Position of a feature."""
        return self._features[name]

    def sample(self, machine: str, feature: int, value: Any, time: float | None, problem: str = "") -> Sample:
        """A value of a machine as the source names it."""
        return self.intake.names.sample(machine, feature, value, time, problem)

    def secret(self, name: str) -> str:
        """A secret of the nucleus's secret manager."""
        return self._secret(name)


class Application:
    """Everything, put together.

    Args:
        connector: Opens connections to the nucleus.
        overrides: Configuration that wins over the nucleus's.
        work: The work directory, where readings wait for the next process.
    """

    def __init__(self, connector: Connector, overrides: Table[str, str], work: Path) -> None:
        self._work = work
        self._lock = Lock()
        self._connector = connector
        self._overrides = overrides
        self._events: SimpleQueue[object] = SimpleQueue()
        self._values, self._examples, self._readings = ValueCounts(), Examples(), ReadingCounts()
        self._outbox = Outbox(self._readings, max_bytes=16_000_000)
        self._settings = Settings()
        self._mapping: Mapping | None = None
        self._configured = False
        self._line: Line | None = None
        self._session: Session | None = None
        self._problems: dict[str, str] = {}
        self._ears: dict[str, _Ear] = {}
        self._stopping = Event()

    def run(self) -> int:
        """Run until asked to stop, or until it cannot go on; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        # What a message becomes is gone when it has been counted, and there are no cycles in it.
        gc.set_threshold(50_000, 20, 100)
        gc.freeze()
        self._outbox.take_over(unsent.take(self._work))
        pump = Thread(target=self._pump, name="pump", daemon=True)
        pump.start()
        try:
            code = self._supervise()
        except Exception:
            logger.exception("internal error")
            code = EXIT_CONNECTION_LOST
        self._finish(pump)
        return code

    def _asked_to_stop(self, *_: object) -> None:
        self._connector.give_up()  # no call waits any longer; what was published is still answered
        self._events.put("stop")

    def _finish(self, pump: Thread) -> None:
        until = time.monotonic() + DRAIN_SECONDS
        line, self._line = self._line, None
        if line is not None:
            line.stop()
            self._outbox.put(line.intake.close())
        while self._session is not None and not self._outbox.empty and time.monotonic() < until:
            time.sleep(PUMP_SECONDS)
        self._stopping.set()
        pump.join(JOIN_SECONDS)
        self._outbox.keep_all(partial(unsent.keep, self._work))
        self._say_health(line, state="stopped")
        with_messages = {name: vars_of(counts) for name, counts in line.intake.messages.items()} if line else {}
        accounts = {"messages": with_messages, "values": vars_of(self._values), "readings": vars_of(self._readings)}
        logger.info("ended: %s", json.dumps(accounts))
        if self._session is not None:
            self._session.close(0.5)

    # The connection and the configuration: the main thread.

    def _supervise(self) -> int:
        connection = Connection(self._connector, self._events.put, monotonic=time.monotonic)
        try:
            while True:
                session = connection.open()
                if session is None:
                    if self._next_event(connection.next_attempt - time.monotonic()) == "stop":
                        return 0
                    continue
                reason = "the connection to the nucleus is lost"
                try:
                    code = self._converse(session, connection)
                    if code is not None:
                        return code
                except CallFailedError as error:
                    reason = str(error)
                self._session = None
                self._ears.clear()
                self._outbox.lost()
                connection.drop(reason)
        except ConnectionLostError as error:
            logger.error("%s", error)
            return EXIT_CONNECTION_LOST

    def _next_event(self, seconds: float) -> object:
        try:
            # Never for long: Python does not end a wait for a signal that comes the moment before it begins.
            return self._events.get(timeout=min(max(0.0, seconds), 1.0))
        except Empty:
            return None

    def _converse(self, session: Session, connection: Connection) -> int | None:
        """What happens on one connection; an exit code, or None when it is lost."""
        session.watch_configuration(lambda: self._events.put("configuration"))
        self._session = session
        if not self._configure(session) and not self._configured:
            return EXIT_CANNOT_START
        connection.confirm()
        logger.info("connected to the nucleus")
        due = time.monotonic() + POLL_SECONDS
        while True:
            self._listen(session)
            event = self._next_event(due - time.monotonic())
            if event == "stop":
                return 0
            if event is session:
                return None
            if event == "configuration" or time.monotonic() >= due:
                due = time.monotonic() + POLL_SECONDS
                self._configure(session)

    def _configure(self, session: Session) -> bool:
        """Put the nucleus's configuration in force; whether it could be."""
        try:
            settings = parse_settings({**session.configuration(), **self._overrides})
            mapping = read_mapping(settings)
            if self._configured and settings == self._settings and mapping == self._mapping:
                self._problems.pop("configuration", None)
                return True
            line = self._new_line(settings, mapping)
        except (SettingsError, SourceError) as error:
            if self._problems.get("configuration") != str(error):
                logger.error("configuration: %s", error)
            self._problems["configuration"] = str(error)[:1000]
            return False
        self._problems.pop("configuration", None)
        logging.getLogger().setLevel(settings.log_level)
        before, self._line = self._line, None
        if before is not None:
            before.stop()
            self._outbox.put(before.intake.close())
        self._outbox.max_bytes = settings.max_queue_megabytes * 1_000_000
        self._settings, self._mapping = settings, mapping
        for ear in self._ears.values():
            ear.close()
        self._ears.clear()
        if line is None:
            logger.warning("no mapping yet: set Mapping or MappingFile")
        else:
            line.start()
            logger.info(
                "sources: %s",
                ", ".join(f"{source.name} ({source.type})" for source in mapping.sources) if mapping else "",
            )
        self._line = line
        self._configured = True  # last: the pump then says how all of it is
        return True

    def _new_line(self, settings: Settings, mapping: Mapping | None) -> Line | None:
        if mapping is None:
            return None
        return Line(mapping, settings, self._secret, self._values, self._examples, self._lock)

    def _secret(self, name: str) -> str:
        session = self._session
        if session is None:
            raise SourceError("the secret manager is out of reach")
        try:
            return session.secret(name)
        except CallFailedError as error:
            raise SourceError(str(error)) from None

    def _listen(self, session: Session) -> None:
        """Hear results and alarms, where the mapping has an output for them."""
        line = self._line
        if line is None or line.outputs is None:
            return
        for kind, topic in (("result", self._settings.result_topic), ("alarm", self._settings.alarm_topic)):
            ear = self._ears.get(kind)
            if ear is None:
                ear = self._ears[kind] = _Ear(kind, topic, line.outputs)
            problem = ear.listen(session)
            if problem is None:
                self._problems.pop(topic, None)
            elif self._problems.get(topic) != problem:
                logger.error("%s (is the topic in accessControl?); trying again", problem)
                self._problems[topic] = problem

    # Readings and health: the pump's thread.

    def _pump(self) -> None:
        health_due = 0.0
        said: object = None
        while not self._stopping.wait(PUMP_SECONDS):
            try:
                line, session = self._line, self._session
                if line is not None:
                    readings = line.intake.due()
                    if readings:
                        self._outbox.put(readings)
                if session is not None:
                    self._outbox.send(session, self._settings.input_topic)
                states = self._states(line)
                if session is not None and self._configured and (time.monotonic() >= health_due or states != said):
                    health_due, said = time.monotonic() + self._settings.health_interval_seconds, states
                    self._say_health(line)
            except Exception:
                logger.exception("internal error")
                self._stopping.wait(1.0)

    def _states(self, line: Line | None) -> tuple[list[str], dict[str, str]]:
        sources = line.sources.values() if line is not None else ()
        return [source.state for source in sources], self._all_problems()

    def _all_problems(self) -> dict[str, str]:
        problems = dict(self._problems)
        if self._outbox.problem:
            problems["readings"] = self._outbox.problem
        return problems

    def _say_health(self, line: Line | None, *, state: str = "") -> None:
        session = self._session
        if session is None:
            return
        message = health_message(
            version=deployed_version(),
            intake=line.intake if line else None,
            readings=self._readings,
            sources=line.sources if line else {},
            outputs=line.outputs if line else None,
            problems=self._all_problems(),
        )
        if state:
            message["state"] = state

        def answered(failure: Any) -> None:
            if failure is not None and self._problems.get("health") != failure.text:
                self._problems["health"] = failure.text
                logger.warning("the health message cannot be published: %s", failure.text)
            elif failure is None:
                self._problems.pop("health", None)

        session.publish_local(self._settings.health_topic, encode(message), answered)


class _Ear:
    """A subscription that is renewed when it stays silent."""

    def __init__(self, kind: str, topic: str, outputs: Outputs) -> None:
        self._kind, self._topic, self._outputs = kind, topic, outputs
        self._hearing = Hearing(self._take)
        self._heard = time.monotonic()

    def listen(self, session: Session) -> str | None:
        """Subscribe if it is needed; why that is refused, if it is.

        Raises:
            CallFailedError: The nucleus does not answer.
        """
        if self._hearing.subscription is not None and time.monotonic() - self._heard < SILENCE_SECONDS:
            return None
        try:
            self._hearing.listen(session, self._topic)
        except CallFailedError as error:
            if error.refused:
                return str(error)
            raise
        self._heard = time.monotonic()
        return None

    def close(self) -> None:
        """Stop listening."""
        self._hearing.close()

    def _take(self, payload: bytes) -> None:
        self._heard = time.monotonic()
        self._outputs.take(self._kind, payload)


def vars_of(counts: Any) -> dict[str, int]:
    """Counts by name."""
    return {name: getattr(counts, name) for name in counts.__slots__}
