"""The example deployments and policies: documents that AWS takes, for components and settings that exist."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
from botocore import xform_name
from botocore.validate import ParamValidator

from greengrass_sandbox import PUBSUB, is_allowed
from ml_inference.config import parse_configuration
from sensor_simulator.settings import unknown

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
        document = json.loads((EXAMPLES / "deployments" / f"model-{runtime}.json").read_text())
        assert merged(document, INFERENCE) == {"ModelDirectory": f"{root}/work/{MODEL}/current"}
        assert MODEL in document["components"]


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
