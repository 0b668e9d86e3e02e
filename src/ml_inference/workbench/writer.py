"""Writes a model directory: what training and packaging have in common.

A directory appears whole or not at all, and only after the loader that a device uses has accepted it. It runs on a
developer's machine and needs nothing that a device does not have. It gives the booster's bytes to XGBoost in this process,
so they must never be a stranger's: a damaged booster can crash whoever loads it.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xgboost
from pydantic import TypeAdapter, ValidationError

from ml_inference.model.bundle import booster_version, load_model, parse_booster, refuse_newer, sha256
from ml_inference.model.fields import Value
from ml_inference.model.golden import score_sequence
from ml_inference.model.manifest import (
    MANIFEST_FILE,
    BoosterFile,
    Feature,
    Golden,
    Histogram,
    Identifier,
    Manifest,
    ModelError,
    dump_manifest,
)
from ml_inference.model.over_time import Alarm, Condition, Consistency, Derived, GoldenSequence, TimedReading
from ml_inference.model.scorer import Scorer
from ml_inference.offline.chunks import Dialect

FloatMatrix: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]

HISTOGRAM_BINS = 20
"""Twenty bins of 5 % each: fine enough for a drift of half a standard deviation, coarse enough for some hundred readings."""
GOLDEN_READINGS = 20

UNSIGNED = "the model that was replaced was signed, this one is not: sign it again (ml-inference sign)"
"""What to tell the user where a signed model was written over."""

_CANDIDATES = 128
_MAX_PAIRS = 2_000
_VISIBLE = 1e-4
"""Ten times the tolerance of the golden check."""
_OWN_SUFFIXES = frozenset({".json", ".ubj", ".html", ".sig"})


@dataclass(frozen=True, slots=True)
class MachineReadings:
    """Readings of one machine in order, to become a golden sequence.

    Attributes:
        equipment_id: The machine, for people.
        seconds: n moments since the epoch, ascending.
        values: Shape (n, f), in the features' order and units; NaN for a value that is missing.
    """

    equipment_id: str
    seconds: Sequence[float]
    values: FloatMatrix


def write_model(
    directory: Path,
    *,
    booster: bytes,
    name: str,
    version: str,
    features: Sequence[Feature],
    rows: FloatMatrix,
    booster_file: str = "booster.ubj",
    threshold: float | None = None,
    classes: Sequence[str] | None = None,
    normal_class: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    alarm: Alarm | None = None,
    horizon_seconds: float | None = None,
    running: Sequence[Condition] = (),
    derived: Sequence[Derived] = (),
    consistency: Consistency | None = None,
    sequences: Sequence[MachineReadings] = (),
    source: str = "",
    created: datetime | None = None,
) -> Manifest:
    """Write a model directory and load it as a device would.

    The golden readings are chosen from `rows` (`choose_golden_rows`) and scored by a fresh booster made from `booster`.
    Objective and xgboost version are the booster's own.

    Args:
        directory: Where to; a model directory that is there already is replaced as a whole.
        booster: Content of the booster file, `.ubj` or `.json`, byte for byte as it is to be written.
        name: Of the model.
        version: Of the model.
        features: In the booster's column order; see `with_histograms`.
        rows: Shape (n, f), readings in the features' order and units, codes of categories; NaN for a value that is missing.
            Rows with infinity, or that lack what may not be missing, are not used.
        booster_file: Plain file name that fits the format of `booster`.
        threshold: See `Manifest`.
        classes: See `Manifest`.
        normal_class: See `Manifest`.
        metrics: Figures on held-out data, as JSON can hold them.
        alarm: See `Manifest`.
        horizon_seconds: See `Manifest`.
        running: See `Manifest`; empty for always.
        derived: See `Manifest`; the booster's columns after `features`.
        consistency: See `Manifest`.
        sequences: Become the golden sequences.
        source: Where the model comes from, for people.
        created: With a time zone; now, where it is left out.

    Returns:
        The manifest as written.

    Raises:
        ModelError: The model would be refused by a device, or `directory` contains non-model files.
    """
    directory = directory.resolve()
    require_target(directory, name, version)
    written_by = booster_version(booster)
    if written_by:
        refuse_newer(written_by, "booster")
    parsed = parse_booster(booster)
    columns = len(features) + len(derived)
    scorer = Scorer(parsed, columns)
    if parsed.num_features() != columns:
        raise ModelError(f"features: the booster has {parsed.num_features()}, {columns} are named")
    moment = (created or datetime.now(timezone.utc)).astimezone(timezone.utc)
    try:
        manifest = _manifest(
            name=name,
            version=version,
            created=moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
            objective=json.loads(parsed.save_config())["learner"]["objective"]["name"],
            booster=BoosterFile(file=booster_file, sha256=sha256(booster)),
            xgboost_version=written_by or xgboost.__version__,
            features=list(features),
            threshold=threshold,
            classes=None if classes is None else list(classes),
            normal_class=normal_class,
            metrics=dict(metrics or {}),
            alarm=alarm,
            horizon_seconds=horizon_seconds,
            running=list(running) or None,
            derived=list(derived),
            consistency=consistency,
            golden=_golden(scorer, features, _chosen(scorer, features, rows, len(derived)), len(derived)),
            golden_sequences=[_golden_sequence(scorer, one, features, derived, running) for one in sequences],
            source=source,
        )
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:5]
        )
        raise ModelError(f"manifest: {problems}") from error
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as workshop:
        fresh = Path(workshop) / "new"
        fresh.mkdir()
        (fresh / booster_file).write_bytes(booster)
        (fresh / MANIFEST_FILE).write_text(dump_manifest(manifest), encoding="utf-8")
        load_model(fresh)
        if directory.exists():
            directory.rename(Path(workshop) / "old")
        fresh.rename(directory)
        shutil.rmtree(Path(workshop) / "old", ignore_errors=True)
    return manifest


def _manifest(**fields: Any) -> Manifest:
    """In the oldest format that can say it."""
    newest = Manifest(format=2, **fields)
    return newest if newest.needs_format_2 else newest.model_copy(update={"format": 1})


def require_target(directory: Path, name: str, version: str) -> None:
    """What can be known before a model is made: whether it could be written there, under this name.

    Args:
        directory: See `write_model`.
        name: Of the model.
        version: Of the model.

    Raises:
        ModelError: It could not.
    """
    _refuse_foreign(directory)
    for key, value in (("name", name), ("version", version)):
        try:
            TypeAdapter(Identifier).validate_python(value)
        except ValidationError as error:
            raise ModelError(
                f"{key}: {value!r} is not 1 to 128 of A-Z, a-z, 0-9, '.', '_', '+' and '-', a letter or a digit first"
            ) from error


def with_missing_values(features: Iterable[Feature], dialect: Dialect) -> tuple[Feature, ...]:
    """The features with the numbers that stand for a missing value, so that a device takes them for that, too."""
    return tuple(
        feature.model_copy(update={"missing_values": sorted(gone)})
        if (gone := dialect.missing.get("", frozenset()) | dialect.missing.get(feature.name, frozenset()))
        and feature.categories is None
        else feature
        for feature in features
    )


def with_histograms(features: Iterable[Feature], matrix: FloatMatrix) -> list[Feature]:
    """The features with the distribution of their training data.

    Args:
        features: f features in the order of the columns.
        matrix: Shape (n, f), in the features' units (codes of categories); NaN for what is missing.
    """
    return [
        feature.model_copy(update={"histogram": histogram(known)}) if len(known) else feature
        for feature, known in ((feature, _known(matrix[:, column])) for column, feature in enumerate(features))
    ]


def _known(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    known: npt.NDArray[np.floating[Any]] = values[np.isfinite(values)]
    return known


def histogram(values: npt.NDArray[np.floating[Any]]) -> Histogram:
    """The distribution of one feature, in bins of about equal content.

    Bins of equal content keep their power where a sensor's values crowd together and have a long tail. A feature of
    few distinct values (a switch, a class of product) gets a bin for each, its value in the middle. A bin holds its
    lower edge; the last one both.

    Args:
        values: Shape (n,), finite; n at least 1.
    """
    exact = values.astype(np.float64)
    distinct = np.unique(exact)
    if len(distinct) == 1:
        # At least as wide as float32 can tell apart, or a reading of the same value could fall outside.
        half = max(abs(float(distinct[0])) * 1e-3, 0.5)
        edges = np.array([distinct[0] - half, distinct[0] + half])
    elif len(distinct) <= HISTOGRAM_BINS:
        middles = (distinct[1:] + distinct[:-1]) / 2
        edges = np.concatenate(([2 * distinct[0] - middles[0]], middles, [2 * distinct[-1] - middles[-1]]))
    else:
        shares = np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1)
        edges = np.unique(np.quantile(exact, shares))
        if len(edges) <= HISTOGRAM_BINS // 2:
            # One value holds most of the data: share out the distinct values, or all others would fall into one bin.
            edges = np.unique(np.quantile(distinct, shares))
    counts, _ = np.histogram(exact, bins=edges)
    return Histogram(edges=edges.tolist(), counts=counts.tolist())


def _chosen(scorer: Scorer, features: Sequence[Feature], rows: FloatMatrix, missing: int) -> FloatMatrix:
    able = np.array([feature.missing_allowed for feature in features])
    return choose_golden_rows(scorer, rows, missing=missing, able=able)


def choose_golden_rows(
    scorer: Scorer,
    rows: FloatMatrix,
    count: int = GOLDEN_READINGS,
    *,
    missing: int = 0,
    able: npt.NDArray[np.bool_] | None = None,
) -> FloatMatrix:
    """Choose readings that notice a wrong model: over the whole range of scores, and such that a swap shows.

    Where exchanging two features changes no chosen reading's score, a reading is added that it does change, if there is
    one: a booster without feature names has no other guard against two swapped features.

    Args:
        scorer: The booster.
        rows: Shape (n, f).
        count: How many for the range of scores; all rows, where there are not more.
        missing: Number of derived features, which follow the rows' columns and are missing.
        able: Shape (f,): which features may be missing (NaN); None for none.

    Returns:
        Shape (m, f).

    Raises:
        ModelError: No row is finite.
    """
    gaps = np.zeros(rows.shape[1], dtype=bool) if able is None else able
    finite = rows[(np.isfinite(rows) | (np.isnan(rows) & gaps)).all(axis=1)]
    if len(finite) == 0:
        raise ModelError("golden: there is no reading to score (every row holds NaN or infinity, or there is none)")
    candidates = finite[_spread(_scores(scorer, finite, missing), _CANDIDATES)]
    scores = _scores(scorer, candidates, missing)
    chosen = _spread(scores, count)
    features = rows.shape[1]
    # Neighbours first: with very many features not every pair can be tried, and neighbours are swapped more often.
    pairs = sorted(itertools.combinations(range(features), 2), key=lambda pair: pair[1] - pair[0])[:_MAX_PAIRS]
    for left, right in pairs:
        swapped = candidates.copy()
        swapped[:, [left, right]] = candidates[:, [right, left]]
        # Relative where scores are beyond 1, as `scores_agree` compares.
        change = (np.abs(_scores(scorer, swapped, missing) - scores) / np.maximum(1.0, np.abs(scores))).max(axis=1)
        best = int(change.argmax())
        if change[best] > _VISIBLE and change[chosen].max() <= _VISIBLE:
            chosen.append(best)
    return candidates[chosen]


def _spread(scores: npt.NDArray[np.float64], count: int) -> list[int]:
    """Positions of rows that cover each output: half at even ranks, half at even values, since abnormal ones are rare."""
    if len(scores) <= count:
        return list(range(len(scores)))
    half = max(2, count // scores.shape[1] // 2)
    taken: set[int] = set()
    for output in scores.T:
        order = np.argsort(output, kind="stable")
        ranked = output[order]
        ranks = np.linspace(0, len(order) - 1, half).round().astype(int)
        # The ends are among the ranks already.
        values = np.linspace(ranked[0], ranked[-1], half + 2)[1:-1]
        taken.update(order[ranks].tolist(), order[np.searchsorted(ranked, values)].tolist())
    return sorted(taken)


def _scores(scorer: Scorer, rows: FloatMatrix, missing: int) -> npt.NDArray[np.float64]:
    """Shape (n, outputs)."""
    whole = np.hstack([rows, np.full((len(rows), missing), np.nan)]).astype(np.float32)
    scores = np.array(scorer.score(whole), dtype=np.float64)
    return scores.reshape(len(rows), -1)


def _golden(scorer: Scorer, features: Sequence[Feature], rows: FloatMatrix, missing: int) -> list[Golden]:
    golden = []
    for row in rows:
        values = _short(row)
        (score,) = scorer.score([values + [np.nan] * missing])
        golden.append(Golden(reading=_reading(features, values), score=score))
    return golden


def _reading(features: Sequence[Feature], values: Sequence[float]) -> dict[str, Value]:
    """As a message has it: None for what is missing, the text of a category."""
    return {feature.name: feature.value(value) for feature, value in zip(features, values, strict=True)}


def _short(row: FloatMatrix) -> list[float]:
    """float(str()) of a float32 is the short number that people recognise (69.71), and the same float32 again."""
    return [float(str(value)) for value in row]


def _golden_sequence(
    scorer: Scorer,
    machine: MachineReadings,
    features: Sequence[Feature],
    derived: Sequence[Derived],
    running: Sequence[Condition],
) -> GoldenSequence:
    readings = []
    for seconds, row in zip(machine.seconds, machine.values, strict=True):
        moment = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
        values = _reading(features, _short(row))
        readings.append(TimedReading(timestamp=moment.replace("+00:00", "Z"), values=values))
    scores = score_sequence(scorer, readings, features, derived, running)
    return GoldenSequence(equipment_id=machine.equipment_id, readings=readings, scores=scores)


def _refuse_foreign(directory: Path) -> None:
    """A mistyped target must not cost a directory of something else."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ModelError(f"directory: {directory} is a file")
    held = list(directory.iterdir())
    foreign = sorted(path.name for path in held if not path.is_file() or path.suffix not in _OWN_SUFFIXES)
    if foreign or (held and not (directory / MANIFEST_FILE).is_file()):
        raise ModelError(f"directory: {directory} contains non-model files ({(foreign or ['no manifest'])[0]})")
