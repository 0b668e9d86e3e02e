from __future__ import annotations

from typing import Any

import pytest

from greengrass_sandbox.configuration import Configuration, ConfigurationError, parse_pointer
from greengrass_sandbox.profiles import profile_named


@pytest.fixture
def configuration(profile: str) -> Configuration:
    return Configuration(profile_named(profile))


def test_a_merge_goes_key_by_key_and_reports_the_leaves_that_changed(configuration: Configuration) -> None:
    configuration.merge((), {"a": {"x": 1, "y": 2}, "list": [1, 2]}, 1)
    changed = configuration.merge((), {"a": {"x": 1, "y": 3, "z": 4}, "list": [1]}, 2)
    assert changed == [("a", "y"), ("a", "z"), ("list",)]
    assert configuration.read() == {"a": {"x": 1, "y": 3, "z": 4}, "list": [1]}


def test_true_and_one_are_different_values(configuration: Configuration) -> None:
    configuration.merge((), {"a": 1}, 1)
    assert configuration.merge((), {"a": True}, 2) == [("a",)]


def test_an_older_change_does_not_replace_a_newer_value(configuration: Configuration) -> None:
    configuration.merge((), {"a": "new"}, 10)
    assert configuration.merge((), {"a": "old", "b": 1}, 9) == [("b",)]
    assert configuration.read() == {"a": "new", "b": 1}


def test_a_default_never_replaces_what_was_merged_until_it_is_reset(configuration: Configuration) -> None:
    configuration.apply_defaults({"a": 1, "b": {"c": 1}})
    configuration.merge((), {"a": 2}, 5)
    configuration.apply_defaults({"a": 3, "b": {"c": 1, "d": 1}})
    assert configuration.read() == {"a": 2, "b": {"c": 1, "d": 1}}
    assert configuration.reset("/a") == [("a",)]
    configuration.apply_defaults({"a": 3})
    assert configuration.read(("a",)) == 3


@pytest.mark.parametrize(("profile", "expected"), [("lite", 2), ("classic", 1)])
def test_a_changed_default_replaces_an_older_default_on_lite_only(profile: str, expected: int) -> None:
    configuration = Configuration(profile_named(profile))
    configuration.apply_defaults({"a": 1})
    configuration.apply_defaults({"a": 2})
    assert configuration.read(("a",)) == expected


def test_reset_without_a_pointer_removes_everything(configuration: Configuration) -> None:
    configuration.merge((), {"a": {"b": 1}, "c": 2}, 1)
    assert configuration.reset("") == [("a", "b"), ("c",)]
    assert configuration.read() == {}
    assert configuration.reset("/never/there") == []


def test_a_copy_is_independent(configuration: Configuration) -> None:
    configuration.merge((), {"a": {"b": 1}}, 1)
    twin = configuration.copy()
    twin.merge((), {"a": {"b": 2}}, 2)
    assert configuration.read() == {"a": {"b": 1}}


def test_null_and_empty_maps_are_values(configuration: Configuration) -> None:
    configuration.merge((), {"null": None, "map": {}}, 1)
    assert configuration.read() == {"null": None, "map": {}}
    assert configuration.has(("null",))


@pytest.mark.parametrize(
    "change",
    [{"leaf": "x" * 1023}, {"leaf": ["x" * 100] * 10}, {"map": 1}, {"value": {"a": 1}}, {"value": {}}],
    ids=["long text", "long list", "value over map", "map over value", "empty map over value"],
)
def test_lite_refuses_what_its_database_cannot_hold(change: dict[str, Any]) -> None:
    lite, classic = (Configuration(profile_named(name)) for name in ("lite", "classic"))
    for configuration in (lite, classic):
        configuration.merge((), {"map": {"a": 1}, "value": 1}, 1)
    with pytest.raises(ConfigurationError):
        lite.merge((), change, 2)
    classic.merge((), change, 2)
    (key,) = change
    assert classic.read((key,)) == change[key]


def test_a_lite_leaf_may_have_1024_bytes_of_json() -> None:
    configuration = Configuration(profile_named("lite"))
    assert configuration.merge((), {"leaf": "x" * 1022}, 1) == [("leaf",)]


def test_lite_does_not_read_more_than_255_keys() -> None:
    lite, classic = (Configuration(profile_named(name)) for name in ("lite", "classic"))
    for configuration in (lite, classic):
        configuration.merge((), {f"k{number}": number for number in range(256)}, 1)
    with pytest.raises(ConfigurationError):
        lite.read()
    assert len(classic.read()) == 256


def test_json_pointers_are_unescaped() -> None:
    assert parse_pointer("/a~1b/c~0d/") == ("a/b", "c~d", "")
    with pytest.raises(ValueError, match="slash"):
        parse_pointer("a")
