"""The simulator as a GDK project: recipe, project file and lock agree with the code and with the runtimes' rules."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sensor_simulator import Fault, SensorFault, When
from sensor_simulator.settings import Settings, parse, unknown

CHECKOUT = Path(__file__).parents[2]
PROJECT = CHECKOUT / "components" / "simulator"
SCHEMAS = CHECKOUT.parent / "shared" / "greengrass" / "schemas"


@pytest.fixture
def recipe() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / "recipe.yaml").read_text(encoding="utf-8"))
    return loaded


def lower_keys(value: Any) -> Any:
    """As GDK does before it validates."""
    if isinstance(value, dict):
        return {key.lower(): lower_keys(item) for key, item in value.items()}
    return [lower_keys(item) for item in value] if isinstance(value, list) else value


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="GDK's schemas are not beside the checkout")
def test_recipe_and_project_file_satisfy_the_schemas_of_gdk(recipe: dict[str, Any]) -> None:
    def schema(kind: str) -> Any:
        return json.loads((SCHEMAS / f"gdk-1.6.2-{kind}.schema.json").read_text(encoding="utf-8"))

    project = json.loads((PROJECT / "gdk-config.json").read_text(encoding="utf-8"))
    jsonschema.validate(project, schema("config"))
    ((name, component),) = project["component"].items()
    assert (recipe["ComponentName"], recipe["ComponentVersion"]) == ("{COMPONENT_NAME}", "{COMPONENT_VERSION}")
    filled_in = recipe | {"ComponentName": name, "ComponentVersion": component["version"]}
    jsonschema.validate(lower_keys(filled_in), schema("recipe"))


def test_the_recipes_defaults_are_the_codes_and_none_is_unknown(recipe: dict[str, Any]) -> None:
    defaults = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    assert unknown(defaults) == []
    assert len(defaults) == len(asdict(Settings())) + 1  # and accessControl
    # From anything but the defaults, so that a key that is missing here shows.
    other = Settings(
        *("x", 9, 9.0, 9, 2, None, Fault.OVERLOAD, 9.0, 9),
        sensor_fault_rate=9.0,
        sensor_fault_hours=9.0,
        sensor_fault=SensorFault.DEAD,
        sensor_fault_when=When.DURING,
        start_days_ago=9.0,
    )
    assert parse(defaults, other) == Settings()


def test_the_component_may_publish_to_its_topic_and_nothing_else(recipe: dict[str, Any]) -> None:
    policies = recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    assert list(policies) == ["aws.greengrass.ipc.pubsub"]
    ((name, policy),) = policies["aws.greengrass.ipc.pubsub"].items()
    assert name.startswith("{COMPONENT_NAME}:")
    assert policy["operations"] == ["aws.greengrass#PublishToTopic"]
    assert policy["resources"] == [Settings().topic]


def test_scripts_hold_no_brace_that_nucleus_lite_does_not_know(recipe: dict[str, Any]) -> None:
    for manifest in recipe["Manifests"]:
        assert set(manifest["Lifecycle"]) == {"install", "run"}
        for step in manifest["Lifecycle"].values():
            assert step["Script"].startswith("exec ")
            assert set(re.findall(r"\{[^}]*\}?", step["Script"])) <= {"{artifacts:path}", "{work:path}"}


def test_the_manifests_differ_in_the_architecture_only(recipe: dict[str, Any]) -> None:
    architectures = [
        manifest.pop("Name") and manifest["Platform"].pop("architecture") for manifest in recipe["Manifests"]
    ]
    assert architectures == ["amd64", "aarch64"]
    assert recipe["Manifests"][0] == recipe["Manifests"][1]
    assert recipe["Manifests"][0]["Platform"] == {"os": "linux", "runtime": "*"}


def test_the_lock_pins_the_sdk_and_what_it_pulls_with_hashes() -> None:
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    pins = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert sorted(pin.split("==")[0] for pin in pins) == ["awscrt", "awsiotsdk"]
    assert all("--hash=sha256:" in pin for pin in pins)
