from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from ml_inference.greengrass.connection import EXIT_CONNECTION_LOST, MAX_TOKEN_REFUSALS
from ml_inference.greengrass.errors import TokenRefusedError
from ml_inference.greengrass.session import Connector
from ml_inference.serving.component import Component
from ml_inference.serving.exits import EXIT_STOPPED
from ml_inference.serving.timing import Timing


class RefusingConnector:
    """A nucleus that knows no token."""

    def __init__(self) -> None:
        self.attempts = 0
        self.given_up = False
        self.on_attempt: Callable[[], None] = lambda: None

    def give_up(self) -> None:
        self.given_up = True

    def open(self, *_: object) -> None:
        self.attempts += 1
        self.on_attempt()
        raise TokenRefusedError("refused")


@pytest.mark.parametrize("asked_to_stop", [False, True])
def test_a_refused_token_asks_for_a_restart_unless_it_was_asked_to_stop(tmp_path: Path, asked_to_stop: bool) -> None:
    connector = RefusingConnector()
    component = Component(
        cast("Connector", connector), thing_name="x", work_directory=tmp_path, timing=Timing(first_reconnect=0.01)
    )
    if asked_to_stop:
        connector.on_attempt = lambda: component.stop() if connector.attempts == MAX_TOKEN_REFUSALS else None
    assert component.run() == (EXIT_STOPPED if asked_to_stop else EXIT_CONNECTION_LOST)
    assert connector.attempts == MAX_TOKEN_REFUSALS
