"""Everything that leaves the component: local messages, and results for the cloud.

Survives the sessions that it is attached to.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from ml_inference.config import Configuration
from ml_inference.delivery.cloud import CloudPublisher
from ml_inference.delivery.local import LocalPublisher
from ml_inference.delivery.outbox.outbox import Outbox
from ml_inference.delivery.routing import Message, Router
from ml_inference.delivery.sequence import Sequence as CloudSequence
from ml_inference.greengrass.session import Session
from ml_inference.serving.rejections import RejectionLog

SEQUENCE_FILE = "sequence"
OUTBOX_FILE = Path("outbox") / "outbox.sqlite"


class Outputs:
    """Router, local publisher and cloud publisher.

    Args:
        configuration: In force at first.
        thing_name: The device's name in AWS IoT.
        work_directory: Holds the outbox.
        answer: Seconds without an answer after which a publish to the cloud counts as refused.
        monotonic: Seconds of a clock that never goes back.

    Attributes:
        work_directory: As given.
        router: Turns outcomes into messages.
        rejections: Says in the log what was rejected.
        local: Publishes local messages.
        cloud: Publishes to AWS IoT Core; None until `configure`.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        thing_name: str,
        work_directory: Path,
        answer: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.work_directory = work_directory
        self._answer = answer
        self._monotonic = monotonic
        self._sequence = CloudSequence(work_directory / SEQUENCE_FILE)
        self.router = Router(configuration, thing_name, monotonic, _message_ids(), self._sequence.next)
        self.rejections = RejectionLog(self.router)
        self.local = LocalPublisher(monotonic)
        self.cloud: CloudPublisher | None = None

    def configure(self, configuration: Configuration) -> None:
        """Put a configuration in force; the first opens the outbox."""
        self.router.configuration = configuration
        path, size = self.work_directory / OUTBOX_FILE, configuration.outbox_max_megabytes * 1_000_000
        if self.cloud:
            self.cloud.configure(qos=configuration.cloud_qos, outbox_bytes=size, probe=self.router.probe())
            return
        self.cloud = CloudPublisher(
            lambda: Outbox(path, max_bytes=size),
            qos=configuration.cloud_qos,
            monotonic=self._monotonic,
            answer=self._answer,
            probe=self.router.probe(),
            hold=self._sequence.hold,
        )
        self.cloud.start()

    def attach(self, session: Session) -> None:
        """Go on over a new session."""
        self.local.attach(session)
        if self.cloud:
            self.cloud.attach(session)

    def detach(self) -> None:
        """The session is over."""
        self.local.detach()
        if self.cloud:
            self.cloud.detach()

    def offer(self, messages: Sequence[Message], unwanted: int) -> None:
        """Take messages for the cloud, and the number of readings not wanted there; does not wait."""
        if self.cloud:
            self.cloud.offer(messages, unwanted)

    @property
    def lost(self) -> int:
        """Readings for the cloud that the process before lost when it was killed, at most."""
        return self._sequence.lost

    def close(self) -> None:
        """Nothing comes any more, and what came is delivered or kept."""
        self._sequence.close()


def _message_ids() -> Callable[[], str]:
    """Ids that no other process and no other device gives."""
    prefix, numbers = uuid.uuid4().hex[:16], count(1)
    return lambda: f"{prefix}-{next(numbers)}"
