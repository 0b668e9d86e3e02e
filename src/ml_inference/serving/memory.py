"""What is known of the machines, kept over restarts: a checkpoint now and then, and a journal of alarms.

An alarm's event is in the journal, on the disk, before anybody hears of it; so a process that is killed at any moment goes on
with the same alarms under the same ids, and tells again what may not have been heard. A checkpoint holds everything else and is
written at most as often as a megabyte a minute allows, since flash wears. A damaged or foreign file is set aside, never obeyed.
It must never stop the scoring: a disk that fails is a problem in the health message.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ml_inference.model.history import HistoryError
from ml_inference.monitoring.alarms import Event
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.serving.durable import sync_path
from ml_inference.serving.intake import Regulars

FORMAT = 1
SAVE_SECONDS = 60.0
BYTES_PER_MINUTE = 1_000_000
MAX_BYTES = 64 * 1024 * 1024
"""Largest checkpoint that is read, unpacked: ten thousand machines take a tenth of it."""

logger = logging.getLogger(__name__)


class Memory:
    """The kept state of one pipeline. Used by the thread that scores; files are written by a thread of its own.

    Args:
        directory: In the component's work directory.
        monotonic: Seconds of a clock that never goes back.
        known: Machines whose messages go before those of strangers; kept, too, or a flood right after a restart would
            find strangers only.
    """

    def __init__(self, directory: Path, monotonic: Callable[[], float], known: Regulars | None = None) -> None:
        self._directory = directory
        self._known = known or Regulars(monotonic)
        self._monotonic = monotonic
        self._checkpoint = directory / "checkpoint.bin"
        self._generation = 0
        self._journal: int | None = None
        self._due = monotonic() + SAVE_SECONDS
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="memory")
        self._writing: Future[int] | None = None
        self.problem: str | None = None

    def restore(self, pipeline: Pipeline) -> list[Event]:
        """Let a pipeline go on where the process before it ended.

        Returns:
            Events that may not have been heard, oldest first.
        """
        head, history = self._read()
        self._generation = int(head.get("generation", 0))
        watch = pipeline.watch
        told: list[Event] = []
        self._known.restore(_names(head.get("known")))
        try:
            if watch is not None and "watch" in head:
                watch.restore(head["watch"])
            journals = self._journals()
            for number in journals:
                if number < self._generation or watch is None:
                    continue
                for line in self._lines(number):
                    watch.redo(line)
                    told.append(Event(line["event"], line["message"]))
            self._generation = max([self._generation, *(number + 1 for number in journals)])
        except (KeyError, ValueError, TypeError, IndexError) as error:
            self._complain(f"the kept state is damaged: {error!r}")
        if pipeline.history is not None and history:
            try:
                pipeline.history.restore(history)
            except HistoryError as error:
                logger.info("the machines' pasts begin anew: %s", error)
        if watch is not None:
            watch.resume()
            if len(watch.book):
                logger.info("%d alarms are still open", len(watch.book))
        return told

    def record(self, events: Iterable[Event], pipeline: Pipeline) -> None:
        """Put events on the disk before they are told."""
        watch = pipeline.watch
        if watch is None:
            return
        lines = [json.dumps(watch.undo(event), separators=(",", ":")) for event in events]
        try:
            if self._journal is None:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = self._path(self._generation)
                self._journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                sync_path(self._directory)
            os.write(self._journal, "".join(line + "\n" for line in lines).encode())
            os.fdatasync(self._journal)
        except OSError as error:
            self._complain(f"alarms cannot be kept: {error}")

    def save_if_due(self, pipeline: Pipeline) -> None:
        """Write a checkpoint, if it is time for one; takes the state now and writes it behind."""
        if self._monotonic() >= self._due and (self._writing is None or self._writing.done()):
            self.save(pipeline)

    def save(self, pipeline: Pipeline) -> None:
        """Write a checkpoint behind."""
        self._due = self._monotonic() + SAVE_SECONDS
        known = self._known.names()
        if pipeline.watch is None and pipeline.history is None and not known:
            return
        head: dict[str, Any] = {"format": FORMAT, "generation": self._generation + 1, "known": known}
        if pipeline.watch is not None:
            head["watch"] = pipeline.watch.state()
        history = pipeline.history.state() if pipeline.history is not None else b""
        # From here on alarms go into the next journal, which belongs to this checkpoint.
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None
        self._generation += 1
        self._writing = self._writer.submit(self._write, head, history)
        self._writing.add_done_callback(self._written)

    def close(self, timeout: float) -> None:
        """Wait for what is being written.

        Args:
            timeout: Seconds.
        """
        if self._writing is not None:
            with suppress(Exception):
                self._writing.result(timeout)
        self._writer.shutdown(wait=False)

    def _written(self, done: Future[int]) -> None:
        if done.exception() is not None:
            self._complain(f"the state cannot be kept: {done.exception()}")
            return
        self.problem = None
        self._due = self._monotonic() + max(SAVE_SECONDS, 60.0 * done.result() / BYTES_PER_MINUTE)

    def _write(self, head: dict[str, Any], history: bytes) -> int:
        head["history"] = base64.b85encode(history).decode() if history else ""
        packed = zlib.compress(json.dumps(head, separators=(",", ":")).encode(), 6)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._checkpoint.with_suffix(".new")
        fresh.write_bytes(packed)
        sync_path(fresh)
        fresh.replace(self._checkpoint)
        sync_path(self._directory)
        for number in self._journals():
            if number < head["generation"]:
                self._path(number).unlink(missing_ok=True)
        return len(packed)

    def _read(self) -> tuple[dict[str, Any], bytes]:
        try:
            packed = self._checkpoint.read_bytes()
        except FileNotFoundError:
            return {}, b""
        except OSError as error:
            self._complain(f"the kept state cannot be read: {error}")
            return {}, b""
        try:
            data = zlib.decompressobj().decompress(packed, MAX_BYTES)
            head = json.loads(data)
            _require_format(head["format"])
            return head, base64.b85decode(head.pop("history", ""))
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            self._complain(f"the kept state is set aside: {error}")
            with suppress(OSError):
                self._checkpoint.replace(self._checkpoint.with_suffix(".damaged"))
            return {}, b""

    def _journals(self) -> Sequence[int]:
        try:
            found = [path.stem.partition("-")[2] for path in self._directory.glob("alarms-*.jsonl")]
        except OSError:
            return []
        return sorted(int(number) for number in found if number.isdigit())

    def _lines(self, number: int) -> Iterable[dict[str, Any]]:
        try:
            content = self._path(number).read_bytes()
        except OSError:
            return
        for line in content.split(b"\n")[:-1]:  # the last one may have been cut off: nobody heard of it
            with suppress(ValueError):
                yield json.loads(line)

    def _path(self, number: int) -> Path:
        return self._directory / f"alarms-{number}.jsonl"

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _require_format(found: object) -> None:
    if found != FORMAT:
        raise ValueError(f"format {found}, this version reads {FORMAT}")
