"""MQTT topic filters, and taps: bounded queues that a test reads messages from.

Matching follows MQTT 3.1.1 section 4.7, as both runtimes do. A tap must never hold up the nucleus: a reader that is too slow loses the
oldest messages, and the tap counts them.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

TAP_SIZE = 10_000
"""Messages that a tap holds by default."""


def has_wildcard(topic: str) -> bool:
    """Whether the text holds a character that is a wildcard in a topic filter."""
    return "+" in topic or "#" in topic


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic filter matches a topic.

    `+` stands for one level and `#`, at the end, for any number of levels, none included; both only as a whole level. A
    filter that begins with a wildcard does not match topics that begin with `$`.
    """
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    wanted, given = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return index == len(wanted) - 1
        if index >= len(given) or level not in ("+", given[index]):
            return False
    return len(wanted) == len(given)


def matches_strictly(topic_filter: str, topic: str) -> bool:
    """Whether a topic filter matches a topic in the classic nucleus's local broker.

    As measured on 2.18.2: `a/#` does not match `a`, and `a/` is the same as `a`, in filters and in topics.
    """
    wanted, given = topic_filter.rstrip("/").split("/"), topic.rstrip("/").split("/")
    for index, level in enumerate(wanted):
        if index >= len(given):
            return False
        if level == "#":
            return index == len(wanted) - 1
        if level not in ("+", given[index]):
            return False
    return len(wanted) == len(given)


@dataclass(frozen=True, slots=True)
class Message:
    """A message seen on the device or on its way to the cloud.

    Attributes:
        topic: Where it was published.
        payload: The bytes; of a JSON message, its JSON text.
        kind: How it was sent: a JSON or a binary message. The cloud only knows binary ones.
        component: Who published it; None for the test itself.
        order: Rises with each message of this nucleus, local and cloud together.
        time: When, in seconds since 1970.
        qos: To the cloud: 0, 1 or 2. Local: 0.
    """

    topic: str
    payload: bytes
    kind: Literal["json", "binary"]
    component: str | None
    order: int
    time: float
    qos: int = 0

    def json(self) -> Any:
        """Returns the payload parsed as JSON.

        Raises:
            ValueError: It is no JSON.
        """
        return json.loads(self.payload)


_Item = TypeVar("_Item")


class Tap(Generic[_Item]):
    """What was seen since the tap was opened; an asynchronous iterator that ends when it is closed.

    It is open from the moment it is made, so nothing is missed between asking for it and the first read.

    Args:
        on_close: Called when it is closed.
        size: Items that it holds.
        hopeless: Returns why nothing can come any more, None while something can; asked while `get` waits.
        situation: Describes what the components are doing, for the message of a `get` that waited in vain.

    Attributes:
        dropped: How many were lost because nobody read them in time.
    """

    __slots__ = ("_closed", "_hopeless", "_items", "_on_close", "_situation", "_size", "_waiter", "dropped")

    def __init__(
        self,
        on_close: Callable[[Tap[_Item]], None],
        size: int = TAP_SIZE,
        *,
        hopeless: Callable[[], Exception | None] = lambda: None,
        situation: Callable[[], str] = str,
    ) -> None:
        self._items: deque[_Item] = deque()
        self._size = size
        self._on_close = on_close
        self._hopeless = hopeless
        self._situation = situation
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self.dropped = 0

    def put(self, item: _Item) -> None:
        """Adds an item; the oldest goes when the tap is full."""
        if len(self._items) >= self._size:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._wake()

    async def get(self, timeout: float | None = None) -> _Item:
        """Returns the next item.

        Args:
            timeout: How long to wait, in seconds; None waits for ever.

        Raises:
            TimeoutError: None came in time, or none can come since every component is BROKEN. The message holds the states of the
                components and the end of their logs.
            StopAsyncIteration: The tap is closed and empty.
        """
        reasons: list[Exception] = []
        try:
            return await asyncio.wait_for(self._next_or_raise(reasons), timeout)
        except asyncio.TimeoutError:
            if reasons:
                raise reasons[0] from None
            raise TimeoutError(
                "\n".join(filter(None, (f"nothing came within {timeout} s", self._situation())))
            ) from None

    def drain(self) -> list[_Item]:
        """Takes and returns everything that has come and was not read yet, without waiting."""
        items = list(self._items)
        self._items.clear()
        return items

    def check(self) -> None:
        """Has a waiting `get` ask again whether something can still come."""
        self._wake()

    def close(self) -> None:
        """Ends the tap; what it holds can still be read."""
        self._closed = True
        self._on_close(self)
        self._wake()

    def __aiter__(self) -> Tap[_Item]:
        return self

    async def __anext__(self) -> _Item:
        while not self._items:
            await self._wait()
        return self._items.popleft()

    async def _next_or_raise(self, reasons: list[Exception]) -> _Item:
        while not self._items:
            if (reason := self._hopeless()) is not None:
                reasons.append(reason)  # it may be a TimeoutError, as that of wait_for is
                raise reason
            await self._wait()
        return self._items.popleft()

    async def _wait(self) -> None:
        if self._closed:
            raise StopAsyncIteration
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
