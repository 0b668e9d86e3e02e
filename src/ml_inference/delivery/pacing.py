"""How fast the cloud may be written to.

Nucleus lite has room for ten unacknowledged messages to AWS IoT Core, which is 200 a second at a round trip of 50 ms and 50
at one of 200 ms; it refuses the eleventh, and each while offline. Classic takes thousands. Neither says which of these it
is, so the rate feels its way, and an exponential pause follows while nothing goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random

FIRST_RATE = 50.0
MINIMUM_RATE = 5.0
MAXIMUM_RATE = 2_000.0
DECREASE = 0.95
"""Of the rate after a refusal: it was only just too fast."""
REPEATED_DECREASE = 0.7
"""Of the rate after each further refusal in a row: the room has become smaller, or there is none."""
GROWTH = 20.0
"""Messages a second, by the cube of the seconds since the rate was back where it was refused."""
LONGEST_STEP = 0.1
"""Seconds without a success that count as growing."""
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 60.0
OFFLINE_PAUSE = 1.0
BURST = 8.0


class Pacer:
    """Grows as CUBIC does (RFC 9438): quickly back to where it was refused, slowly around there, then ever faster.

    So nine tenths of what nucleus lite can carry are used with few refusals; halving the rate would use two thirds. A pace
    that nobody makes use of does not grow (RFC 7661). Not thread-safe.

    Args:
        monotonic: Seconds of a clock that never goes back.
        random: Spreads the pauses of many devices whose cloud comes back at the same moment.
    """

    def __init__(self, monotonic: Callable[[], float], random: Random | None = None) -> None:
        self._monotonic = monotonic
        self._random = random or Random()  # noqa: S311 - jitter
        self._rate = self._refused_at = self._kept = FIRST_RATE
        self._age = 0.0
        self._grown = monotonic()
        self._used = False
        self._pause = 0.0
        self._in_a_row = 0
        self._not_before = 0.0
        self._probing = False
        self._tokens = BURST
        self._refilled = monotonic()

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self._rate

    @property
    def offline(self) -> bool:
        """Whether so many messages in a row were refused that the cloud must be out of reach."""
        return self._pause >= OFFLINE_PAUSE

    @property
    def refusals(self) -> int:
        """Refusals since the last success; those of messages that were on their way together count as one."""
        return self._in_a_row

    def wait(self) -> float:
        """Seconds until a message may go; 0 for now, infinity for not before an answer."""
        if self._probing:
            return inf
        now = self._monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        token = 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate
        return max(token, self._not_before - now, 0.0)

    def sent(self) -> None:
        """A message went out."""
        self._tokens -= 1
        self._used = self._tokens < 1
        # After a refusal one message finds out whether the way is free, and the others wait for its answer.
        self._probing = self._pause > 0

    def succeeded(self) -> None:
        """A message was taken."""
        self._pause = self._not_before = 0.0
        self._in_a_row = 0
        self._probing = False
        now = self._monotonic()
        if self._used:
            self._age += min(now - self._grown, LONGEST_STEP)
        self._grown = now
        back = ((self._refused_at - self._kept) / GROWTH) ** (1 / 3)
        rate = self._refused_at + GROWTH * (self._age - back) ** 3
        self._rate = min(MAXIMUM_RATE, max(self._rate, rate))

    def refused(self) -> None:
        """A message was refused."""
        now = self._monotonic()
        if not self._probing and now < self._not_before:
            return  # sent before the pause began, which already answers it
        self._probing = False
        self._in_a_row += 1
        kept = REPEATED_DECREASE if self._pause else DECREASE
        self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, self._pause * 2))
        self._not_before = now + self._jittered()
        self._refused_at = self._rate
        self._rate = self._kept = max(MINIMUM_RATE, self._rate * kept)
        self._age, self._grown = 0.0, now

    def inconclusive(self) -> None:
        """A message was answered, but the answer says nothing about the way: the message itself was at fault."""
        self._probing = False

    def retry_now(self) -> None:
        """Try again at once: something changed, such as the connection or the configuration."""
        self._not_before = 0.0
        self._probing = False

    def _jittered(self) -> float:
        return self._pause * self._random.uniform(0.5, 1.0)
