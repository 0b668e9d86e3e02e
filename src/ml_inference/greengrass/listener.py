"""Listens on the input topic, and notices when nothing comes because nothing can.

On nucleus lite a JSON message with more than 23 keys kills every subscription that matches its topic, and a restart of
its ggpubsubd kills all, without a word to anybody. So after a silence the listener says something on the topic itself and
must hear it; if it does not, it subscribes again. Messages on the line are proof enough: then it says nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from ml_inference.greengrass.errors import Failure, FailureKind
from ml_inference.greengrass.hearing import Hearing
from ml_inference.greengrass.session import Session
from ml_inference.limits import CALL_SECONDS

logger = logging.getLogger(__name__)


class Listener:
    """The subscription to the input topic. Used from one thread; messages arrive on the SDK's.

    Args:
        on_message: Called with each message's bytes on the SDK's thread; must only enqueue.
        monotonic: Seconds of a clock that never goes back.
        silence: Seconds without a message after which the subscription has to prove that it is alive.
        patience: Seconds within which a heartbeat must come back, once the nucleus has taken it: one that is stalled takes
            it late.
    """

    def __init__(
        self,
        on_message: Callable[[bytes], None],
        *,
        monotonic: Callable[[], float],
        silence: float,
        patience: float,
    ) -> None:
        self._on_message = on_message
        self._hearing = Hearing(self._received)
        self._monotonic = monotonic
        self._silence = silence
        self._patience = patience
        # Only this process's own: whatever else somebody says is a message, and counted.
        self._heartbeat = b'{"heartbeat":"%s"}' % uuid.uuid4().hex.encode()
        self._session: Session | None = None
        self._heard = monotonic()
        self._sent: float | None = None
        self._taken: float | None = None
        self._refused = False

    def listen(self, session: Session, topic: str) -> None:
        """Listen to a topic filter, instead of the one before.

        Raises:
            CallFailedError: The nucleus refuses; the one before stays.
        """
        self._session = session
        self._hearing.listen(session, topic)
        self._heard = self._monotonic()
        self._sent = None
        self._refused = False
        logger.info("listening on %s", topic)

    @property
    def topic(self) -> str | None:
        """What it listens to; None if there is no subscription."""
        subscription = self._hearing.subscription
        return None if subscription is None else subscription.topic

    def close(self) -> None:
        """Stop listening, for good."""
        self._hearing.close()

    def forget(self) -> None:
        """The session is over, and the subscription with it."""
        self._hearing.forget()
        self._session = self._sent = None

    def check(self) -> None:
        """Have a silent subscription prove that it is alive, and replace it if it does not.

        Raises:
            CallFailedError: The nucleus does not let it subscribe again.
        """
        session, subscription, now = self._session, self._hearing.subscription, self._monotonic()
        if session is None or subscription is None or self._refused:
            return
        if self._sent is None:
            if now - self._heard > self._silence:
                self._send_heartbeat(session, subscription.topic, now)
        elif self._heard >= self._sent:
            self._sent = None
        elif now > (self._sent + CALL_SECONDS if self._taken is None else self._taken + self._patience):
            logger.warning("the subscription to %s has died in silence; subscribing again", subscription.topic)
            self.listen(session, subscription.topic)

    def _received(self, payload: bytes) -> None:
        self._heard = self._monotonic()
        if payload != self._heartbeat:
            self._on_message(payload)

    def _send_heartbeat(self, session: Session, subscribed: str, now: float) -> None:
        topic = "/".join("heartbeat" if level in ("+", "#") else level for level in subscribed.split("/"))
        self._sent, self._taken = now, None

        def answered(failure: Failure | None) -> None:
            if failure is not None and failure.kind is FailureKind.UNAUTHORIZED:
                self._refused = True
                logger.warning("cannot watch over the subscription: accessControl forbids publishing to %s", topic)
            elif self._sent == now:  # else the answer to an older one
                if failure is None:
                    self._taken = self._monotonic()
                else:
                    self._sent = None  # it was not said: the next look tries again

        session.publish_local(topic, self._heartbeat, answered)
