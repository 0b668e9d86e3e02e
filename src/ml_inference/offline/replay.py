"""Scores tables of readings as the component scores messages, and compares two models over the same readings.

Every reading goes through the component's own validation and pipeline, many at a time, since XGBoost's cost for a call
is shared by its rows. It never judges by rules of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timezone, tzinfo
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from ml_inference.delivery.encoding import dump
from ml_inference.model.bundle import Model
from ml_inference.model.manifest import Manifest
from ml_inference.model.objectives import abnormality
from ml_inference.offline.by_column import ColumnScorer
from ml_inference.offline.cells import refuse_decimal_commas
from ml_inference.offline.chunks import Broken, Dialect, Document, Part
from ml_inference.offline.files import is_json_lines
from ml_inference.offline.tables import TEXT_COLUMNS, documents_of, read_chunks, read_documents
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import FieldError, JsonObject, Outcome, Rejection, Result
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import Decoded, Reading, ReadingDecoder

_BATCH = 1024
"""Lines at a time: beyond some hundred rows XGBoost's cost for a call no longer counts, and the caches begin to."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


Line: TypeAlias = tuple[Path, int, bytes | Document | Broken]
"""A file, the number of a line, and what stands there."""


@dataclass(frozen=True, slots=True)
class Source:
    """A table to score.

    Attributes:
        files: Its files, in order.
        dialect: How they are written.
        zone: Of times without an offset.
    """

    files: Sequence[Path]
    dialect: Dialect = field(default_factory=Dialect)
    zone: tzinfo = timezone.utc

    def place(self, file: Path, line: int) -> JsonObject:
        """Where a rejected reading stands, as its message says it."""
        return {"line": line} | ({"file": str(file)} if len(self.files) > 1 else {})


@dataclass(slots=True)
class Totals:
    """Readings of a table.

    Attributes:
        scored: Those with a result.
        abnormal: Those of them that are abnormal.
        rejected: The others.
    """

    scored: int = 0
    abnormal: int = 0
    rejected: int = 0


def score_table(
    model: Model,
    judgement: Judgement,
    table: Source,
    out: BinaryIO,
    part: Part | None = None,
    *,
    alarms: BinaryIO | None = None,
) -> Totals:
    """Score a table, in constant memory.

    Args:
        model: The model.
        judgement: How scores become verdicts.
        table: Its files.
        out: Gets a JSON line for each reading in order: a result, or an error message with the number of its `line`, and its
            `file` where there are several.
        part: What to read of the only file; machines' states begin anew in each part.
        alarms: Gets a JSON line for each message that a device would have sent on its alarm topic.

    Raises:
        TableError: The table cannot be read.
    """
    pipeline = Pipeline(model, judgement)
    decoder = ReadingDecoder(model.manifest.features, table.zone)
    totals = Totals()
    by_column = None
    if judgement.debounce_readings == 1 and ColumnScorer.can(model.manifest):
        by_column = ColumnScorer(pipeline, table.dialect, table.zone)
    with _rare_collections():
        for file in table.files:
            if by_column is not None and not is_json_lines(file, table.dialect):
                _score_columns(by_column, pipeline, decoder, table, file, part, out, totals)
                continue
            for places, decoded in read_messages(replace(table, files=[file]), decoder, model.manifest, part):
                outcome = pipeline.score(decoded)
                out.write(b"".join(_lines(outcome, places, table, totals)))
                if alarms is not None:
                    alarms.write(b"".join(dump(event.message) + b"\n" for event in outcome.alarms))
    return totals


def _lines(outcome: Outcome, places: Sequence[tuple[Path, int]], table: Source, totals: Totals) -> Iterator[bytes]:
    """A line of JSON for each reading, counted."""
    for place, item in zip(places, outcome.items, strict=True):
        if isinstance(item, Result):
            totals.scored += 1
            totals.abnormal += bool(item.abnormal)
            yield dump(item.as_message()) + b"\n"
        else:
            totals.rejected += 1
            yield dump(item.as_message() | table.place(*place)) + b"\n"


def _score_columns(  # noqa: PLR0917
    by_column: ColumnScorer,
    pipeline: Pipeline,
    decoder: ReadingDecoder,
    table: Source,
    file: Path,
    part: Part | None,
    out: BinaryIO,
    totals: Totals,
) -> None:
    """Score a file piece by piece; rows with anything to look at as messages, in their places."""
    names = frozenset(pipeline.model.manifest.feature_names)
    for number, chunk in enumerate(read_chunks([file], table.dialect, part=part)):
        if number == 0:
            refuse_decimal_commas(chunk, names, table.dialect)
        scored = by_column.score(chunk)
        lines: list[bytes | None] = [None] * len(chunk.lines) if scored is None else scored.lines
        left = np.array([place for place, line in enumerate(lines) if line is None], dtype=np.intp)
        totals.scored += len(lines) - len(left)
        totals.abnormal += 0 if scored is None else scored.abnormal
        if not len(left) and not chunk.broken:
            out.write(b"".join(line for line in lines if line is not None))
            continue
        rest = chunk.take(left) if scored is not None else chunk
        rows = iter(documents_of(replace(rest, broken=chunk.broken), table.dialect, TEXT_COLUMNS - names))
        found: list[tuple[int, bytes]] = []
        while batch := list(islice(rows, _BATCH)):
            places, decoded = _decode(decoder, batch)
            made = _lines(pipeline.score(decoded), places, table, totals)
            found += [(place[1], line) for place, line in zip(places, made, strict=True)]
        found += [(at, line) for at, line in zip(chunk.lines, lines, strict=True) if line is not None]
        # Both are in the order of lines.
        out.write(b"".join(line for _, line in sorted(found, key=itemgetter(0))))


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the collector of cycles run rarely: it took a fifth of the time, and readings hold no cycles."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def read_messages(
    table: Source, decoder: ReadingDecoder, manifest: Manifest, part: Part | None = None
) -> Iterator[tuple[list[tuple[Path, int]], Decoded]]:
    """The readings of a table, many as one message, with the file and the line of each.

    Raises:
        TableError: The table cannot be read.
    """
    for lines in _batches(table, manifest, part):
        yield _decode(decoder, lines)


def _batches(table: Source, manifest: Manifest, part: Part | None) -> Iterator[list[Line]]:
    """Lines with their places: bytes of JSON, or documents made from rows."""
    coded = frozenset(feature.name for feature in manifest.features if feature.categories)
    rows = read_documents(table.files, table.dialect, numbers=frozenset(manifest.feature_names), text=coded, part=part)
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _decode(decoder: ReadingDecoder, lines: Sequence[Line]) -> tuple[list[tuple[Path, int]], Decoded]:
    """The readings of several lines as one message, and the place of each."""
    places: list[tuple[Path, int]] = []
    items: list[Reading | Rejection] = []
    for file, number, line in lines:
        found: Sequence[Reading | Rejection]
        if isinstance(line, bytes):
            found = decoder.decode(line).items
        elif isinstance(line, Broken):
            found = (Rejection((FieldError((), "row", line.reason[:1].upper() + line.reason[1:]),), line.received),)
        else:
            found = (decoder.reading(line),)
        places += [(file, number)] * len(found)
        items += found
    return places, Decoded(tuple(items))


@dataclass(slots=True)
class Agreement:
    """What two models say of the same readings.

    Attributes:
        readings: Scored by both.
        changed: Of them, those with another verdict.
        became_abnormal: Of them, normal by the first model and abnormal by the second.
        became_normal: The reverse.
        abnormal: By the first model.
        shift: Sum of the second's scores minus the first's.
    """

    readings: int = 0
    changed: int = 0
    became_abnormal: int = 0
    became_normal: int = 0
    abnormal: int = 0
    shift: float = 0.0

    def add(self, first: Result, second: Result, shift: float) -> None:
        """Count one reading."""
        self.readings += 1
        self.shift += shift
        self.abnormal += bool(first.abnormal)
        if _verdict(first) != _verdict(second):
            self.changed += 1
            if first.abnormal is not None and second.abnormal is not None:
                self.became_abnormal += second.abnormal
                self.became_normal += first.abnormal

    def as_json(self) -> JsonObject:
        """With shares and means in place of sums."""
        return {
            "readings": self.readings,
            "agreement": 1 - self.changed / self.readings if self.readings else None,
            "changed": self.changed,
            "became_abnormal": self.became_abnormal,
            "became_normal": self.became_normal,
            "abnormal": self.abnormal,
            "mean_shift": self.shift / self.readings if self.readings else None,
        }


@dataclass(slots=True)
class Comparison:
    """Two models over one table.

    A verdict is whether a reading is abnormal; of a multi-class model that defines no threshold it is the most likely
    class, and of a regression without a threshold there is none. The score of a multi-class model counts here as the
    probability of not being normal.

    Attributes:
        first: The model in use.
        second: The one that may follow it.
        overall: Over all readings.
        machines: By equipment id.
        shifts: The second's score minus the first's, of each reading that both scored.
        rejected: Readings that neither scored.
        only_first: Scored by the first alone.
        only_second: Scored by the second alone.
    """

    first: Manifest
    second: Manifest
    overall: Agreement = field(default_factory=Agreement)
    machines: dict[str, Agreement] = field(default_factory=dict)
    shifts: list[float] = field(default_factory=list)
    rejected: int = 0
    only_first: int = 0
    only_second: int = 0

    def add(self, first: Result | Rejection, second: Result | Rejection) -> None:
        """Count one reading."""
        if isinstance(first, Result) and isinstance(second, Result):
            shift = abnormality(second.score, self.second) - abnormality(first.score, self.first)
            self.shifts.append(shift)
            self.overall.add(first, second, shift)
            self.machines.setdefault(first.equipment_id, Agreement()).add(first, second, shift)
        elif isinstance(first, Result):
            self.only_first += 1
        elif isinstance(second, Result):
            self.only_second += 1
        else:
            self.rejected += 1

    def as_json(self) -> JsonObject:
        """The whole comparison; machines with the most changed verdicts first."""
        shifts = np.array(self.shifts)
        ordered = sorted(self.machines.items(), key=lambda item: (-item[1].changed, item[0]))
        return {
            "first": {"name": self.first.name, "version": self.first.version},
            "second": {"name": self.second.name, "version": self.second.version},
            **self.overall.as_json(),
            "rejected": self.rejected,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "mean_absolute_shift": float(np.abs(shifts).mean()) if self.shifts else None,
            "shift_quantiles": dict(zip(map(str, QUANTILES), np.quantile(shifts, QUANTILES).tolist(), strict=True))
            if self.shifts
            else None,
            "machines": {name: machine.as_json() for name, machine in ordered},
        }


def compare(first: Model, second: Model, judgement: Judgement, table: Source) -> Comparison:
    """Score a table with two models.

    Args:
        first: The model in use.
        second: The one that may follow it.
        judgement: How scores become verdicts; explanations are not made.
        table: Its files.

    Raises:
        TableError: The table cannot be read.
    """
    judgement = replace(judgement, explain_top_k=0)
    comparison = Comparison(first.manifest, second.manifest)
    pipelines = Pipeline(first, judgement), Pipeline(second, judgement)
    decoders = ReadingDecoder(first.manifest.features, table.zone), ReadingDecoder(second.manifest.features, table.zone)
    with _rare_collections():
        for lines in _batches(table, first.manifest, None):
            outcomes = [
                pipeline.score(_decode(decoder, lines)[1])
                for pipeline, decoder in zip(pipelines, decoders, strict=True)
            ]
            for one, other in zip(outcomes[0].items, outcomes[1].items, strict=True):
                comparison.add(one, other)
    return comparison


def _verdict(result: Result) -> bool | int | None:
    if result.abnormal is None and isinstance(result.score, list):
        return result.score.index(max(result.score))
    return result.abnormal
