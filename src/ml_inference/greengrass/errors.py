"""What can go wrong between this process and the nucleus, in our own terms.

The SDK raises errors of many types, some of which hold payloads. They end here: what leaves `ml_inference.greengrass` is one
of these, and a log never shows a payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from awsiot.eventstreamrpc import DeserializeError, SerializeError, UnmappedDataError
from awsiot.greengrasscoreipc import model as ipc

MAX_REASON_CHARACTERS = 300
"""Of an error's text in logs and health messages."""


class NucleusUnavailableError(Exception):
    """No nucleus answers on the socket; it may be starting."""


class TokenRefusedError(Exception):
    """The nucleus does not know this process's token: only a restart by the nucleus gives a new one."""


class ConnectionLostError(Exception):
    """No connection can be had any more: the process must end so that the nucleus starts it with a new token."""


class CallFailedError(Exception):
    """The nucleus refused a call, or did not answer in time; the message names the call and the reason.

    Attributes:
        failure: The reason, classified.
    """

    def __init__(self, what: str, failure: Failure) -> None:
        super().__init__(f"cannot {what}: {failure.text}")
        self.failure = failure

    @property
    def refused(self) -> bool:
        """Whether the nucleus answered, and will answer so again; if not, another connection may help."""
        return self.failure.kind in (FailureKind.INVALID, FailureKind.UNAUTHORIZED)


class FailureKind(Enum):
    """What a failed call says about the next attempt."""

    INVALID = "invalid"
    """The same message would be refused again and again."""
    UNAUTHORIZED = "unauthorized"
    """The recipe's accessControl does not allow it."""
    TRANSIENT = "transient"
    """Refused for now: offline, a full window, or another daemon of the nucleus is down."""
    LOST = "lost"
    """The connection is going: nobody knows what became of the message."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call failed.

    Attributes:
        kind: What that says about the next attempt.
        text: The reason in a few words.
    """

    kind: FailureKind
    text: str


def classify(error: BaseException) -> Failure:
    """Map an error of the SDK to ours."""
    if isinstance(error, ipc.InvalidArgumentsError):
        kind = FailureKind.INVALID
    elif isinstance(error, ipc.UnauthorizedError):
        kind = FailureKind.UNAUTHORIZED
    elif isinstance(error, ipc.GreengrassCoreIPCError):
        kind = FailureKind.TRANSIENT  # nucleus lite answers so, too, while another of its daemons is down
    else:
        kind = FailureKind.LOST
    return Failure(kind, describe(error))


def describe(error: BaseException) -> str:
    """The reason of a failed call in a few words, without the SDK's representation.

    Some of the SDK's own errors hold the payload, which must not reach a log: only their type is named.
    """
    holds_payload = isinstance(error, DeserializeError | SerializeError | UnmappedDataError)
    text = "" if holds_payload else getattr(error, "message", None) or str(error)
    return f"{type(error).__name__}: {text}"[:MAX_REASON_CHARACTERS] if text else type(error).__name__
