"""The local publish/subscribe broker of one nucleus.

It delivers in the order of publishing and waits for each subscriber in turn, since that is what makes one stalled subscriber stop a whole device
on nucleus lite. It checks no authorization: that is done before a message comes here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from greengrass_sandbox.profiles import Profile
from greengrass_sandbox.topics import Message, Tap, matches, matches_strictly

logger = logging.getLogger(__name__)

_OBJECT, _PAIR = 11, 21  # bytes of one value and of one key with its value in lite's object memory
_ENVELOPE: Final = 3 * _PAIR  # lite forwards a message as a map of three: topic, type, message

Deliver = Callable[[Message, Any], Awaitable[None]]


def object_memory(value: Any) -> int:
    """Returns the bytes that nucleus lite needs for the maps and lists of a JSON value; a lone scalar needs none.

    Source: the arena of 50 objects in lite's `core-bus/src/client_subscribe.c`; with 11 bytes an object and 21 a pair it gives the measured limits of 23
    flat keys, 42 list items and 8 two-key maps.
    """
    if isinstance(value, Mapping):
        return _PAIR * len(value) + sum(map(object_memory, value.values()))
    return _OBJECT * len(value) + sum(map(object_memory, value)) if isinstance(value, list) else 0


def as_doubles(value: Any) -> Any:
    """Returns a JSON value with every integer as a floating-point number: what the classic nucleus makes of it.

    Raises:
        OverflowError: An integer is larger than every floating-point number.
    """
    if isinstance(value, dict):
        return {key: as_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """One subscriber of local messages.

    Attributes:
        topic_filter: What it listens to.
        component: Whose it is.
        own: Whether it hears its own component's messages.
        deliver: Sends it a message and the value to put into the event (parsed JSON, or base64 text).
        on_killed: Called when the runtime drops the subscription behind the subscriber's back.
    """

    topic_filter: str
    component: str
    own: bool
    deliver: Deliver
    on_killed: Callable[[], None] = lambda: None


class LocalBroker:
    """Subscribers, and taps that see everything.

    Args:
        profile: The runtime.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._matches = matches_strictly if profile.strict_levels else matches
        self._subscriptions: list[Subscription] = []
        self._taps: list[tuple[str, Tap[Message]]] = []
        self._changed = asyncio.Event()

    def watch(self, topic_filter: str, **options: Any) -> Tap[Message]:
        """Returns a tap of the messages on matching topics from now on; `options` are those of `Tap`."""
        tap: Tap[Message] = Tap(lambda closed: self._taps.remove((topic_filter, closed)), **options)
        self._taps.append((topic_filter, tap))
        return tap

    def subscribe(self, subscription: Subscription) -> Callable[[], None]:
        """Adds a subscriber and returns what removes it."""
        self._subscriptions.append(subscription)
        self.wake()
        return lambda: self._remove(subscription)

    def has_subscriber(self, topic: str, component: str | None = None) -> bool:
        """Whether a message on this topic would reach a component; None for any."""
        return any(
            self._matches(each.topic_filter, topic) and component in (None, each.component)
            for each in self._subscriptions
        )

    async def changed(self) -> None:
        """Waits for the next subscription, or for `wake`."""
        await self._changed.wait()

    def wake(self) -> None:
        """Ends every `changed`."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def publish(self, message: Message, value: Any) -> None:
        """Delivers a message.

        Args:
            message: The message.
            value: What goes into the event: the parsed JSON, or the payload in base64.
        """
        for topic_filter, tap in self._taps:
            if matches(topic_filter, message.topic):
                tap.put(message)
        limit = self._profile.event_memory
        deadly = limit is not None and message.kind == "json" and _ENVELOPE + object_memory(value) > limit
        for subscription in list(self._subscriptions):
            if not self._matches(subscription.topic_filter, message.topic):
                continue
            if message.component == subscription.component and not subscription.own:
                continue
            if deadly:
                logger.warning(
                    "%s: too many values for nucleus lite, a subscription of %s is dead",
                    message.topic,
                    subscription.component,
                )
                self._remove(subscription)
                subscription.on_killed()
            else:
                await subscription.deliver(message, value)

    @property
    def taps(self) -> list[Tap[Message]]:
        """The open taps."""
        return [tap for _, tap in self._taps]

    def close(self) -> None:
        """Ends every tap."""
        for _, tap in list(self._taps):
            tap.close()

    def _remove(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
