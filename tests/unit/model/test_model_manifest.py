import json
import math
from typing import Any

import pytest

from ml_inference.model.manifest import ModelError, booster_feature_name, dump_manifest, parse_manifest, scores_agree

MANIFEST: dict[str, Any] = {
    "format": 1,
    "name": "cylinder-anomaly",
    "version": "1.0.0",
    "created": "2026-11-22T03:15:00Z",
    "objective": "binary:logistic",
    "booster": {"file": "booster.ubj", "sha256": "0" * 64},
    "xgboost_version": "3.2.0",
    "features": [{"name": "Air temperature [K]", "unit": "K", "minimum": 0.0, "maximum": 400.0}, {"name": "Torque"}],
    "threshold": 0.5,
    "golden": [{"reading": {"Air temperature [K]": 300.0, "Torque": 40}, "score": 0.25}],
}


TWO: dict[str, Any] = {
    "format": 2,
    "features": [
        {"name": "Torque", "missing_allowed": True, "withholdable": True},
        {"name": "Product", "categories": ["L", "M", "H"]},
    ],
    "golden": [{"reading": {"Torque": None, "Product": "M"}, "score": 0.25}],
    "alarm": {
        "smoothing_seconds": 300.0,
        "open_score": 0.5,
        "close_score": 0.2,
        "measured": {"interval_seconds": 60.0, "episodes": 55, "noticed": 0.96, "noticed_interval": [0.88, 0.99]},
    },
    "horizon_seconds": 28_800.0,
    "running": [{"feature": "Torque", "operator": ">", "value": 3.5}],
    "derived": [{"name": "Torque mean 1h", "source": "Torque", "statistic": "mean", "window_seconds": 3600.0}],
    "golden_sequences": [
        {
            "readings": [{"timestamp": "2026-11-22T03:15:00Z", "values": {"Torque": None, "Product": "H"}}],
            "scores": [0.5],
        }
    ],
}


def text(**changes: Any) -> str:
    return json.dumps(MANIFEST | changes)


def test_a_manifest_survives_being_written_and_read() -> None:
    manifest = parse_manifest(text())
    assert manifest.feature_names == ("Air temperature [K]", "Torque")
    assert parse_manifest(dump_manifest(manifest)) == manifest


def test_a_newer_format_says_that_the_component_must_be_updated_first_whatever_else_it_holds() -> None:
    with pytest.raises(
        ModelError, match=r"made for a newer ml-inference \(format 3, this one reads formats 1 and 2\): update"
    ):
        parse_manifest(text(format=3, features="of another shape", invented=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 0}, "format: Input should be 1 or 2"),
        ({"format": "2"}, "format: Input should be 1 or 2"),
        ({"invented": 1}, "invented: Extra inputs are not permitted"),
        ({"name": "a/b"}, "name: String should match"),
        ({"threshold": "0.5"}, "threshold: Input should be a valid number"),
        ({"threshold": float("nan")}, "threshold: Input should be a finite number"),
        ({"created": "2026-11-22T03:15:00"}, "created: .*ISO 8601 with an offset"),
        ({"booster": {"file": "../booster.ubj", "sha256": "0" * 64}}, r"booster.file: String should match"),
        ({"booster": {"file": "model.pkl", "sha256": "0" * 64}}, "pickles and the old binary format are never loaded"),
        ({"booster": {"file": "booster.ubj", "sha256": "A" * 64}}, r"booster.sha256: String should match"),
        ({"features": []}, "features: List should have at least 1 item"),
        ({"features": [{"name": "Torque"}, {"name": "Torque"}]}, "features named twice"),
        ({"features": [{"name": "timestamp"}]}, "the message's envelope uses that key"),
        ({"features": [{"name": "x", "minimum": 2.0, "maximum": 1.0}]}, "minimum 2.0 is not below maximum 1.0"),
        ({"features": [{"name": "x", "histogram": {"edges": [0, 1], "counts": [1, 2]}}]}, "needs 3 edges"),
        ({"features": [{"name": "x", "histogram": {"edges": [1, 0], "counts": [1]}}]}, "must ascend"),
        ({"features": [{"name": "x", "histogram": {"edges": [0, 1], "counts": [10**309]}}]}, "less than or equal"),
        ({"golden": []}, "golden: List should have at least 1 item"),
        ({"golden": [{"reading": {"Torque": 1.0}, "score": 0.1}]}, r"golden\[0\].reading and features differ"),
        ({"normal_class": 0}, "normal_class must be an index into classes"),
    ],
)
def test_a_broken_rule_is_named_with_its_field(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=f"^manifest: .*{reason}"):
        parse_manifest(text(**changes))


def test_format_2_survives_being_written_and_read_with_its_missing_values() -> None:
    manifest = parse_manifest(text(**TWO))
    written = dump_manifest(manifest)
    assert parse_manifest(written) == manifest
    assert '"Torque": null' in written
    assert manifest.column_names == ("Torque", "Product", "Torque mean 1h")
    torque, product, derived = manifest.row({"Torque": None, "Product": "M"})
    assert math.isnan(torque)
    assert product == 1.0
    assert math.isnan(derived)


def test_what_is_written_in_format_1_holds_no_key_that_a_reader_of_format_1_does_not_know() -> None:
    written = json.loads(dump_manifest(parse_manifest(text())))
    assert set(written) <= set(MANIFEST) | {"metrics", "source"}
    assert all(set(feature) <= {"name", "unit", "minimum", "maximum", "histogram"} for feature in written["features"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 1}, "format 1 holds nothing of format 2"),
        ({"alarm": TWO["alarm"] | {"close_score": 0.6}}, "close_score 0.6 is above open_score 0.5"),
        ({"alarm": TWO["alarm"] | {"open_score": 1.0}}, "alarm.open_score: Input should be less than 1"),
        ({"objective": "reg:squarederror"}, "alarm: needs a binary:logistic objective"),
        ({"running": [{"feature": "Speed", "operator": ">", "value": 1.0}]}, "there is no feature 'Speed'"),
        ({"running": [{"feature": "Torque", "operator": "=", "value": 1.0}]}, "running.0.operator: Input should be"),
        ({"derived": [TWO["derived"][0] | {"source": "Speed"}]}, "there is no feature 'Speed'"),
        ({"derived": [TWO["derived"][0] | {"name": "Torque"}]}, "derived 'Torque': the name is taken"),
        ({"golden_sequences": [TWO["golden_sequences"][0] | {"scores": []}]}, "scores: List should have at least 1"),
        ({"golden": [{"reading": {"Torque": 1.0, "Product": "X"}, "score": 0.1}]}, "has no category 'X'"),
        ({"golden": [{"reading": {"Torque": 1.0, "Product": None}, "score": 0.1}]}, "'Product' must not be missing"),
        ({"features": [{"name": "x", "categories": ["a", "a"]}]}, "a category is named twice"),
        (
            {"features": [{"name": "x", "usual": {"interval_seconds": 1.0, "lowest": 2.0, "highest": 1.0}}]},
            "lowest 2.0 is above highest 1.0",
        ),
    ],
)
def test_a_broken_rule_of_format_2_is_named_with_its_field(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=f"^manifest: .*{reason}"):
        parse_manifest(text(**(TWO | changes)))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"1"])
def test_what_is_no_manifest_at_all_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"^manifest: "):
        parse_manifest(content)


def test_names_that_xgboost_refuses_stay_different_when_they_are_encoded() -> None:
    names = ["a[b", "a]b", "a<b", "a%5Bb", "a%b", "a b"]
    encoded = [booster_feature_name(name) for name in names]
    assert len(set(encoded)) == len(names)
    assert not any(character in name for name in encoded for character in "[]<")


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        (0.5, 0.500009, True),
        (0.5, 0.50002, False),
        (50_000.0, 50_000.3, True),
        (50_000.0, 50_001.0, False),
        ([0.1, 0.9], [0.1, 0.9], True),
        ([0.1, 0.9], [0.9, 0.1], False),
        (0.1, [0.1], False),
    ],
)
def test_scores_agree_absolutely_below_one_and_relatively_above(expected: Any, actual: Any, same: bool) -> None:
    assert scores_agree(expected, actual) is same


def test_an_unknown_key_is_named_escaped_and_cut() -> None:
    with pytest.raises(ModelError) as caught:
        parse_manifest(text(**{"evil\nERROR all is lost\x1b[2J" + "x" * 500: 1}))
    message = str(caught.value)
    assert "evil\\nERROR all is lost\\x1b[2J" in message
    assert message.isprintable()
    assert len(message) < 200
