import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.lib as pa
import pytest
import xgboost

from ml_inference.cli.main import main
from ml_inference.model.bundle import load_model
from ml_inference.model.forest import read_forest, stored_categories
from ml_inference.model.manifest import Feature, ModelError
from ml_inference.model.scorer import Scorer
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.workbench.packaging.build import build
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.readings import confusable
from ml_inference.workbench.packaging.request import Report, Request
from support.damage import edit_manifest

DATA = Path(__file__).parent / "data"
REGRESSION = DATA / "regression-1.6.2.json"
TABLE = DATA / "regression-1.6.2.csv"
STOPPED = DATA / "stopped-early-1.6.2.json"
CONTAINER = DATA / "sagemaker-3.0.5"
LETTERS = [Feature(name=name) for name in "abcdefghijklm"]


def package(source: Path, out: Path, **options: Any) -> Report:
    return build(Request(source=source, label=source.name, out=out, name="packaged", version="1.0.0", **options))


def published() -> tuple[list[dict[str, float]], list[float]]:
    with TABLE.open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return rows, [row.pop("Remaining life") for row in rows]


def saved(path: Path, booster: xgboost.Booster) -> Path:
    path.write_bytes(bytes(booster.save_raw(path.suffix[1:] or "ubj")))
    return path


def trained(
    columns: int = 4, *, names: list[str] | None = None, rounds: int = 10, **parameters: Any
) -> xgboost.Booster:
    rows = np.random.default_rng(5).normal(20.0, 5.0, (400, columns))
    label: Any = rows @ np.arange(1.0, columns + 1.0)
    if "num_class" in parameters:
        label = np.digitize(label, np.quantile(label, [0.3, 0.6]))
    elif parameters.get("objective", "").startswith("binary"):
        label = label > np.median(label)
    trees = {} if parameters.get("booster") == "gblinear" else {"max_depth": 3}
    return xgboost.train({**trees, **parameters}, xgboost.DMatrix(rows, label=label, feature_names=names), rounds)


def test_a_booster_of_xgboost_1_6_with_spaces_in_its_names_gives_its_authors_scores_in_batches(tmp_path: Path) -> None:
    report = package(REGRESSION, tmp_path / "model")
    assert report.xgboost_version == "1.6.2"
    assert report.objective == "reg:squarederror"
    assert report.features[:2] == ["Air temperature", "Process temperature"]
    readings, scores = published()
    outcome = Pipeline(load_model(tmp_path / "model")).process(json.dumps(readings).encode())
    assert [result.score for result in outcome.results] == pytest.approx(scores, rel=1e-6)
    assert {result.abnormal for result in outcome.results} == {None}


@pytest.mark.parametrize("name", ["regression-1.7.6.ubj", "sagemaker-3.0.5"])
def test_ubjson_gives_the_same_scores_whatever_xgboost_wrote_it_and_with_or_without_extension(
    tmp_path: Path, name: str
) -> None:
    given = None if name.endswith(".ubj") else [Feature(name=name) for name in published()[0][0]]
    package(DATA / name, tmp_path / "model", features=given)
    readings, _ = published()
    model = load_model(tmp_path / "model")
    booster = xgboost.Booster()
    booster.load_model(bytearray((DATA / name).read_bytes()))
    rows = np.array([list(reading.values()) for reading in readings], dtype=np.float32)
    expected = booster.predict(xgboost.DMatrix(rows), validate_features=False)
    assert model.scorer.score(rows) == pytest.approx(expected.tolist(), rel=1e-6)
    assert (tmp_path / "model" / "booster.ubj").read_bytes() == (DATA / name).read_bytes()


def test_the_old_binary_format_says_how_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match=r"^sagemaker-1\.7\.6: .*convert it with xgboost 3\.0\.5"):
        package(DATA / "sagemaker-1.7.6", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("trees", "rounds"), [("best", 1), ("all", 9), (4, 4)])
def test_a_booster_that_stopped_early_serves_the_rounds_that_were_chosen(
    tmp_path: Path, trees: str | int, rounds: int
) -> None:
    report = package(STOPPED, tmp_path / "model", features=LETTERS, trees=trees)
    booster = xgboost.Booster(model_file=STOPPED)
    rows = np.random.default_rng(1).normal(50.0, 15.0, (200, 13)).astype(np.float32)
    expected = booster.predict(xgboost.DMatrix(rows), iteration_range=(0, rounds))
    assert load_model(tmp_path / "model").scorer.score(rows) == pytest.approx(expected.tolist(), abs=1e-7)
    assert any("best_iteration" in note for note in report.notes) == (trees == "best")


def test_more_rounds_than_there_are_cannot_be_served(tmp_path: Path) -> None:
    for trees in (0, 10):
        with pytest.raises(PackagingError, match=f"^trees: the booster has 9 rounds, not {trees}"):
            package(STOPPED, tmp_path / "model", features=LETTERS, trees=trees)


@pytest.mark.parametrize(
    "parameters", [{"booster": "dart", "rate_drop": 0.3}, {"num_parallel_tree": 3, "subsample": 0.5}]
)
def test_a_cut_booster_scores_as_the_whole_one_up_to_there(tmp_path: Path, parameters: dict[str, Any]) -> None:
    booster = trained(**parameters)
    package(saved(tmp_path / "b.ubj", booster), tmp_path / "model", features=LETTERS[:4], trees=6)
    rows = np.random.default_rng(1).normal(20.0, 5.0, (50, 4)).astype(np.float32)
    expected = booster.inplace_predict(rows, iteration_range=(0, 6))
    assert load_model(tmp_path / "model").scorer.score(rows) == pytest.approx(expected.tolist(), rel=1e-6)


def test_a_booster_without_names_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match=r"holds no names; give its 13 with --features"):
        package(CONTAINER, tmp_path / "model")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "b", "c"], r"^features: the booster has 4, 3 are given$"),
        (["p", "r", "q", "s"], r"^features: in another order than in the booster, which has p, q, r, s$"),
        (["p", "q", "r", "t"], r"^features: column 3 is 's' in the booster, not 't'; leave --features out"),
    ],
)
def test_names_that_are_not_the_boosters_are_refused(tmp_path: Path, names: list[str], reason: str) -> None:
    source = saved(tmp_path / "b.json", trained(names=["p", "q", "r", "s"]))
    with pytest.raises(PackagingError, match=reason):
        package(source, tmp_path / "model", features=[Feature(name=name) for name in names])


def test_names_that_xgboost_cannot_hold_are_the_users_own_again(tmp_path: Path) -> None:
    source = saved(tmp_path / "b.ubj", trained(names=["Air temperature %5BK%5D", "Load %", "100%25", "d"]))
    report = package(source, tmp_path / "model")
    assert report.features == ["Air temperature [K]", "Load %", "100%", "d"]


def test_a_name_of_the_message_envelope_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "b.ubj", trained(names=["timestamp", "b", "c", "d"]))
    with pytest.raises(PackagingError, match=r"^features: .*'timestamp': the message's envelope uses that key"):
        package(source, tmp_path / "model")


def test_units_and_limits_reach_the_manifest(tmp_path: Path) -> None:
    features = [Feature(name="a", unit="mm", minimum=0.0, maximum=40.0), *LETTERS[1:4]]
    source = saved(tmp_path / "b.ubj", trained())
    package(source, tmp_path / "model", features=features, units={"b": "mm/s"})
    manifest = load_model(tmp_path / "model").manifest
    assert [feature.unit for feature in manifest.features] == ["mm", "mm/s", "", ""]
    assert all(isinstance(value := golden.reading["a"], float) and 0.0 <= value <= 40.0 for golden in manifest.golden)
    with pytest.raises(PackagingError, match=r"^features: there is no 'x' to have a unit"):
        package(source, tmp_path / "model", features=features, units={"x": "mm"})


def test_data_give_histograms_golden_readings_and_limits(tmp_path: Path) -> None:
    package(REGRESSION, tmp_path / "model", data=[TABLE], limits_from_data=True)
    manifest = load_model(tmp_path / "model").manifest
    readings, _ = published()
    seen = [reading["Torque Nm"] for reading in readings]
    torque = manifest.features[3]
    assert torque.histogram is not None
    assert sum(torque.histogram.counts) == 100
    width = max(seen) - min(seen)
    assert torque.minimum == 0.0  # never negative, and less than its range above zero
    assert torque.maximum == pytest.approx(max(seen) + width)
    real = [golden for golden in manifest.golden if golden.reading in readings]
    assert len(real) >= 15


def test_rows_that_are_no_readings_are_counted_and_left_out(tmp_path: Path) -> None:
    table = tmp_path / "table.jsonl"
    readings, _ = published()
    broken = [readings[0] | {"Torque Nm": "high"}, {"Torque Nm": 1.0}, [1, 2]]
    table.write_text("\n".join(json.dumps(row) for row in [*readings[:20], *broken]))
    report = package(REGRESSION, tmp_path / "model", data=[table])
    assert "4 of 24 rows of the data are no readings" in report.warnings
    table.write_text("\n".join(json.dumps(row) for row in broken))
    with pytest.raises(
        PackagingError, match=r"^data: holds no reading of this model \(line 1: Torque Nm Input should be"
    ):
        package(REGRESSION, tmp_path / "model", data=[table])


def test_scores_that_the_author_published_are_compared_while_packaging(tmp_path: Path) -> None:
    report = package(REGRESSION, tmp_path / "model", data=[TABLE], expected="Remaining life")
    assert "the booster gives the 100 scores of column 'Remaining life'" in report.notes
    table = tmp_path / "wrong.csv"
    table.write_text(TABLE.read_text().replace("178.91774", "178.95"))
    with pytest.raises(
        PackagingError, match=r"^expected: 1 of 100 scores differ .* reading 2 says 178\.95, it gives 178\.917"
    ):
        package(REGRESSION, tmp_path / "other", data=[table], expected="Remaining life")
    package(REGRESSION, tmp_path / "other", data=[table], expected="Remaining life", tolerance=1e-3)
    with pytest.raises(PackagingError, match=r"^data: line 2 has no number in column 'Life'"):
        package(REGRESSION, tmp_path / "other", data=[TABLE], expected="Life")


def test_scores_of_another_number_of_rounds_say_which_option_gives_them(tmp_path: Path) -> None:
    booster = xgboost.Booster(model_file=STOPPED)
    rows = np.random.default_rng(3).normal(50.0, 15.0, (20, 13)).round(2).astype(np.float32)
    table = tmp_path / "all.jsonl"
    scores = booster.predict(xgboost.DMatrix(rows)).tolist()
    table.write_text(
        "\n".join(
            json.dumps(dict(zip("abcdefghijklm", map(float, map(str, row)), strict=True)) | {"score": score})
            for row, score in zip(rows, scores, strict=True)
        )
    )
    with pytest.raises(PackagingError, match=r"; with --trees all all are as expected$"):
        package(STOPPED, tmp_path / "model", features=LETTERS, data=[table], expected="score")
    package(STOPPED, tmp_path / "model", features=LETTERS, data=[table], expected="score", trees="all")


def test_a_probability_gets_even_odds_for_a_threshold_where_none_is_given(tmp_path: Path) -> None:
    source = saved(tmp_path / "b.ubj", trained(objective="binary:logistic"))
    report = package(source, tmp_path / "model", features=LETTERS[:4])
    assert load_model(tmp_path / "model").manifest.threshold == 0.5
    assert any(note.startswith("threshold 0.5") for note in report.notes)
    package(source, tmp_path / "model", features=LETTERS[:4], threshold=0.9)
    assert load_model(tmp_path / "model").manifest.threshold == 0.9


def test_a_multi_class_model_knows_its_classes_and_which_is_normal(tmp_path: Path) -> None:
    source = saved(tmp_path / "b.ubj", trained(objective="multi:softprob", num_class=3))
    options: dict[str, Any] = {"features": LETTERS[:4], "classes": ["good", "worn", "broken"]}
    package(source, tmp_path / "model", normal_class="good", **options)
    manifest = load_model(tmp_path / "model").manifest
    assert (manifest.classes, manifest.normal_class, manifest.threshold) == (["good", "worn", "broken"], 0, 0.5)
    with pytest.raises(PackagingError, match=r"^classes: 'fine' is not one of --classes"):
        package(source, tmp_path / "model", normal_class="fine", **options)
    with pytest.raises(PackagingError, match=r"^threshold: of a multi-class model it needs a --normal-class"):
        package(source, tmp_path / "model", threshold=0.5, **options)
    with pytest.raises(ModelError, match=r"^classes: the manifest names 2, the booster has 3"):
        package(source, tmp_path / "model", features=LETTERS[:4], classes=["good", "bad"])


def test_classes_of_a_model_that_has_none_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "b.ubj", trained())
    with pytest.raises(PackagingError, match=r"^classes: the objective reg:squarederror has none"):
        package(source, tmp_path / "model", features=LETTERS[:4], classes=["a", "b"])


def test_every_swap_of_two_features_of_a_nameless_booster_is_caught_by_made_up_golden_readings(tmp_path: Path) -> None:
    report = package(CONTAINER, tmp_path / "model", features=LETTERS)
    assert not any("exchanged" in warning for warning in report.warnings)
    path = tmp_path / "model" / "manifest.json"
    features = json.loads(path.read_text())["features"]
    caught = 0
    for left, right in itertools.combinations(range(13), 2):
        swapped = list(features)
        swapped[left], swapped[right] = features[right], features[left]
        edit_manifest(tmp_path / "model", features=swapped)
        with pytest.raises(ModelError, match=r"^golden: "):
            load_model(tmp_path / "model")
        caught += 1
    assert caught == 78


def test_golden_readings_are_the_same_each_time(tmp_path: Path) -> None:
    package(CONTAINER, tmp_path / "one", features=LETTERS)
    package(CONTAINER, tmp_path / "two", features=LETTERS)
    assert load_model(tmp_path / "one").manifest.golden == load_model(tmp_path / "two").manifest.golden


def test_features_that_no_reading_tells_apart_are_warned_of_and_unused_ones_named(tmp_path: Path) -> None:
    # Two columns of which the model makes the same: exchanging them changes nothing.
    rows = np.random.default_rng(0).normal(0.0, 1.0, (400, 3))
    matrix = np.concatenate((rows, rows[:, [1, 0, 2]]))
    label = (matrix[:, 0] > 0).astype(float) + (matrix[:, 1] > 0)
    stumps = {"max_depth": 1, "eta": 1.0, "lambda": 0.0, "base_score": 1.0, "tree_method": "exact"}
    booster = xgboost.train(stumps, xgboost.DMatrix(matrix, label=label), 2)
    document = json.loads(bytes(booster.save_raw("json")))
    first, second = document["learner"]["gradient_booster"]["model"]["trees"]
    for key in ("split_conditions", "base_weights"):
        second[key] = first[key]
    assert {first["split_indices"][0], second["split_indices"][0]} == {0, 1}
    source = tmp_path / "b.json"
    source.write_text(json.dumps(document, separators=(",", ":")))
    report = package(source, tmp_path / "model", features=LETTERS[:3])
    assert "not used by any tree: c" in report.warnings
    assert any(warning.endswith("the booster holds no names: a and b") for warning in report.warnings)


def test_a_booster_of_many_features_is_told_apart_by_few_readings(tmp_path: Path) -> None:
    names = [Feature(name=f"s{number}") for number in range(60)]
    source = saved(tmp_path / "b.ubj", trained(60, rounds=60))
    report = package(source, tmp_path / "model", features=names)
    model = load_model(tmp_path / "model")
    booster = xgboost.Booster(model_file=source)
    assert report.golden <= 100
    assert confusable(model.manifest, Scorer(booster, 60), read_forest(booster)) == []


def test_a_categorical_feature_is_warned_of(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    rows = np.column_stack((random.integers(0, 5, 400), random.normal(0.0, 1.0, 400)))
    label = np.isin(rows[:, 0], [1, 3]) + rows[:, 1]
    data = xgboost.DMatrix(rows, label=label, feature_types=["c", "q"], enable_categorical=True)
    booster = xgboost.train({"max_depth": 3, "max_cat_to_onehot": 1}, data, 5)
    report = package(saved(tmp_path / "b.ubj", booster), tmp_path / "model", features=LETTERS[:2])
    coded = "categorical, so messages must carry their codes; --categories NAME=A,B,... names them: a"
    assert coded in report.warnings
    assert not any("exchanged" in warning for warning in report.warnings)


def trained_on_text(directory: Path) -> tuple[Path, Path, list[float]]:
    """A booster as a notebook saves it that has `enable_categorical` and a table with text; its data, and its scores."""
    random = np.random.default_rng(4)
    kind, x = random.choice(["L", "M", "H"], 400), random.normal(size=400)
    table = pa.table({"Type": pa.array(kind).dictionary_encode(), "x": x})
    matrix = xgboost.DMatrix(table, label=np.isin(kind, ["M", "H"]) ^ (x > 0), enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, matrix, 10)
    data = directory / "data.csv"
    data.write_text("Type,x\n" + "".join(f"{a},{b!r}\n" for a, b in zip(kind, x.tolist(), strict=True)))
    return saved(directory / "b.json", booster), data, booster.predict(matrix).tolist()


def test_categories_that_the_booster_knows_need_no_option(tmp_path: Path) -> None:
    source, data, expected = trained_on_text(tmp_path)
    package(source, tmp_path / "model", data=[data], threshold=0.5, allow_missing=["x"])
    kind, x = load_model(tmp_path / "model").manifest.features
    assert sorted(kind.categories or []) == ["H", "L", "M"]
    assert x.missing_allowed
    # Two files are one table.
    files = [option for _ in range(2) for option in ("--data", str(data))]
    assert main(["score", "--model", str(tmp_path / "model"), *files, "--out", str(tmp_path / "out")]) == 0
    scores = [json.loads(line)["score"] for line in (tmp_path / "out").read_text().splitlines()]
    assert scores == pytest.approx(expected + expected, abs=1e-6)


def test_categories_in_another_order_than_the_boosters_are_refused(tmp_path: Path) -> None:
    source, data, _ = trained_on_text(tmp_path)
    known = stored_categories(xgboost.Booster(model_file=source))[0] or []
    with pytest.raises(PackagingError, match=f"knows those of 'Type' as {','.join(known)}, in this order"):
        package(source, tmp_path / "model", data=[data], categories={"Type": known[::-1]})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda tree: tree["left_children"].__setitem__(1, 0), "tree 0 is not a tree"),
        (lambda tree: tree["left_children"].__setitem__(1, 1), "tree 0 is not a tree"),
        (lambda tree: tree["right_children"].__setitem__(0, tree["left_children"][0]), "tree 0 is not a tree"),
        (lambda tree: tree["right_children"].__setitem__(0, 1_000), "tree 0 is not a tree"),
        (lambda tree: tree["parents"].__setitem__(2, 1), "tree 0 is not a tree"),
        (lambda tree: tree["split_indices"].__setitem__(0, 13), "tree 0 splits by a feature that does not exist"),
        (
            lambda tree: tree["split_conditions"].__setitem__(-1, float("nan")),
            "a leaf of tree 0 is not a finite number",
        ),
    ],
)
def test_a_tree_that_is_none_is_refused_though_xgboost_loads_it(tmp_path: Path, edit: Any, reason: str) -> None:
    document = json.loads(REGRESSION.read_text())
    edit(document["learner"]["gradient_booster"]["model"]["trees"][0])
    source = tmp_path / "damaged.json"
    source.write_text(json.dumps(document, separators=(",", ":")))
    with pytest.raises(PackagingError, match=f"^booster: is damaged: {reason}"):
        package(source, tmp_path / "model")


def test_a_linear_booster_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "b.ubj", trained(booster="gblinear"))
    with pytest.raises(PackagingError, match=r"^booster: is a gblinear booster; only boosters of trees"):
        package(source, tmp_path / "model", features=LETTERS[:4])


def test_a_booster_of_a_newer_xgboost_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "b.json"
    source.write_text(REGRESSION.read_text().replace('"version":[1,6,2]', '"version":[9,0,0]'))
    with pytest.raises(ModelError, match=r"^booster: written by xgboost 9\.0\.0, this is xgboost "):
        package(source, tmp_path / "model")


def test_a_booster_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "b.ubj"
    source.write_bytes(CONTAINER.read_bytes()[:-400])
    with pytest.raises(PackagingError, match=r"^booster: does not say which xgboost wrote it: it is cut short"):
        package(source, tmp_path / "model", features=LETTERS)


def test_json_that_is_no_booster_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "b.json"
    source.write_text('{"learner": {}, "version": [3, 2, 0]}')
    with pytest.raises(ModelError, match=r"^booster: xgboost \S+ cannot load it: "):
        package(source, tmp_path / "model")


def test_a_member_of_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match=r"--member is for archives, and this is none"):
        package(REGRESSION, tmp_path / "model", member="xgboost-model")
