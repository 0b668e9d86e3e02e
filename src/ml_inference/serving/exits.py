"""Why and how the process ends. Nothing else may end it."""

from __future__ import annotations

from ml_inference.greengrass.connection import EXIT_CONNECTION_LOST

EXIT_STOPPED = 0
EXIT_CANNOT_START = 1

__all__ = ["EXIT_CANNOT_START", "EXIT_CONNECTION_LOST", "EXIT_STOPPED", "CannotStartError", "ExitError"]


class ExitError(Exception):
    """The component has to end.

    Attributes:
        code: The exit code.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class CannotStartError(ExitError):
    """What a restart cannot cure, at a start that has nothing to go on with."""

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_CANNOT_START, reason)
