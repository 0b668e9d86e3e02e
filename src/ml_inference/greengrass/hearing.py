"""Hears a topic, over one subscription after another.

A new subscription begins before the one before ends, so that nothing is missed between them. Both may get a message then; it
must count once.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_inference.greengrass.session import Session, Subscription


class Hearing:
    """What is heard of a topic. Used from one thread; messages arrive on the SDK's.

    Args:
        on_payload: Called with each message's bytes on the SDK's thread; must only enqueue.

    Attributes:
        subscription: The one in force; None if there is none.
    """

    def __init__(self, on_payload: Callable[[bytes], None]) -> None:
        self._on_payload = on_payload
        self._stream: object = None
        self.subscription: Subscription | None = None

    def listen(self, session: Session, topic: str) -> None:
        """Listen to a topic filter, instead of the one before.

        Raises:
            CallFailedError: The nucleus refuses, or does not answer; the one before stays.
        """
        stream = object()

        def begin() -> None:
            self._stream = stream

        def heard(payload: bytes) -> None:
            if self._stream is stream:
                self._on_payload(payload)

        subscription = session.subscribe(topic, heard, begin)
        before, self.subscription = self.subscription, subscription
        if before is not None:
            before.close()

    def close(self) -> None:
        """Stop listening; what is under way is still heard."""
        if self.subscription is not None:
            self.subscription.close()

    def end(self) -> None:
        """Stop listening, and hear nothing more from now on."""
        subscription = self.subscription
        self.forget()
        if subscription is not None:
            subscription.close()

    def forget(self) -> None:
        """The session is over, and the subscription with it; what a session that was given up still says is not heard."""
        self._stream = self.subscription = None
