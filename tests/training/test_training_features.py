import json
from pathlib import Path

import numpy as np
import pytest

from ml_inference.model.manifest import Feature
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.features import FeatureChoice, choose_features, matrix, read_features_file, unit_of
from ml_inference.workbench.training.table import Table, read_table
from support.tables import write_csv

CONTENT = """UDI,Type,Torque [Nm],wRMSCurrent,Machine failure,timestamp,sDateTime,same,rare,
1,L,42.8,106.9,0,2026-01-01,2022-07-06,5,,0
2,M,46.3,105.1,1,2026-01-02,2022-07-06,5,,0
3,L,40.1,104.2,0,2026-01-03,2022-07-06,5,7,1
"""
ROLES = {"Machine failure": "the label"}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = tmp_path / "data.csv"
    path.write_text(CONTENT)
    return read_table(path, {"Machine failure", "equipment_id"})


def choose(table: Table, **options: object) -> FeatureChoice:
    return choose_features(table, roles=ROLES, **options)  # type: ignore[arg-type]  # each test names its own


def test_measurements_are_taken_and_each_other_column_has_a_reason(table: Table) -> None:
    choice = choose(table)
    assert choice.names == ("Torque [Nm]", "wRMSCurrent")
    assert dict(choice.left_out) == {
        "UDI": "whole numbers that never repeat, as row numbers do",
        "Type": "holds 'L' in line 2 of data.csv, no number; to take it in: --categorical Type",
        "Machine failure": "the label",
        "timestamp": "belongs to the message's envelope",
        "sDateTime": "belongs to the message's envelope",
        "same": "always 5",
        "rare": "missing in 2 of 3 rows",
        "": "it has no name",
    }


def test_what_the_user_names_is_taken_in_his_order_whatever_the_rules_say(table: Table) -> None:
    assert choose(table, named=["same", "UDI", "Torque [Nm]"]).names == ("same", "UDI", "Torque [Nm]")


def test_a_row_number_is_known_in_a_shuffled_part_of_a_table_too(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    numbers = random.permutation(10_000)[:6_000]
    columns = {"UDI": numbers, "speed": random.integers(1_000, 3_000, 6_000), "x": random.normal(size=6_000)}
    assert choose(read_table(write_csv(tmp_path / "a.csv", columns))).names == ("speed", "x")


def test_what_is_excluded_is_never_taken(table: Table) -> None:
    assert choose(table, exclude=["Torque [Nm]"]).names == ("wRMSCurrent",)
    assert choose(table, named=["UDI", "wRMSCurrent"], exclude=["UDI"]).names == ("wRMSCurrent",)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"named": ["Torque"]}, "there is no column 'Torque'; the table has 'UDI', 'Type', 'Torque \\[Nm\\]'"),
        ({"named": ["UDI", "Machine failure"]}, "'Machine failure' is the label and cannot be a feature"),
        ({"named": ["Type"]}, "'Type' holds 'L' in line 2 of data.csv; features are numbers"),
        ({"named": ["timestamp"]}, "envelope"),
        ({"exclude": ["nothing"]}, "no column 'nothing'"),
        ({"limits": {"nothing": (0.0, 1.0)}}, "no column 'nothing'"),
        ({"limits": {"wRMSCurrent": (2.0, 1.0)}}, "minimum 2.0 is not below maximum 1.0"),
        ({"exclude": ["Torque [Nm]", "wRMSCurrent"]}, "no column is left"),
    ],
)
def test_a_choice_that_cannot_be_is_an_error_in_words(table: Table, options: dict[str, object], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        choose(table, **options)


def test_units_come_from_the_option_else_the_file_else_the_name(table: Table) -> None:
    described = [Feature(name="Torque [Nm]", unit="N m"), Feature(name="wRMSCurrent")]
    assert [f.unit for f in choose(table).features] == ["Nm", "A"]
    assert [f.unit for f in choose(table, described=described).features] == ["N m", "A"]
    units = {"Torque [Nm]": "newton metre"}
    assert choose(table, described=described, units=units).features[0].unit == "newton metre"


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("Air temperature [K]", "K"),
        ("speed [ 1/min ]", "1/min"),
        ("x[0] velocity", ""),
        ("rVibration_Temp", "degC"),
        ("wEncoderVelocity", "RPM"),
        ("Torque (Nm)", ""),
    ],
)
def test_a_unit_is_read_from_a_trailing_bracket_or_known(name: str, unit: str) -> None:
    assert unit_of(name) == unit


def test_limits_are_set_only_where_the_user_sets_them(table: Table) -> None:
    torque, current = choose(table, limits={"wRMSCurrent": (0.0, 300.0)}).features
    assert (torque.minimum, torque.maximum) == (None, None)
    assert (current.minimum, current.maximum) == (0.0, 300.0)


@pytest.mark.parametrize("form", ["list", "manifest"])
def test_a_features_file_is_a_list_or_an_old_manifest(table: Table, tmp_path: Path, form: str) -> None:
    features = [
        {"name": "wRMSCurrent", "unit": "ampere", "minimum": 0, "maximum": 200.5},
        {"name": "UDI", "histogram": {"edges": [0.0, 1.0], "counts": [3]}},
    ]
    path = tmp_path / "features.json"
    path.write_text(json.dumps(features if form == "list" else {"name": "old", "features": features}))
    described = read_features_file(path)
    assert [feature.histogram for feature in described] == [None, None]
    choice = choose(table, described=described)
    assert choice.names == ("wRMSCurrent", "UDI")
    assert (choice.features[0].unit, choice.features[0].maximum) == ("ampere", 200.5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nonsense", "no JSON list of features"),
        ('{"a": 1}', "no JSON list of features"),
        ('[{"name": "a", "units": "K"}]', "units: Extra inputs"),
        ('[{"name": "a"}, {"name": "a"}]', "'a' twice"),
    ],
)
def test_a_broken_features_file_says_why(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "features.json"
    path.write_text(content)
    with pytest.raises(TrainingError, match=reason):
        read_features_file(path)


def test_a_column_of_text_is_a_feature_where_it_is_named_and_its_categories_are_in_order(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv",
        {"Type": ["M", "L", "", "10", "9"] * 10, "x": np.random.default_rng(0).normal(size=50).round(3)},
    )
    table = read_table(path, {"Type"})
    for options in ({"categorical": ["Type"]}, {"named": ["Type", "x"]}):
        choice = choose(table, **options)
        feature = choice.features[choice.names.index("Type")]
        assert feature.categories == ["9", "10", "L", "M"]
        codes = matrix(table, [feature])[:5, 0]
        assert codes[[0, 1, 3, 4]].tolist() == [3.0, 2.0, 1.0, 0.0]
        assert np.isnan(codes[2])
    assert choose(table).names == ("x",)


def test_names_are_no_categories(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", {"serial": [f"s{row}" for row in range(40)], "x": [1.5, 2.5] * 20})
    with pytest.raises(TrainingError, match="40 different texts in 40 rows: these are no categories"):
        choose(read_table(path, {"serial"}), categorical=["serial"])


@pytest.mark.parametrize(
    "column",
    [
        [1774699200 + 60 * row for row in range(60)],
        [1774699200000 + row * row for row in range(60)],
        [20260301120000 + row % 50 for row in range(60)],
        [0.5 * row for row in range(60)],
        [row % 20 for row in range(200)],
    ],
)
def test_a_time_or_a_counter_is_never_a_feature_by_itself(tmp_path: Path, column: list[float]) -> None:
    random = np.random.default_rng(0)
    path = write_csv(tmp_path / "a.csv", {"when": column, "x": random.normal(size=len(column)).round(4)})
    table = read_table(path)
    assert choose(table).names == ("x",)
    assert choose(table, named=["when", "x"]).names == ("when", "x")


def test_features_that_may_be_missing_are_marked_and_must_be_features(table: Table) -> None:
    choice = choose(table, allow_missing=["wRMSCurrent"])
    assert [feature.missing_allowed for feature in choice.features] == [False, True]
    assert all(feature.missing_allowed for feature in choose(table, allow_missing=["all"]).features)
    with pytest.raises(TrainingError, match="--allow-missing: 'UDI' is not among the features"):
        choose(table, allow_missing=["UDI"])
