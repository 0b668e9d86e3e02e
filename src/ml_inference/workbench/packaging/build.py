"""Builds a model directory from a source that nobody has checked yet; run in a child process (`packaging.child`).

Everything that touches foreign bytes happens here: the archive, the booster, the table. What XGBoost has never loaded is
loaded, walked and scored before the writer makes a directory of it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xgboost
from pydantic import ValidationError
from pydantic_core import from_json

from ml_inference.model.bundle import MAX_BOOSTER_BYTES, booster_objective, booster_version, parse_booster, refuse_newer
from ml_inference.model.forest import Floats, Tree, read_forest, split_points, stored_categories, used_features
from ml_inference.model.manifest import Feature, Manifest, ModelError, booster_feature_name, scores_agree
from ml_inference.model.objectives import objective_of
from ml_inference.model.scorer import FloatArray, Score, Scorer
from ml_inference.offline.chunks import Broken, Document, TableError
from ml_inference.offline.sentinels import suspected
from ml_inference.offline.tables import read_documents
from ml_inference.scoring.readings import Reading, ReadingDecoder
from ml_inference.workbench.packaging.archives import read_booster
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.formats import HEAD_BYTES, Kind, kind_of, require_loadable
from ml_inference.workbench.packaging.readings import confusable, golden_candidates
from ml_inference.workbench.packaging.request import Report, Request
from ml_inference.workbench.writer import with_histograms, with_missing_values, write_model

_NAMES_SHOWN = 8


def build(request: Request) -> Report:
    """Make the model directory.

    Raises:
        PackagingError: The source or the options do not make a model.
        ModelError: A device would refuse the model.
        TableError: The table cannot be read.
    """
    notes: list[str] = []
    warnings: list[str] = []
    source, content = _read_source(request)
    kind = require_loadable(content[:HEAD_BYTES], source)
    booster = _open(content)
    forest = _forest(booster)
    features = _able(request, _features(request, booster), booster)
    table = _Table.read(request, features) if request.data else None
    if table is not None:
        if table.unusable:
            warnings.append(f"{table.unusable} of {table.unusable + len(table.rows)} rows of the data are no readings")
        if request.limits_from_data:
            features = _with_limits(features, table.rows)
        warnings += _sentinels(features, table.rows, split_points(forest, len(features)))
        features = with_histograms(features, table.rows)
    rounds = _rounds(request, booster, notes)
    if table is not None and table.expected is not None:
        _compare(request, booster, table, rounds, notes)
    rows = None if table is None else table.rows
    if rounds < booster.num_boosted_rounds():
        probes = golden_candidates(forest, Scorer(booster, len(features)), features, rows)
        content, kind = _cut(booster, rounds, probes), Kind.UBJSON
        booster = parse_booster(content)
        forest = _forest(booster)
    scorer = Scorer(booster, len(features))
    manifest = write_model(
        request.out,
        booster=content,
        booster_file="booster.json" if kind is Kind.JSON else "booster.ubj",
        name=request.name,
        version=request.version,
        features=features,
        rows=golden_candidates(forest, scorer, features, rows),
        threshold=_threshold(request, booster_objective(booster), _outputs(scorer, features), notes),
        classes=request.classes,
        normal_class=_normal_class(request),
        source=request.label,
    )
    warnings += _doubts(manifest, booster, scorer, forest)
    return Report(
        name=manifest.name,
        version=manifest.version,
        features=list(manifest.feature_names),
        objective=manifest.objective,
        xgboost_version=manifest.xgboost_version,
        golden=len(manifest.golden),
        notes=notes,
        warnings=warnings,
    )


def _read_source(request: Request) -> tuple[str, bytes]:
    try:
        with request.source.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if kind_of(head) is Kind.TAR:
                member, content = read_booster(request.source, request.member)
                return f"{request.label}: {member}", content
            if request.member is not None:
                raise PackagingError(f"{request.label}: --member is for archives, and this is none")
            # Not up to the limit: a buffer of the size asked for is reserved before anything is read.
            content = head + file.read(min(MAX_BOOSTER_BYTES, request.source.stat().st_size) + 1)
    except OSError as error:
        raise PackagingError(f"{request.label}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BOOSTER_BYTES:
        raise PackagingError(f"{request.label}: is larger than {MAX_BOOSTER_BYTES} bytes")
    return request.label, content


def _open(content: bytes) -> xgboost.Booster:
    version = booster_version(content)
    if version is None:
        raise PackagingError("booster: does not say which xgboost wrote it: it is cut short, or no booster")
    refuse_newer(version, "booster")
    return parse_booster(content)


def _features(request: Request, booster: xgboost.Booster) -> list[Feature]:
    held = booster.feature_names
    count = booster.num_features()
    if request.features is None and held is None:
        raise PackagingError(
            f"features: the booster holds no names; give its {count} with --features, in the order of the training columns"
        )
    if request.features is None:
        try:
            features = [Feature(name=_users_name(name)) for name in held or []]
        except ValidationError as error:
            raise PackagingError(f"features: {error.errors()[0]['msg']}") from error
    else:
        features = request.features
    if len(features) != count:
        raise PackagingError(f"features: the booster has {count}, {len(features)} are given")
    if held is not None:
        _require_same_names(held, [feature.name for feature in features])
    unknown = sorted(set(request.units) - {feature.name for feature in features})
    if unknown:
        raise PackagingError(f"features: there is no {unknown[0]!r} to have a unit")
    return [
        feature.model_copy(update={"unit": request.units[feature.name]}) if feature.name in request.units else feature
        for feature in features
    ]


def _able(request: Request, features: Sequence[Feature], booster: xgboost.Booster) -> list[Feature]:
    """The features with their categories, and with what stands for a missing value, which they may then lack.

    Raises:
        PackagingError: An option names no feature, or one that is none of a category, or other categories than the booster's.
    """
    types = booster.feature_types
    names = [feature.name for feature in features]
    lacking = [] if request.allow_missing == ["all"] else request.allow_missing
    for option, asked in (("--categories", request.categories), ("--allow-missing", lacking)):
        if unknown := sorted(set(asked) - set(names)):
            raise PackagingError(f"{option}: there is no feature {unknown[0]!r}")
    coded = {name for name, kind in zip(names, types or [], strict=False) if kind == "c"}
    if types and (plain := sorted(set(request.categories) - coded)):
        raise PackagingError(f"--categories: {plain[0]!r} is a number to the booster")
    stored = dict(zip(names, stored_categories(booster), strict=True))
    for name, categories in request.categories.items():
        if stored[name] not in (None, categories):
            raise PackagingError(
                f"--categories: the booster knows those of {name!r} as {','.join(stored[name] or [])}, in this order: leave the option out"
            )
    described = with_missing_values(features, request.dialect)
    return [
        feature.model_copy(
            update={
                "categories": request.categories.get(feature.name, feature.categories or stored[feature.name]),
                "missing_allowed": feature.missing_allowed
                or bool(feature.missing_values)
                or feature.name in lacking
                or request.allow_missing == ["all"],
            }
        )
        for feature in described
    ]


def _users_name(held: str) -> str:
    """The name whose `booster_feature_name` a booster holds; any other is the user's own already."""
    decoded = re.sub("%(25|5B|5D|3C)", lambda match: chr(int(match[1], 16)), held)
    return decoded if booster_feature_name(decoded) == held else held


def _require_same_names(held: Sequence[str], given: Sequence[str]) -> None:
    wrong = [
        (column, mine, theirs)
        for column, (mine, theirs) in enumerate(zip(held, given, strict=True))
        if mine not in (theirs, booster_feature_name(theirs))
    ]
    if not wrong:
        return
    if sorted(held) == sorted(given):
        raise PackagingError(f"features: in another order than in the booster, which has {_shown(held)}")
    column, mine, theirs = wrong[0]
    raise PackagingError(
        f"features: column {column} is {mine!r} in the booster, not {theirs!r}; leave --features out, or rename it where the "
        "booster is: booster.feature_names = [...]"
    )


class _Table:
    """A table of readings that the model's own validation accepts.

    Attributes:
        rows: Shape (n, f).
        expected: Scores that the table says the model gives, by row; None where it is not asked.
        unusable: Rows that are no readings of this model.
    """

    def __init__(self, rows: FloatArray, expected: list[float] | None, unusable: int) -> None:
        self.rows = rows
        self.expected = expected
        self.unusable = unusable

    @classmethod
    def read(cls, request: Request, features: Sequence[Feature]) -> _Table:
        column = request.expected
        decoder = ReadingDecoder(features)
        rows: list[FloatArray] = []
        expected: list[float] = []
        problem = ""
        unusable = 0
        for place, document in _documents(request, features):
            reading = decoder.reading(document)
            if not isinstance(reading, Reading):
                unusable += 1
                error = reading.errors[0]
                problem = problem or f"{place}: {'.'.join(map(str, error.loc))} {error.msg}"
                continue
            if column is not None:
                expected.append(_expected_score(document, column, place))
            rows.append(np.array(reading.values, dtype=np.float32))
        if not rows:
            raise PackagingError(f"data: holds no reading of this model ({problem or 'it is empty'})")
        return cls(np.array(rows), None if column is None else expected, unusable)


def _documents(request: Request, features: Sequence[Feature]) -> Iterator[tuple[str, Any]]:
    """What stands in each row, after its place."""
    names = frozenset(feature.name for feature in features)
    coded = frozenset(feature.name for feature in features if feature.categories)
    for file, number, item in read_documents(request.data, request.dialect, numbers=names, text=coded):
        place = f"line {number}" + (f" of {file.name}" if len(request.data) > 1 else "")
        if isinstance(item, Broken):
            raise TableError(f"{file}: line {number}: {item.reason}")
        if not isinstance(item, bytes):
            yield place, item
            continue
        try:
            document = from_json(item)
        except ValueError as error:
            raise TableError(f"{file}: line {number} is not JSON: {error}") from error
        inner = document.get("readings") if isinstance(document, dict) else document
        yield from ((place, one) for one in (inner if isinstance(inner, list) else [document]))


def _expected_score(document: Document, column: str, place: str) -> float:
    value = document.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PackagingError(f"data: {place} has no number in column {column!r}")
    return float(value)


def _with_limits(features: Sequence[Feature], rows: FloatArray) -> list[Feature]:
    """Limits from what was seen, widened by that range itself on both sides; what was never negative stays so.

    A fault looks unlike anything seen before, and must still be scored.
    """
    limited = []
    for feature, low, high in zip(features, _ends(np.fmin, rows), _ends(np.fmax, rows), strict=True):
        if feature.categories or not np.isfinite(low):
            limited.append(feature)
            continue
        room = (high - low) or max(abs(high), 1.0)
        minimum = 0.0 if low >= 0.0 > low - room else low - room
        update = {"minimum": minimum, "maximum": high + room}
        own = {
            name: value
            for name, value in (("minimum", feature.minimum), ("maximum", feature.maximum))
            if value is not None
        }
        limited.append(feature.model_copy(update=update | own))
    return limited


def _ends(choose: np.ufunc, rows: FloatArray) -> list[float]:
    """The least or the largest value of each column that is not missing."""
    ends: list[float] = choose.reduce(rows, axis=0).tolist()
    return ends


def _best_rounds(booster: xgboost.Booster) -> int | None:
    best = booster.attr("best_iteration")
    return int(best) + 1 if best is not None and best.isdigit() else None


def _rounds(request: Request, booster: xgboost.Booster, notes: list[str]) -> int:
    """How many boosting rounds to serve."""
    held = booster.num_boosted_rounds()
    if request.trees == "all":
        return held
    if isinstance(request.trees, int):
        if not 1 <= request.trees <= held:
            raise PackagingError(f"trees: the booster has {held} rounds, not {request.trees}")
        return request.trees
    best = _best_rounds(booster)
    if best is None or not 1 <= best < held:
        return held
    notes.append(
        f"served are the first {best} of {held} rounds, up to the booster's best_iteration, as scikit-learn's wrapper and "
        "SageMaker's container predict; --trees all serves every round, as Booster.predict does"
    )
    return best


def _cut(booster: xgboost.Booster, rounds: int, rows: FloatArray) -> bytes:
    """The booster with its first rounds only, in UBJSON; it must score as the whole one does up to there."""
    content = bytes(booster[:rounds].save_raw("ubj"))
    whole = booster.inplace_predict(rows, iteration_range=(0, rounds)).tolist()
    if not all(map(scores_agree, whole, parse_booster(content).inplace_predict(rows).tolist())):
        raise PackagingError(f"trees: this booster cannot be cut to {rounds} rounds; package it with --trees all")
    return content


def _compare(request: Request, booster: xgboost.Booster, table: _Table, rounds: int, notes: list[str]) -> None:
    """Whether the booster gives the scores that it is known to give.

    Raises:
        PackagingError: It does not.
    """
    wrong = _differences(request, booster, table, rounds)
    total = len(table.rows)
    if not wrong:
        notes.append(f"the booster gives the {total} scores of column {request.expected!r}")
        return
    row, expected, score = wrong[0]
    text = f"{len(wrong)} of {total} scores differ from column {request.expected!r}: reading {row} says {expected}, it gives {score}"
    others = {booster.num_boosted_rounds(): "all", _best_rounds(booster): "best"}
    for other, option in others.items():
        if other not in (None, rounds) and not _differences(request, booster, table, other or 0):
            raise PackagingError(f"expected: {text}; with --trees {option} all are as expected")
    raise PackagingError(f"expected: {text}")


def _differences(
    request: Request, booster: xgboost.Booster, table: _Table, rounds: int
) -> list[tuple[int, float, Score]]:
    scores: list[Score] = booster.inplace_predict(table.rows, iteration_range=(0, rounds)).tolist()
    return [
        (number, expected, score)
        for number, (expected, score) in enumerate(zip(table.expected or [], scores, strict=True), start=1)
        if not scores_agree(expected, score, request.tolerance)
    ]


def _outputs(scorer: Scorer, features: Sequence[Feature]) -> int:
    """How many numbers the booster gives for a reading."""
    (score,) = scorer.score(np.zeros((1, len(features)), dtype=np.float32))
    return len(score) if isinstance(score, list) else 1


def _threshold(request: Request, name: str, outputs: int, notes: list[str]) -> float | None:
    objective = objective_of(name)
    several = objective.classes
    notes.append(
        f"a score is {objective.score} ({name})" + (f"; {outputs} of them" if outputs > 1 and not several else "")
    )
    if request.classes is not None and not several:
        raise PackagingError(f"classes: the objective {name} has none")
    if request.threshold is not None:
        if not objective.threshold:
            raise PackagingError(
                f"threshold: a score of {name} is {objective.score}, so there is nothing to compare with a threshold"
                + ("; what is abnormal follows from --normal-class" if several else "")
            )
        if several and request.normal_class is None:
            raise PackagingError("threshold: of a multi-class model it needs a --normal-class")
        if outputs > 1 and not several:
            raise PackagingError(
                f"threshold: the model gives {outputs} numbers for a reading, of which none is the verdict"
            )
        return request.threshold
    if not objective.threshold or objective.even_odds is None or (several and request.normal_class is None):
        return None
    notes.append(f"threshold {objective.even_odds:g}, even odds, since none is given")
    return objective.even_odds


def _normal_class(request: Request) -> int | None:
    if request.normal_class is None:
        return None
    if request.classes is None or request.normal_class not in request.classes:
        raise PackagingError(f"classes: {request.normal_class!r} is not one of --classes")
    return request.classes.index(request.normal_class)


def _doubts(manifest: Manifest, booster: xgboost.Booster, scorer: Scorer, forest: Sequence[Tree]) -> list[str]:
    """What the user should know before many devices get this model."""
    names = manifest.feature_names
    doubts = []
    if idle := sorted(set(range(len(names))) - used_features(forest)):
        doubts.append(f"not used by any tree: {_shown([names[column] for column in idle])}")
    described = zip(manifest.features, booster.feature_types or [], strict=False)
    if coded := [feature.name for feature, kind in described if kind == "c" and feature.categories is None]:
        doubts.append(
            f"categorical, so messages must carry their codes; --categories NAME=A,B,... names them: {_shown(coded)}"
        )
    # Names in the booster are compared one by one when it is loaded.
    if booster.feature_names is None and (pairs := confusable(manifest, scorer, forest)):
        doubts.append(
            "no golden reading would notice if these were exchanged in the manifest, and the booster holds no names: "
            + _shown([f"{left} and {right}" for left, right in pairs])
        )
    return doubts


def _sentinels(features: Sequence[Feature], rows: FloatArray, points: Sequence[Floats]) -> list[str]:
    """Numbers in the data that probably stand for a missing value, which a device would take for measurements."""
    return [
        f"{feature.name!r} is {value:g} in {count} of {len(rows)} readings, far from all that the model compares it with: if "
        f"that stands for a missing value, say --missing-value {shlex.quote(f'{feature.name}={value:g}')}"
        for column, feature in enumerate(features)
        if feature.categories is None
        for value, count in suspected(rows[:, column], points[column])
    ]


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _forest(booster: xgboost.Booster) -> list[Tree]:
    try:
        return read_forest(booster)
    except ModelError as error:
        raise PackagingError(str(error)) from error
