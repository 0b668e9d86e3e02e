"""AWS IoT Core, inside the process: what devices publish is kept and can be watched, and the way to it can be cut.

On the classic runtime a publish that succeeds is *spooled*: while offline it waits in a spool of limited size, in memory and in order. Lite has no spool: a
publish succeeds when it is written to the socket, offline it fails at once, and at most ten QoS 1 messages may be unacknowledged: what is on its
way when the connection goes is lost. Nothing here leaves the process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from greengrass_sandbox.profiles import Profile
from greengrass_sandbox.topics import Message, Tap, has_wildcard, matches

KEPT_MESSAGES: Final = 100_000
"""How many of the messages that reached the cloud are kept; the oldest go first."""

ROUND_TRIP: Final = 0.049
"""Seconds until a QoS 1 message is acknowledged: with a window of ten, the 205 messages/s measured on nucleus lite 2.6.0."""

Deliver = Callable[[Message], Awaitable[None]]


class CloudError(Exception):
    """The runtime did not take a message or a subscription for the cloud."""


class IotCore:
    """The cloud side of one nucleus.

    Args:
        profile: How the runtime treats messages for the cloud.
        stamp: Gives a message its order and its time.
        tap_options: Options of the taps that `watch` returns.

    Attributes:
        messages: What reached the cloud from the device, in order (the last 100,000).
        round_trip: Seconds until a QoS 1 message is acknowledged.
        window: How many QoS 1 messages may be unacknowledged; None for any number. Changed by fault verbs.
        spool_limit: Bytes that wait while offline; None where there is no spool. Changed by fault verbs.
        acknowledges: Whether the cloud acknowledges QoS 1 messages at all. Changed by fault verbs.
    """

    def __init__(
        self, profile: Profile, stamp: Callable[[], tuple[int, float]], tap_options: Mapping[str, Any] | None = None
    ) -> None:
        self._profile = profile
        self._tap_options = tap_options or {}
        self._stamp = stamp
        self._online = True
        self._taps: list[tuple[str, Tap[Message]]] = []
        self._subscriptions: list[tuple[str, Deliver]] = []
        self._spool: deque[Message] = deque()
        self._draining: asyncio.Task[None] | None = None
        self._unacknowledged: deque[int] = deque()
        self._on_its_way: deque[tuple[float, Message]] = deque()
        self._carrying: asyncio.Task[None] | None = None
        self._connection = 0
        self._acknowledges = True
        self.messages: deque[Message] = deque(maxlen=KEPT_MESSAGES)
        self.round_trip = ROUND_TRIP
        self.window = profile.window
        self.spool_limit = profile.spool

    @property
    def online(self) -> bool:
        """Whether the device reaches the cloud. Back online, what was spooled is delivered in order."""
        return self._online

    @online.setter
    def online(self, value: bool) -> None:
        self._online = value
        if not value:
            self._lose_what_is_on_its_way()
            return
        self._acknowledge_later()
        if self._spool and (self._draining is None or self._draining.done()):
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    @property
    def acknowledges(self) -> bool:
        """Whether the cloud acknowledges QoS 1 messages; when it does again, what waited is acknowledged after one round trip."""
        return self._acknowledges

    @acknowledges.setter
    def acknowledges(self, value: bool) -> None:
        self._acknowledges = value
        if value:
            self._acknowledge_later()

    @property
    def spooled(self) -> int:
        """Bytes of payload that wait for the cloud."""
        return sum(len(message.payload) for message in self._spool)

    def watch(self, topic_filter: str = "#") -> Tap[Message]:
        """Returns a tap of what reaches the cloud on matching topics from now on. It holds 10,000 messages; the oldest go first."""
        tap: Tap[Message] = Tap(lambda closed: self._taps.remove((topic_filter, closed)), **self._tap_options)
        self._taps.append((topic_filter, tap))
        return tap

    @property
    def taps(self) -> list[Tap[Message]]:
        """The open taps."""
        return [tap for _, tap in self._taps]

    async def publish(self, topic: str, payload: bytes) -> int:
        """Publishes from the cloud to the device; lost while the device is offline.

        Returns:
            How many subscriptions of components it went to.

        Raises:
            ValueError: The topic holds a wildcard.
        """
        if has_wildcard(topic):
            raise ValueError(f"no publishing to a topic filter: {topic!r}")
        if not self._online:
            return 0
        order, time = self._stamp()
        return await self._route(Message(topic, payload, "binary", None, order, time, 1))

    async def take(self, component: str, topic: str, payload: bytes, qos: int) -> None:
        """Takes a message that a component publishes.

        Raises:
            CloudError: The runtime refuses it: offline without a spool, the spool or the window is full.
        """
        order, time = self._stamp()
        message = Message(topic, payload, "binary", component, order, time, qos)
        if self.spool_limit is not None:
            await self._spool_or_deliver(message, self.spool_limit)
            return
        if not self._online:
            raise CloudError("")  # lite says nothing more
        if qos > 0:
            self._occupy_window(len(payload))
        loop = asyncio.get_running_loop()
        self._on_its_way.append((loop.time() + min(self.round_trip, ROUND_TRIP) / 2, message))
        if self._carrying is None or self._carrying.done():
            self._carrying = loop.create_task(self._carry())

    def subscribe(self, topic_filter: str, deliver: Deliver) -> Callable[[], None]:
        """Subscribes a component.

        Returns:
            What ends the subscription.

        Raises:
            CloudError: The device is offline.
        """
        if not self._online:
            raise CloudError("")
        entry = (topic_filter, deliver)
        self._subscriptions.append(entry)

        def end() -> None:
            if entry in self._subscriptions:
                self._subscriptions.remove(entry)

        return end

    def restart(self) -> None:
        """Forgets what a nucleus that ends forgets: the spool, which is in memory, and what is on its way."""
        self._spool.clear()
        self._lose_what_is_on_its_way()
        self._subscriptions.clear()

    async def settle(self) -> None:
        """Waits until what is on its way has arrived or was lost."""
        if self._carrying is not None:
            await asyncio.wait({self._carrying})

    def close(self) -> None:
        """Ends every tap and whatever is still being delivered."""
        for task in (self._draining, self._carrying):
            if task is not None:
                task.cancel()
        for _, tap in list(self._taps):
            tap.close()

    async def _spool_or_deliver(self, message: Message, limit: int) -> None:
        if not self._online and message.qos == 0:
            raise CloudError("The device is offline, and QoS 0 messages are not kept")
        if self.spooled + len(message.payload) > limit:
            raise CloudError("The spool is full")
        if self._online and not self._spool:
            await self._deliver(message)
        else:
            self._spool.append(message)

    async def _drain(self) -> None:
        while self._spool and self._online:
            await self._deliver(self._spool[0])
            self._spool.popleft()

    async def _carry(self) -> None:
        """Brings what is on its way to the cloud, half a round trip after it was sent."""
        while self._on_its_way:
            due, _ = self._on_its_way[0]
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            # The connection may have been lost meanwhile, and what was on its way with it.
            if self._on_its_way and self._on_its_way[0][0] == due:
                await self._deliver(self._on_its_way.popleft()[1])

    def _lose_what_is_on_its_way(self) -> None:
        """Lite's connection is a clean session: nothing is sent again after it. Classic's spooler holds on to its messages."""
        self._on_its_way.clear()
        self._unacknowledged.clear()
        self._connection += 1

    def _occupy_window(self, size: int) -> None:
        full = self.window is not None and len(self._unacknowledged) >= self.window
        limit = self._profile.window_bytes
        if full or (limit is not None and sum(self._unacknowledged) + size > limit):
            raise CloudError("")
        self._unacknowledged.append(size)
        self._acknowledge_later(1)

    def _acknowledge_later(self, count: int | None = None) -> None:
        """Acknowledges the oldest after one round trip, if the cloud can be reached by then; None for all of them."""
        if self._unacknowledged:
            loop = asyncio.get_running_loop()
            waiting = len(self._unacknowledged) if count is None else count
            loop.call_later(self.round_trip, self._acknowledge, waiting, self._connection)

    def _acknowledge(self, count: int, connection: int) -> None:
        if self._online and self._acknowledges and connection == self._connection:
            for _ in range(min(count, len(self._unacknowledged))):
                self._unacknowledged.popleft()

    async def _deliver(self, message: Message) -> None:
        if has_wildcard(message.topic):
            return  # lite lets it pass; IoT Core never delivers it
        self.messages.append(message)
        for topic_filter, tap in self._taps:
            if matches(topic_filter, message.topic):
                tap.put(message)
        await self._route(message)

    async def _route(self, message: Message) -> int:
        matching = [deliver for topic_filter, deliver in self._subscriptions if matches(topic_filter, message.topic)]
        for deliver in matching:
            await deliver(message)
        return len(matching)
