"""What comes from all sources, one thread at a time: messages are read, values are assembled, and everything is counted.

The sources call it in threads of their own; it does its work at once under one lock, and never waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from inference_bridge.accounts import Examples, MessageCounts, ValueCounts
from inference_bridge.assembly import Assembler
from inference_bridge.extract import Extract, Extractor, Names, Sample
from inference_bridge.mapping import Mapping, Mqtt, Replay

logger = logging.getLogger(__name__)


class Intake:
    """Takes what the sources of a mapping hear.

    Args:
        mapping: The mapping.
        max_machines: How many machines there may be.
        values: Counts to go on with.
        examples: Names to go on with.
        lock: Held while anything is counted; the one of whoever else counts the same values.
        monotonic: Seconds of a clock that never goes back.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        mapping: Mapping,
        *,
        max_machines: int,
        values: ValueCounts | None = None,
        examples: Examples | None = None,
        lock: Lock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.mapping = mapping
        self.names = Names(mapping)
        self.values = values or ValueCounts()
        self.examples = examples or Examples()
        self.messages = {source.name: MessageCounts() for source in mapping.sources}
        self._numbers = {source.name: number for number, source in enumerate(mapping.sources)}
        self._extractors = {
            source.name: Extractor(self.names, source)
            for source in mapping.sources
            if isinstance(source, Mqtt | Replay)
        }
        self._by_exception = {source.name for source in mapping.sources if source.report_by_exception}
        self._assembler = Assembler(mapping, self.values, self.examples, max_machines=max_machines)
        self._monotonic = monotonic
        self._wall = wall
        self.lock = lock or Lock()
        self._closed = False

    def message(self, source: str, topic: str, payload: bytes) -> Extract:
        """Take a message of a source; what it held."""
        counts, extractor = self.messages[source], self._extractors[source]
        with self.lock:
            if self._closed:
                return Extract()
            counts.received += 1
            extract = extractor.extract(topic, payload)
            if not extract.matched:
                counts.unmatched += 1
                self.examples.note("unmatched", topic[:128])
                return extract
            if extract.problem:
                counts.unreadable += 1
                self.examples.note("unreadable", topic[:128] or source, extract.problem)
            else:
                counts.read += 1
            counts.missed += extract.missed
            number, now, wall = self._numbers[source], self._monotonic(), self._wall()
            put = self._assembler.put
            for sample in extract.samples:
                put(number, sample, now, wall)
            for refused in extract.refused:
                self.values.received += 1
                if refused.unmapped:
                    self.values.unmapped += 1
                    self.examples.note("unmapped", refused.name, refused.problem)
                else:
                    self.values.rejected += 1
                    self.examples.note("rejected", refused.name, refused.problem)
            for machine in extract.deaths:
                self._assembler.death(machine, now)
            return extract

    def retained(self, source: str) -> None:
        """Count a message that is left out, since its age is unknown."""
        counts = self.messages[source]
        with self.lock:
            counts.received += 1
            counts.retained += 1

    def samples(self, source: str, samples: Iterable[Sample]) -> None:
        """Take values of a source that has no messages; each counts as a message, too."""
        counts, number = self.messages[source], self._numbers[source]
        with self.lock:
            if self._closed:
                return
            now, wall = self._monotonic(), self._wall()
            for sample in samples:
                counts.received += 1
                counts.read += 1
                self._assembler.put(number, sample, now, wall)

    def missed(self, source: str, count: int) -> None:
        """Count what never came."""
        with self.lock:
            self.messages[source].missed += count

    def connected(self, source: str, *, connected: bool) -> None:
        """A source has its connection, or lost it."""
        if source in self._by_exception:
            with self.lock:
                self._assembler.connected(self._numbers[source], self._monotonic(), connected=connected)

    def due(self) -> list[dict[str, Any]]:
        """The readings that are due now."""
        with self.lock:
            return self._assembler.due(self._monotonic(), self._wall())

    def close(self) -> list[dict[str, Any]]:
        """Take nothing any more, whoever still calls; the readings of which something waited."""
        with self.lock:
            self._closed = True
            return self._assembler.flush(self._monotonic(), self._wall())

    def stale(self) -> tuple[int, list[Any]]:
        """Number of machines, and what is stale."""
        with self.lock:
            return len(self._assembler), list(self._assembler.stale(self._monotonic()))
