"""The recipes: what GDK, the classic nucleus and nucleus lite each demand of them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from greengrass_sandbox import load_recipe, profile_named
from ml_inference.config import Configuration

COMPONENTS = ("bridge", "dashboard", "inference", "model", "simulator")
PROJECTS = {
    "bridge": "components/bridge",
    "dashboard": "components/dashboard",
    "inference": ".",
    "model": "components/model",
    "simulator": "components/simulator",
}
LIMIT = 7_500

KEYS = {
    "RecipeFormatVersion", "ComponentName", "ComponentVersion", "ComponentType", "ComponentDescription", "ComponentPublisher",
    "ComponentConfiguration", "DefaultConfiguration", "Manifests", "Name", "Platform", "os", "architecture", "runtime", "Lifecycle",
    "install", "run", "RequiresPrivilege", "Timeout", "Script", "Artifacts", "Uri", "Unarchive",
}  # fmt: skip
"""Keys as nucleus lite spells them; it ignores any other without a word."""

Recipe = dict[str, Any]


def loaded(built: Path) -> Recipe:
    recipe: Recipe = yaml.safe_load((built / "recipes" / "recipe.yaml").read_text())
    return recipe


def schema(checkout: Path, kind: str) -> Any:
    path = checkout.parent / "shared" / "greengrass" / "schemas" / f"gdk-1.6.2-{kind}.schema.json"
    if not path.is_file():
        pytest.skip(f"GDK's {kind} schema is not beside the checkout")
    return json.loads(path.read_text())


def lower_keys(value: Any) -> Any:
    """As GDK does before it validates."""
    if isinstance(value, dict):
        return {key.lower(): lower_keys(item) for key, item in value.items()}
    return [lower_keys(item) for item in value] if isinstance(value, list) else value


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(keys(item) for item in value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


@pytest.fixture(params=COMPONENTS)
def component(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recipe(built: dict[str, Path], component: str) -> Recipe:
    return loaded(built[component])


def test_recipe_and_project_file_satisfy_gdks_schemas(checkout: Path, component: str, recipe: Recipe) -> None:
    jsonschema.validate(lower_keys(recipe), schema(checkout, "recipe"))
    config = json.loads((checkout / PROJECTS[component] / "gdk-config.json").read_text())
    jsonschema.validate(config, schema(checkout, "config"))


def test_a_recipe_fits_into_nucleus_lite_as_built_and_as_gdk_publishes_it(
    built: dict[str, Path], component: str
) -> None:
    path = built[component] / "recipes" / "recipe.yaml"
    assert path.stat().st_size <= LIMIT
    assert len(yaml.safe_dump(yaml.safe_load(path.read_text()), sort_keys=False)) <= LIMIT
    assert len(json.dumps(yaml.safe_load(path.read_text()), indent=4)) <= LIMIT


def test_no_key_is_spelled_as_only_classic_would_read_it(recipe: Recipe) -> None:
    structure = copy.deepcopy(recipe)
    structure.get("ComponentConfiguration", {}).pop("DefaultConfiguration", None)
    assert keys(structure) <= KEYS


@pytest.mark.parametrize("profile", ["classic", "lite"])
@pytest.mark.parametrize("local", [False, True])
def test_both_runtimes_choose_a_manifest_with_install_and_run(
    built: dict[str, Path], component: str, profile: str, local: bool
) -> None:
    chosen = load_recipe(built[component] / "recipes" / "recipe.yaml", profile_named(profile), local=local)
    assert set(chosen.steps) == {"install", "run"}
    assert len(chosen.artifacts) == 1


@pytest.mark.parametrize(("machine", "fits"), [("x86_64", True), ("aarch64", True), ("armv7l", False)])
@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_a_32_bit_device_is_refused_before_anything_is_downloaded(
    built: dict[str, Path], monkeypatch: pytest.MonkeyPatch, profile: str, machine: str, fits: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    path = built["inference"] / "recipes" / "recipe.yaml"
    if fits:
        load_recipe(path, profile_named(profile))
    else:
        with pytest.raises(Exception, match="no manifest"):
            load_recipe(path, profile_named(profile))


def test_a_manifest_is_for_both_runtimes(recipe: Recipe) -> None:
    for manifest in recipe["Manifests"]:
        assert manifest["Platform"]["os"] == "linux"
        assert manifest["Platform"]["runtime"] == "*"


def test_manifests_differ_in_the_architecture_only(recipe: Recipe) -> None:
    manifests = copy.deepcopy(recipe["Manifests"])
    for manifest in manifests:
        manifest.pop("Name")
        manifest["Platform"].pop("architecture", None)
    assert all(manifest == manifests[0] for manifest in manifests)


def test_scripts_are_one_line_that_lite_does_not_cut_off(recipe: Recipe) -> None:
    for manifest in recipe["Manifests"]:
        for step in manifest["Lifecycle"].values():
            script = step["Script"]
            assert script.startswith("exec python3 ")
            assert "\n" not in script
            known = ('"{artifacts:path}/', '"{work:path}"')
            assert "{" not in re.sub("|".join(map(re.escape, known)), "", script), "a brace that lite does not know"


def test_nothing_asks_for_root_and_run_has_no_time_limit(recipe: Recipe) -> None:
    for manifest in recipe["Manifests"]:
        install, run = manifest["Lifecycle"]["install"], manifest["Lifecycle"]["run"]
        assert install["RequiresPrivilege"] is False
        assert run["RequiresPrivilege"] is False
        assert "Timeout" not in run  # classic takes it for the time in which `run` has to end


def test_a_slow_gateway_has_half_an_hour_to_install(built: dict[str, Path]) -> None:
    for manifest in loaded(built["inference"])["Manifests"]:
        assert manifest["Lifecycle"]["install"]["Timeout"] == "1800"


def test_a_time_limit_is_a_string_since_classic_takes_a_number_for_a_change_at_a_rollback(recipe: Recipe) -> None:
    for manifest in recipe["Manifests"]:
        assert isinstance(manifest["Lifecycle"]["install"]["Timeout"], str)


def test_the_artifacts_place_is_left_to_gdk_publish(recipe: Recipe, built: dict[str, Path], component: str) -> None:
    (file,) = (path for path in built[component].glob("artifacts/*/*/*") if path.is_file())
    for manifest in recipe["Manifests"]:
        assert manifest["Artifacts"] == [
            {"Uri": f"s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{file.name}", "Unarchive": "NONE"}
        ]


def test_the_default_configuration_is_the_codes(built: dict[str, Path]) -> None:
    defaults = loaded(built["inference"])["ComponentConfiguration"]["DefaultConfiguration"]
    defaults.pop("accessControl")
    assert defaults == Configuration().model_dump(by_alias=True)


def test_the_component_may_use_its_default_topics_and_no_others(built: dict[str, Path]) -> None:
    policies = loaded(built["inference"])["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    topics = Configuration()
    allowed: set[tuple[str, str]] = set()
    for service in policies.values():
        for policy in service.values():
            allowed |= {(action, resource) for action in policy["operations"] for resource in policy["resources"]}
    publish, subscribe = "aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"
    assert allowed == {
        (subscribe, topics.input_topic),
        (publish, topics.input_topic),
        (publish, topics.result_topic),
        (publish, f"{topics.result_topic}/*"),
        (publish, topics.error_topic),
        (publish, topics.health_topic),
        (publish, topics.alarm_topic),
        (publish, f"{topics.alarm_topic}/*"),
        (subscribe, topics.control_topic),
        (publish, topics.control_topic),
        (publish, f"{topics.control_topic}/reply"),
        ("aws.greengrass#PublishToIoTCore", "greengrass/ml/inference/#"),
    }
    assert topics.cloud_topic.startswith("greengrass/ml/inference/")
    assert topics.cloud_alarm_topic.startswith("greengrass/ml/inference/")


def test_policy_names_are_unique_on_a_device(built: dict[str, Path]) -> None:
    ids: list[str] = []
    for component in COMPONENTS:
        recipe = loaded(built[component])
        policies = recipe.get("ComponentConfiguration", {}).get("DefaultConfiguration", {}).get("accessControl", {})
        own = [key for service in policies.values() for key in service]
        assert all(key.startswith(f"{recipe['ComponentName']}:") for key in own)
        ids += own
    assert len(ids) == len(set(ids))


def test_a_list_of_the_configuration_stays_below_lites_limit_of_a_leaf(recipe: Recipe) -> None:
    def leaves(value: Any) -> list[Any]:
        return [leaf for item in value.values() for leaf in leaves(item)] if isinstance(value, dict) else [value]

    assert all(len(json.dumps(leaf)) <= 1024 for leaf in leaves(recipe.get("ComponentConfiguration", {})))


def test_locks_pin_everything_by_hash_and_name_no_package_index(checkout: Path) -> None:
    for path in (
        "requirements.lock",
        *(f"components/{name}/requirements.lock" for name in ("bridge", "dashboard", "simulator")),
    ):
        text = (checkout / path).read_text()
        pins = [
            line
            for line in text.replace("\\\n", " ").splitlines()
            if line.strip() and not line.lstrip().startswith("#")
        ]
        assert pins
        assert all(re.match(r"[a-z0-9-]+==\S+", pin) and "--hash=sha256:" in pin for pin in pins)
        assert "://" not in text


def test_the_lock_of_a_device_names_what_the_package_depends_on_and_no_tools(checkout: Path) -> None:
    names = set(re.findall(r"^([a-z0-9-]+)==", (checkout / "requirements.lock").read_text(), re.MULTILINE))
    assert {"xgboost-cpu", "numpy", "awsiotsdk", "pydantic"} <= names
    assert not names & {"xgboost", "scikit-learn", "pandas", "boto3", "pip", "nvidia-nccl-cu12"}
