"""A file of messages as a source: what was recorded, or written for a trial, at a steady pace."""

from __future__ import annotations

import json
import time
from pathlib import Path

from inference_bridge.mapping import Replay
from inference_bridge.sources.base import Events, Source, SourceError


class FileReplay(Source):
    """Reads one file once."""

    def __init__(self, configuration: Replay, events: Events) -> None:
        super().__init__(configuration.name, events)
        self._configuration = configuration
        self._lines = 0

    def work(self) -> None:
        """Read the file to its end, line by line."""
        path = Path(self._configuration.path)
        try:
            file = path.open("rb")
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from None
        with file:
            self.is_connected()
            due = time.monotonic()
            for line in file:
                if not line.strip():
                    continue
                self.events.message(self.name, *_message(line.strip()))
                due = max(due + 1.0 / self._configuration.messages_a_second, time.monotonic() - 1.0)
                if self.stopping.wait(max(0.0, due - time.monotonic())):
                    return
        self.state = "finished"


def _message(line: bytes) -> tuple[str, bytes]:
    """Topic and payload of a line."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return "", line  # counted as unreadable where it is read
    if isinstance(document, dict) and document.keys() == {"topic", "payload"} and isinstance(document["topic"], str):
        payload = document["payload"]
        return document["topic"], payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
    return "", line
