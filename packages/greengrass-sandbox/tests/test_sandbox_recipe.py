from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from greengrass_sandbox.profiles import CLASSIC, LITE, Profile, profile_named
from greengrass_sandbox.recipe import Interpolator, RecipeError, load_recipe, locate

VALUES: dict[str, Any] = {"text": 'a "b" $c', "number": 0.5, "flag": True, "map": {"x": [1]}, "nothing": None}


def recipe(lifecycle: Any, **more: Any) -> dict[str, Any]:
    manifest = {"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": lifecycle}
    return {"ComponentName": "com.example.A", "ComponentVersion": "1.2.3", "Manifests": [manifest]} | more


def rendered(profile: Profile, lifecycle: Any, step: str = "run") -> tuple[str, dict[str, str]]:
    def read(component: str, path: tuple[str, ...]) -> Any:
        value: Any = {"com.example.A": VALUES, "com.example.B": {"b": "other"}}[component]
        for key in path:
            value = value[key]
        return value

    versions = {"com.example.A": "1.2.3", "com.example.B": "2.0.0"}
    interpolator = Interpolator(profile, Path("/gg"), "core-1", "com.example.A", versions, read)
    return interpolator.script(load_recipe(recipe(lifecycle), profile), step)


@pytest.mark.parametrize(("profile", "slash"), [("lite", "/"), ("classic", "")])
def test_paths_end_in_a_slash_on_lite_only(profile: str, slash: str) -> None:
    script = "{artifacts:path} {artifacts:decompressedPath} {work:path} {kernel:rootPath} {iot:thingName}"
    text, _ = rendered(profile_named(profile), {"run": script})
    assert text == (
        f"/gg/packages/artifacts/com.example.A/1.2.3{slash} /gg/packages/artifacts-unarchived/com.example.A/1.2.3{slash} "
        f"/gg/work/com.example.A{slash} /gg core-1"
    )


@pytest.mark.parametrize(
    ("pointer", "lite", "classic"),
    [
        ("/text", 'a \\"b\\" \\$c', 'a "b" $c'),
        ("/number", "0.5", "0.5"),
        ("/flag", "true", "true"),
        ("/map", '{\\"x\\":[1]}', '{"x":[1]}'),
        ("/nothing", "null", "null"),
    ],
)
def test_configuration_is_filled_in_and_escaped_on_lite(pointer: str, lite: str, classic: str) -> None:
    lifecycle = {"run": f'echo "{{configuration:{pointer}}}"'}
    assert rendered(LITE, lifecycle)[0] == f'echo "{lite}"'
    assert rendered(CLASSIC, lifecycle)[0] == f'echo "{classic}"'


@pytest.mark.parametrize(
    ("script", "lite"),
    [
        ("echo one; echo ${HOME}; echo two", "echo one; echo $"),
        ("f() { echo; }; f", "f() "),
        ("echo {unknown:x} two", "echo "),
        ("echo {configuration:/missing} two", "echo "),
        ("echo {com.example.B:artifacts:path} two", "echo "),
        ("echo {work:path}a {", "echo /gg/work/com.example.A/a "),
    ],
)
def test_lite_cuts_a_script_at_a_brace_it_does_not_know(script: str, lite: str) -> None:
    assert rendered(LITE, {"run": script})[0] == lite


def test_classic_leaves_an_unknown_brace_as_it_is_and_knows_other_components() -> None:
    script = "echo ${HOME} { {unknown:x} {configuration:/missing} {com.example.B:artifacts:path} {com.example.B:configuration:/b}"
    text, _ = rendered(CLASSIC, {"run": script})
    assert text == (
        "echo ${HOME} { {unknown:x} {configuration:/missing} /gg/packages/artifacts/com.example.B/2.0.0 other"
    )


def test_setenv_is_unquoted_shell_on_lite_and_the_environment_on_classic() -> None:
    lifecycle = {"Setenv": {"A": "{work:path}", "B": "b"}, "run": {"Script": "true", "Setenv": {"B": 'x"y', "C": "1"}}}
    assert rendered(LITE, lifecycle) == (
        'export A=/gg/work/com.example.A/\nexport B=b\nexport B=x\\"y\nexport C=1\ntrue',
        {},
    )
    assert rendered(CLASSIC, lifecycle) == ("true", {"A": "/gg/work/com.example.A", "B": 'x"y', "C": "1"})


def test_an_unknown_variable_in_setenv_leaves_nothing_of_the_script_on_lite() -> None:
    assert rendered(LITE, {"Setenv": {"A": "${HOME}"}, "run": "true"})[0] == "export A=\\$"


def test_recipe_keys_are_case_sensitive_on_lite_only() -> None:
    lifecycle = {"Run": {"script": "true", "timeout": 7}}
    assert load_recipe(recipe(lifecycle), CLASSIC).steps["run"].timeout == 7
    assert dict(load_recipe(recipe(lifecycle), LITE).steps) == {}
    with pytest.raises(RecipeError, match="no Script"):
        load_recipe(recipe({"run": {"script": "true"}}), LITE)


@pytest.mark.parametrize(
    ("wanted", "lite", "classic"),
    [
        ({"os": "linux"}, False, True),
        ({"runtime": "*"}, False, True),
        ({"os": "linux", "runtime": "*"}, True, True),
        ({"os": "*", "runtime": "aws_nucleus_lite"}, True, False),
        ({"os": "linux", "runtime": "aws_nucleus_classic"}, False, True),
        ({"os": "windows", "runtime": "*"}, False, False),
        ({"os": "linux", "runtime": "*", "architecture": "HERE"}, True, True),
        ({"os": "linux", "runtime": "*", "architecture": "mips"}, False, False),
        ({"os": "linux", "runtime": "*", "architecture": "/HERE|mips/"}, False, True),
    ],
)
def test_the_manifest_must_fit_machine_and_runtime(wanted: dict[str, str], lite: bool, classic: bool) -> None:
    here = {"x86_64": "amd64"}.get(platform.machine(), platform.machine())
    chosen = {key: value.replace("HERE", here) for key, value in wanted.items()}
    source = recipe({"run": "true"}) | {"Manifests": [{"Platform": chosen, "Lifecycle": {"run": "true"}}]}
    for profile, fits in ((LITE, lite), (CLASSIC, classic)):
        if fits:
            assert load_recipe(source, profile).steps["run"].script == "true"
        else:
            with pytest.raises(RecipeError, match="no manifest"):
                load_recipe(source, profile)


def test_the_first_manifest_that_fits_wins(profile: str) -> None:
    manifests = [
        {"Platform": {"os": system, "runtime": "*"}, "Lifecycle": {"run": script}}
        for system, script in (("windows", "no"), ("linux", "first"), ("linux", "second"))
    ]
    assert load_recipe(recipe({}) | {"Manifests": manifests}, profile_named(profile)).steps["run"].script == "first"


def test_a_manifest_without_a_lifecycle_selects_from_the_shared_one(profile: str) -> None:
    shared = {"Lifecycle": {"all": {"run": "shared"}, "linux": {"run": "chosen"}}}
    for selections, script in (({}, "shared"), ({"Selections": ["linux"]}, "chosen")):
        manifest = {"Platform": {"os": "linux", "runtime": "*"}, **selections}
        source = recipe({}) | shared | {"Manifests": [manifest]}
        assert load_recipe(source, profile_named(profile)).steps["run"].script == script


def test_a_component_without_scripts_is_nothing_for_lite() -> None:
    assert dict(load_recipe(recipe({}), CLASSIC).steps) == {}
    with pytest.raises(RecipeError):
        load_recipe(recipe({}), LITE)


def test_a_local_yaml_recipe_gives_strings_on_lite(tmp_path: Path) -> None:
    defaults = {"n": 7, "f": 0.5, "t": True, "none": None, "list": [1], "map": {"x": False}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe({"run": "true"}, ComponentConfiguration={"DefaultConfiguration": defaults})))
    strings = {"n": "7", "f": "0.5", "t": "true", "none": "null", "list": ["1"], "map": {"x": "false"}}
    assert load_recipe(path, LITE, local=True).defaults == strings
    for profile, local in ((LITE, False), (CLASSIC, True), (CLASSIC, False)):
        assert load_recipe(path, profile, local=local).defaults == defaults


def test_a_recipe_over_eight_kilobytes_is_too_long_for_lite(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = yaml.safe_dump(recipe({"run": "true"}))
    path.write_text(text + "#" * (8196 - len(text)))
    assert load_recipe(path, LITE).name == "com.example.A"
    path.write_text(path.read_text() + "#")
    assert load_recipe(path, CLASSIC).name == "com.example.A"
    with pytest.raises(RecipeError, match="8197 bytes"):
        load_recipe(path, LITE)


@pytest.mark.parametrize(
    "text",
    ["", "- a", "{", "ComponentName: a\nManifests: {}", "ComponentName: a\nComponentVersion: '1'\nManifests: []"],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, profile: str, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path, profile_named(profile))


def test_artifacts_and_dependencies_are_read(profile: str) -> None:
    manifest = {
        "Platform": {"os": "linux", "runtime": "*"},
        "Lifecycle": {"run": "true"},
        "Artifacts": [{"Uri": "s3://BUCKET/a/1/x.zip", "Unarchive": "ZIP"}, {"Uri": "s3://BUCKET/a/1/y.bin"}],
    }
    source = recipe({}) | {
        "Manifests": [manifest],
        "ComponentDependencies": {"com.example.B": {"VersionRequirement": ">=1"}},
    }
    loaded = load_recipe(source, profile_named(profile))
    assert [(artifact.file_name, artifact.unarchive) for artifact in loaded.artifacts] == [
        ("x.zip", True),
        ("y.bin", False),
    ]
    assert loaded.dependencies == {"com.example.B": ">=1"}


def test_a_build_folder_holds_one_recipe_and_its_artifacts(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    with pytest.raises(RecipeError, match="0 recipes"):
        locate(tmp_path)
    recipe_path = tmp_path / "recipes" / "recipe.yaml"
    recipe_path.write_text("")
    assert locate(tmp_path) == (recipe_path, tmp_path / "artifacts")
    assert locate(recipe_path) == (recipe_path, None)


@pytest.mark.parametrize(
    ("platform_wanted", "fits"),
    [
        ({"os": ["windows", "linux"]}, True),
        ({"os": ["windows", "darwin"]}, False),
        ({"os": "any", "architecture": "any"}, True),
        ({"architecture": ["/nothing/", "HERE"]}, True),
        ({"os": "/lin.*|darwin/"}, True),
        ({"os": "LINUX"}, True),
        ({"os": "linux", "colour": "*"}, True),
        ({"os": "linux", "colour": "red"}, False),
        ({"architecture.detail": "/.*/"}, True),
    ],
)
def test_classic_takes_lists_regular_expressions_and_any(platform_wanted: dict[str, Any], fits: bool) -> None:
    here = {"x86_64": "amd64"}.get(platform.machine(), platform.machine())
    wanted = json.loads(json.dumps(platform_wanted).replace("HERE", here))
    source = recipe({}) | {"Manifests": [{"Platform": wanted, "Lifecycle": {"run": "true"}}]}
    if fits:
        assert load_recipe(source, CLASSIC).steps["run"].script == "true"
    else:
        with pytest.raises(
            RecipeError, match=r"manifest 1: (os|colour) is .*, (here it is 'linux'|which is unknown here)"
        ):
            load_recipe(source, CLASSIC)


@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        ({"os": "linux"}, "no runtime"),
        ({"os": "linux", "runtime": "aws_nucleus_classic"}, "runtime is 'aws_nucleus_classic'"),
        ({"os": "windows", "runtime": "*"}, "os is 'windows'"),
        ({"runtime": "*"}, "os is None"),
        ({"os": "linux", "runtime": "*", "architecture": "/.*/"}, "no regular expressions"),
        ({"os": ["linux"], "runtime": "*"}, "Platform os is invalid: this runtime takes a string"),
    ],
)
def test_what_lite_refuses_says_which_rule(wanted: dict[str, Any], rule: str) -> None:
    source = recipe({}) | {"Manifests": [{"Platform": wanted, "Lifecycle": {"run": "true"}}]}
    with pytest.raises(RecipeError, match=re.escape(rule)):
        load_recipe(source, LITE)


def test_a_wrong_regular_expression_is_an_error() -> None:
    source = recipe({}) | {"Manifests": [{"Platform": {"os": "/(/"}, "Lifecycle": {"run": "true"}}]}
    with pytest.raises(RecipeError, match="no regular expression"):
        load_recipe(source, CLASSIC)


def test_a_recipe_without_manifests_is_for_every_platform_on_classic() -> None:
    source = {"ComponentName": "com.example.A", "ComponentVersion": "1.0.0", "Lifecycle": {"all": {"run": "true"}}}
    assert load_recipe(source, CLASSIC).steps["run"].script == "true"
    with pytest.raises(RecipeError):
        load_recipe(source, LITE)
