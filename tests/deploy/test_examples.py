"""The example deployments and policies: documents that AWS takes, for components and settings that exist."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
import yaml
from botocore import xform_name
from botocore.validate import ParamValidator

from greengrass_sandbox import PUBSUB, is_allowed
from ml_inference.config import parse_configuration
from sensor_simulator.settings import unknown

Command = Callable[..., "subprocess.CompletedProcess[str]"]
MakeCheckout = Callable[[], Path]

EXAMPLES = Path(__file__).parents[2] / "examples"
DEPLOYMENTS = sorted((EXAMPLES / "deployments").glob("*.json"))
POLICIES = sorted((EXAMPLES / "policies").glob("*.json"))
INFERENCE, SIMULATOR, MODEL = (
    f"com.example.{name}" for name in ("MLInference", "SensorSimulator", "MLInference.Model")
)


def client(service: str) -> Any:
    make: Any = boto3.client  # boto3 has no types
    return make(service, region_name="eu-central-1", aws_access_key_id="testing", aws_secret_access_key="testing")


def merged(document: dict[str, Any], component: str) -> dict[str, Any]:
    """What a deployment merges into a component's configuration."""
    update = document["components"][component].get("configurationUpdate", {})
    merge: dict[str, Any] = json.loads(update.get("merge", "{}"))
    return merge


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.name)
def test_a_deployment_is_what_greengrass_takes(path: Path) -> None:
    document = json.loads(path.read_text())
    shape = client("greengrassv2").meta.service_model.operation_model("CreateDeployment").input_shape
    validator: Any = ParamValidator()
    problems = validator.validate(document, shape)
    assert not problems.has_errors(), problems.generate_report()
    assert document["deploymentPolicies"]["failureHandlingPolicy"] == "ROLLBACK"


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.name)
def test_a_deployment_sets_only_what_its_components_know(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = json.loads(path.read_text())
    assert set(document["components"]) <= {INFERENCE, SIMULATOR, MODEL}
    with caplog.at_level(logging.WARNING):
        parse_configuration(merged(document, INFERENCE))
    assert not caplog.records
    if SIMULATOR in document["components"]:
        assert unknown(merged(document, SIMULATOR)) == []


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.name)
def test_a_deployment_names_the_versions_that_are_built_here(checkout: Path, path: Path) -> None:
    versions = {}
    for project in (".", "components/model", "components/simulator"):
        config = json.loads((checkout / project / "gdk-config.json").read_text())
        ((name, component),) = config["component"].items()
        versions[name] = component["version"]
    for name, component in json.loads(path.read_text())["components"].items():
        assert component["componentVersion"] == versions[name]


def test_a_changed_topic_comes_with_the_permission_to_use_it() -> None:
    merge = merged(json.loads((EXAMPLES / "deployments" / "change-topics.json").read_text()), INFERENCE)
    topic = merge["InputTopic"]
    assert is_allowed(merge["accessControl"], PUBSUB, "aws.greengrass#SubscribeToTopic", topic)
    assert is_allowed(merge["accessControl"], PUBSUB, "aws.greengrass#PublishToTopic", topic.replace("+", "heartbeat"))


def test_the_model_directory_is_the_link_that_the_model_component_turns() -> None:
    for runtime, root in (("classic", "/greengrass/v2"), ("lite", "/var/lib/greengrass")):
        document = json.loads((EXAMPLES / "deployments" / f"model-directory-{runtime}.json").read_text())
        assert merged(document, INFERENCE) == {"ModelDirectory": f"{root}/work/{MODEL}/current"}
        assert MODEL in document["components"]


def test_a_model_is_rolled_out_without_touching_the_inference_component() -> None:
    """Nucleus lite restarts a component whose entry holds a `configurationUpdate`, even one that changes nothing."""
    for runtime in ("classic", "lite"):
        document = json.loads((EXAMPLES / "deployments" / f"model-{runtime}.json").read_text())
        assert MODEL in document["components"]
        assert set(document["components"][INFERENCE]) == {"componentVersion"}


def set_at(tree: dict[str, Any], changes: dict[str, Any]) -> None:
    """Merges as a nucleus does."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            set_at(tree[key], value)
        else:
            tree[key] = copy.deepcopy(value)


def test_after_the_examples_in_any_order_every_topic_is_allowed(built: dict[str, Path]) -> None:
    recipe = yaml.safe_load((built["inference"] / "recipes" / "recipe.yaml").read_text())
    defaults = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    updates = [
        json.loads(path.read_text())["components"].get(INFERENCE, {}).get("configurationUpdate") for path in DEPLOYMENTS
    ]
    for order in itertools.permutations([update for update in updates if update], 3):
        tree = copy.deepcopy(defaults)
        for update in order:
            for pointer in update.get("reset", []):
                key = pointer.removeprefix("/")
                tree[key] = copy.deepcopy(defaults[key])
            set_at(tree, json.loads(update.get("merge", "{}")))
            configuration = parse_configuration({key: value for key, value in tree.items() if key != "accessControl"})
            topic = configuration.input_topic
            allowed: list[tuple[str, str]] = [
                ("aws.greengrass#SubscribeToTopic", topic),
                ("aws.greengrass#PublishToTopic", topic.replace("+", "heartbeat")),
                ("aws.greengrass#SubscribeToTopic", configuration.control_topic),
                ("aws.greengrass#PublishToTopic", configuration.control_topic),
                ("aws.greengrass#PublishToTopic", f"{configuration.control_topic}/reply"),
                ("aws.greengrass#PublishToTopic", configuration.alarm_topic),
                ("aws.greengrass#PublishToTopic", configuration.result_topic),
                ("aws.greengrass#PublishToTopic", configuration.error_topic),
                ("aws.greengrass#PublishToTopic", configuration.health_topic),
            ]
            assert all(is_allowed(tree["accessControl"], PUBSUB, *operation) for operation in allowed), order


def test_a_reset_of_the_permissions_resets_every_topic(built: dict[str, Path]) -> None:
    recipe = yaml.safe_load((built["inference"] / "recipes" / "recipe.yaml").read_text())
    topics = {f"/{key}" for key in recipe["ComponentConfiguration"]["DefaultConfiguration"] if key.endswith("Topic")}
    document = json.loads((EXAMPLES / "deployments" / "reset-access-control.json").read_text())
    assert set(document["components"][INFERENCE]["configurationUpdate"]["reset"]) == {"/accessControl", *topics}


@pytest.fixture
def site(make_checkout: MakeCheckout) -> Path:
    return make_checkout()


def fill_in(site: Path, command: Command, **values: str) -> subprocess.CompletedProcess[str]:
    path = site / "examples" / "site.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return command("python3", "scripts/fill_in_site.py", cwd=site)


def test_account_region_bucket_and_group_are_written_in_one_place(site: Path, command: Command) -> None:
    values = {"account": "999988887777", "region": "us-west-2", "bucket": "acme", "group": "lines", "thing": "press-1"}
    done = fill_in(site, command, author="Acme", **values)
    assert done.returncode == 0, done.stderr
    written = {path.relative_to(site / "site"): path.read_text() for path in (site / "site").rglob("*.json")}
    dashboards = sorted((EXAMPLES / "grafana").glob("*.json"))
    assert set(written) == {path.relative_to(EXAMPLES) for path in DEPLOYMENTS + POLICIES + dashboards}
    text = "".join(written.values())
    for example in ("123456789012", "eu-central-1", "greengrass-components", "thinggroup/gateways", "my-gateway"):
        assert example not in text
    for project in (".", "components/bridge", "components/model", "components/dashboard", "components/simulator"):
        ((_, component),) = json.loads((site / project / "gdk-config.json").read_text())["component"].items()
        assert component["publish"] == {"bucket": "acme", "region": "us-west-2"}
        assert component["author"] == "Acme"


def test_the_sites_documents_name_the_components_and_versions_as_they_are_built(site: Path, command: Command) -> None:
    path = site / "gdk-config.json"
    config = json.loads(path.read_text())
    ((_, component),) = config["component"].items()
    path.write_text(json.dumps(config | {"component": {"org.acme.Judge": component | {"version": "4.5.6"}}}))
    assert fill_in(site, command).returncode == 0
    document = json.loads((site / "site" / "deployments" / "model-lite.json").read_text())
    assert document["components"]["org.acme.Judge"] == {"componentVersion": "4.5.6"}
    assert MODEL in document["components"]
    changed = (site / "site" / "deployments" / "change-topics.json").read_text()
    assert "org.acme.Judge:pubsub:1" in changed
    assert INFERENCE not in changed.replace(MODEL, "")


def test_a_site_that_aws_would_not_take_is_refused_in_one_line(site: Path, command: Command) -> None:
    done = fill_in(site, command, account="1234")
    assert done.returncode == 1
    assert "account is '1234'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (site / "site").exists()


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_a_policy_is_one_that_iam_takes_and_names_its_resources(path: Path) -> None:
    policy = json.loads(path.read_text())
    with moto.mock_aws():
        client("iam").create_policy(PolicyName="test", PolicyDocument=json.dumps(policy))
    for statement in policy["Statement"]:
        # These two know no resources: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsiotgreengrassv2.html
        nameless = set(statement["Action"]) == {"greengrass:CreateDeployment", "greengrass:ListDeployments"}
        assert (statement["Resource"] == "*") == nameless
        assert "*" not in "".join(statement["Action"])


def commands(guide: str) -> list[tuple[str, str, set[str]]]:
    """The guide's aws commands: service, operation as AWS spells it, options."""
    found = []
    text = guide.replace("\\\n", " ")
    for service, name, rest in re.findall(r"\baws (iot|iam|greengrassv2) ([a-z0-9-]+)([^\n)`]*)", text):
        operation = "".join(word.title() for word in name.split("-"))
        found.append((service, operation, set(re.findall(r" --([a-z-]+)", rest.split("$(")[0]))))
    return found


def test_the_guides_commands_are_ones_that_aws_has(checkout: Path) -> None:
    found = commands((checkout / "docs" / "deploy.md").read_text())
    assert len(found) >= 12
    for service, operation, options in found:
        shape = client(service).meta.service_model.operation_model(operation).input_shape
        kebab: Any = xform_name  # botocore has no types
        known = {kebab(member, "-") for member in shape.members} | {"cli-input-json", "query", "output"}
        assert options <= known, operation


def test_whoever_deploys_may_run_the_guides_commands(checkout: Path) -> None:
    policy = json.loads((EXAMPLES / "policies" / "deployer.json").read_text())
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    for service, operation, _ in commands((checkout / "docs" / "deploy.md").read_text()):
        if service == "greengrassv2" or "ThingGroup" in operation:
            assert f"{service.removesuffix('v2')}:{operation}" in allowed


def test_the_guide_names_every_example_and_no_other(checkout: Path) -> None:
    guide = (checkout / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"(?:deployments|policies)/[\w.-]+\.json", guide))
    assert named == {f"{path.parent.name}/{path.name}" for path in DEPLOYMENTS + POLICIES}
