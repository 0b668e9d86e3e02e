"""What can go wrong between a component and its nucleus, to order.

Each verb does one thing that a runtime, a socket or a network really does, and nothing of it may happen unless a verb asked for it. Verbs can be called from
any thread; they have taken effect when they return.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from greengrass_sandbox.cloud import IotCore
from greengrass_sandbox.profiles import Profile
from greengrass_sandbox.pubsub import LocalBroker, Subscription
from greengrass_sandbox.topics import Message

QUEUED_BEFORE_STALL: Final = 93
"""Messages of 1 kB that a socket on Linux holds for a subscriber that does not read; measured on nucleus lite 2.6.0."""

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Rule:
    """What happens to the next matching requests.

    Attributes:
        action: `never`: no answer. `late`: carried out and answered after `delay`. `event_first`: the response to a subscription waits for its first event.
        operation: Only for this operation, as `PublishToTopic`; None for all.
        component: Only for this component; None for all.
        times: For how many more requests; None for all that follow.
        delay: In seconds.
        carried_out: For `never`: whether the request is carried out all the same.
    """

    action: Literal["never", "late", "event_first", "refuse"]
    operation: str | None
    component: str | None
    times: int | None
    delay: float = 0.0
    carried_out: bool = False


@dataclass(frozen=True, slots=True)
class PendingFault:
    """A fault that still waits for requests or connections to befall.

    Attributes:
        verb: The verb that asked for it, such as `answer_never`.
        operation: The operation that it is for; None for all.
        component: The component that it is for; None for all.
        times: How many more times it happens; None until `clear()`.
    """

    verb: str
    operation: str | None
    component: str | None
    times: int | None


_VERBS: Final = {
    "never": "answer_never",
    "late": "answer_late",
    "event_first": "event_before_response",
    "refuse": "refuse_tokens",
}


class Rules:
    """What is in force at the moment; asked by the server at each connection and request."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._stalled: set[str | None] = set()
        self._stalled_changed = asyncio.Event()

    def add(self, rule: Rule) -> None:
        """Puts a rule into force."""
        self._rules.append(rule)

    def clear(self) -> None:
        """Ends all rules."""
        self._rules.clear()
        self.stall(set())

    def end(self, action: str) -> None:
        """Ends all rules of one kind."""
        self._rules = [rule for rule in self._rules if rule.action != action]

    def take(self, component: str, operation: str) -> Rule | None:
        """Returns the first rule for a request, and counts it."""
        return self._take(
            lambda rule: (
                rule.action != "refuse" and rule.component in (None, component) and rule.operation in (None, operation)
            )
        )

    def refuses(self, component: str) -> bool:
        """Whether a component's right token is to be refused; counts it."""
        return self._take(lambda rule: rule.action == "refuse" and rule.component in (None, component)) is not None

    @property
    def pending(self) -> list[PendingFault]:
        """The rules in force."""
        return [PendingFault(_VERBS[each.action], each.operation, each.component, each.times) for each in self._rules]

    @property
    def stalled(self) -> set[str | None]:
        """The components whose requests are not read; None stands for all."""
        return set(self._stalled)

    def stall(self, components: set[str | None]) -> None:
        """Sets whose requests are not read."""
        self._stalled = components
        changed, self._stalled_changed = self._stalled_changed, asyncio.Event()
        changed.set()

    async def wait_while_stalled(self, component: str) -> None:
        """Waits until a component's requests are read again."""
        while None in self._stalled or component in self._stalled:
            await self._stalled_changed.wait()

    def _take(self, fits: Callable[[Rule], bool]) -> Rule | None:
        rule = next(filter(fits, self._rules), None)
        if rule is not None and rule.times is not None:
            rule.times -= 1
            if rule.times <= 0:
                self._rules.remove(rule)
        return rule


class Target(Protocol):
    """What verbs act on: the nucleus."""

    profile: Profile
    local: LocalBroker
    iot_core: IotCore

    def drop_connections(self, component: str | None) -> int:
        """Drops connections at once; returns how many."""

    def forget_streams(self, component: str | None, operation: str | None) -> int:
        """Ends subscriptions without a word; returns how many."""

    def rotate_token(self, component: str | None) -> None:
        """Makes the tokens of so far worthless."""

    def inject_event(self, payload: bytes, operation: str, component: str | None) -> int:
        """Sends bytes as an event to subscriptions; returns to how many."""


class Faults:
    """The fault verbs of one nucleus.

    `component` is a component's name, `operation` an IPC operation's without its namespace (`PublishToTopic`); None stands for all. `times` is how often; None until :meth:`clear`.

    Args:
        target: The nucleus.
        rules: What the server asks.
    """

    def __init__(self, target: Target, rules: Rules) -> None:
        self._target = target
        self._rules = rules
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._slow: list[Callable[[], None]] = []

    def attach(self) -> None:
        """Takes the running loop for the nucleus's."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def pending(self) -> list[PendingFault]:
        """The faults that still wait for requests or connections; those that were asked for so many times go when they have happened."""
        return self._do(lambda: self._rules.pending)

    # The connection.

    def drop_connections(self, component: str | None = None) -> int:
        """Drops connections at once, as when the nucleus dies. Returns how many. The tokens stay good."""
        return self._do(lambda: self._target.drop_connections(component))

    def refuse_tokens(self, component: str | None = None, times: int | None = None) -> None:
        """Refuses new connections although their token is right, in the runtime's way."""
        self._do(lambda: self._rules.add(Rule("refuse", None, component, times)))

    def rotate_token(self, component: str | None = None) -> None:
        """Makes the token worthless, as a restart of the nucleus does. Open connections stay; the component's next start gets the new token."""
        self._do(lambda: self._target.rotate_token(component))

    def stop_reading(self, component: str | None = None) -> None:
        """Reads nothing more that comes from a component, on open and new connections; what it sends piles up in the socket. Events still go out."""
        self._do(lambda: self._rules.stall(self._rules.stalled | {component}))

    def resume_reading(self) -> None:
        """Ends :meth:`stop_reading`; what piled up is handled in order."""
        self._do(lambda: self._rules.stall(set()))

    # Requests.

    def answer_never(
        self,
        operation: str | None = None,
        component: str | None = None,
        times: int | None = None,
        *,
        carried_out: bool = False,
    ) -> None:
        """Does not answer requests: lost before they were carried out, or (`carried_out`) only the answer was lost."""
        self._do(lambda: self._rules.add(Rule("never", operation, component, times, carried_out=carried_out)))

    def answer_late(
        self, seconds: float, operation: str | None = None, component: str | None = None, times: int | None = None
    ) -> None:
        """Carries requests out and answers them so many seconds late; later ones overtake them."""
        self._do(lambda: self._rules.add(Rule("late", operation, component, times, delay=seconds)))

    def event_before_response(self, component: str | None = None, times: int | None = 1, within: float = 10.0) -> None:
        """Sends a subscription's first event before its response; after `within` seconds without an event the response goes out all the same."""
        for operation in ("SubscribeToTopic", "SubscribeToIoTCore", "SubscribeToConfigurationUpdate"):
            rule = Rule("event_first", operation, component, times, delay=within)
            self._do(lambda rule=rule: self._rules.add(rule))  # type: ignore[misc]

    def forget_streams(self, component: str | None = None, operation: str | None = None) -> int:
        """Closes subscriptions in silence: nothing tells the component, and no event comes any more. Returns how many."""
        return self._do(lambda: self._target.forget_streams(component, operation))

    def inject_event(
        self, payload: bytes | str, operation: str = "SubscribeToTopic", component: str | None = None
    ) -> int:
        """Sends bytes as the payload of an event on every matching subscription, whether or not they are a sensible event.

        Args:
            payload: The event's bytes, such as `{"binaryMessage": {"message": "AAAA"}}`; they are not checked.
            operation: The operation that subscribed.
            component: Only to this component.

        Returns:
            To how many subscriptions it was sent.
        """
        data = payload.encode() if isinstance(payload, str) else payload
        return self._do(lambda: self._target.inject_event(data, operation, component))

    # The cloud.

    def cloud_offline(self) -> None:
        """Cuts the network; the same as `iot_core.online = False`."""
        self._do(lambda: self._switch(online=False))

    def cloud_online(self) -> None:
        """Restores the network."""
        self._do(lambda: self._switch(online=True))

    def spool_full(self, *, full: bool = True) -> None:
        """Leaves no room in the spool, or the usual room again.

        Raises:
            ValueError: This runtime has no spool.
        """
        if self._target.profile.spool is None:
            raise ValueError("nucleus lite has no spool")
        self._do(lambda: setattr(self._target.iot_core, "spool_limit", 0 if full else self._target.profile.spool))

    def qos1_window(self, size: int) -> None:
        """Sets how many QoS 1 messages may be unacknowledged (10 by default); 0 refuses each.

        Raises:
            ValueError: This runtime spools and has no such window.
        """
        self._need_window()
        self._do(lambda: setattr(self._target.iot_core, "window", size))

    def withhold_acknowledgements(self, *, withhold: bool = True) -> None:
        """Lets the cloud acknowledge nothing, so that the window fills; or everything again.

        Raises:
            ValueError: This runtime spools and has no such window.
        """
        self._need_window()
        self._do(lambda: setattr(self._target.iot_core, "acknowledges", not withhold))

    # Other components.

    def slow_consumer(
        self, topic_filter: str = "#", after: int = QUEUED_BEFORE_STALL, seconds: float | None = None
    ) -> None:
        """Adds another component's subscriber that does not read.

        On lite it stops the whole nucleus at each matching message, once its socket is full; on classic its messages wait in memory and nobody notices.

        Args:
            topic_filter: What it listens to.
            after: Messages that fit into its socket.
            seconds: For how long each further message blocks; None for what the runtime does (lite: 5 s).
        """
        stall = (self._target.profile.send_timeout or 0.0) if seconds is None else seconds
        queued = 0

        async def deliver(_: Message, __: Any) -> None:
            nonlocal queued
            queued += 1
            if queued > after:
                await asyncio.sleep(stall)

        subscription = Subscription(topic_filter, "a slow consumer", own=True, deliver=deliver)
        self._do(lambda: self._slow.append(self._target.local.subscribe(subscription)))

    def clear(self) -> None:
        """Ends every fault that lasts. Dropped connections, rotated tokens and forgotten streams stay as they are."""
        self._do(self._clear)

    def _clear(self) -> None:
        cloud, profile = self._target.iot_core, self._target.profile
        self._rules.clear()
        cloud.spool_limit, cloud.window, cloud.acknowledges = profile.spool, profile.window, True
        cloud.online = True
        for end in self._slow:
            end()
        self._slow.clear()

    def _switch(self, *, online: bool) -> None:
        self._target.iot_core.online = online

    def _need_window(self) -> None:
        if self._target.profile.window is None:
            raise ValueError("the classic nucleus spools, it has no window")

    def _do(self, action: Callable[[], _Result]) -> _Result:
        """Runs an action on the nucleus's loop, whichever thread this is."""
        if self._loop is None:
            raise RuntimeError("the nucleus is not running")
        if threading.get_ident() == self._thread:
            return action()
        done: concurrent.futures.Future[_Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(action())
            except Exception as error:  # noqa: BLE001  it is raised where the verb was called
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result()
