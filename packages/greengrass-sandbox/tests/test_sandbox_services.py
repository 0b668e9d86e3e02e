"""Operations of other components of the nucleus, through the real SDK: management, local deployments, metrics, secrets, shadows, client devices."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from awsiot.greengrasscoreipc import model

from greengrass_sandbox import BackgroundNucleus

Connect = Callable[..., Any]
Files = Callable[..., Path]
MakeNucleus = Callable[..., BackgroundNucleus]

ALL = {
    service: {"all": {"operations": ["*"], "resources": ["*"]}}
    for service in (
        "aws.greengrass.Cli",
        "aws.greengrass.ipc.lifecycle",
        "aws.greengrass.SecretManager",
        "aws.greengrass.ShadowManager",
        "aws.greengrass.clientdevices.Auth",
    )
}
NAME = "com.example.Worker"
RUN = "exec sleep 60"
SERVICES = ("aws.greengrass.ShadowManager", "aws.greengrass.clientdevices.Auth")


def until(reached: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def full(make_nucleus: MakeNucleus) -> BackgroundNucleus:
    """A classic nucleus with AWS's components."""
    return make_nucleus("classic", services=SERVICES, secrets={"db": "s3cret", "key": {"secretBinary": b"\x00\x01"}})


def test_components_are_listed_and_described(
    classic: BackgroundNucleus, connect: Connect, component_files: Files
) -> None:
    classic.deploy(component_files(run=RUN, configuration="{a: 1}"))
    client = connect(classic, access=ALL)
    (listed,) = client.call("list_components").components
    described = client.call("get_component_details", component_name=NAME).component_details
    for details in (listed, described):
        assert (details.component_name, details.version, details.state) == (NAME, "1.0.0", "RUNNING")
        assert details.configuration == {"a": 1}
    with pytest.raises(model.ResourceNotFoundError):
        client.call("get_component_details", component_name="com.example.Nobody")


def test_a_component_can_be_restarted_over_ipc(
    nucleus: BackgroundNucleus, connect: Connect, component_files: Files
) -> None:
    component, client = nucleus.deploy(component_files(run=RUN)), connect(nucleus, access=ALL)
    before = component.pid
    assert client.call("restart_component", component_name=NAME).restart_status == "SUCCEEDED"
    until(lambda: component.pid not in (None, before), "it was not restarted")
    with pytest.raises(model.ResourceNotFoundError):
        client.call("restart_component", component_name="com.example.Nobody")
    with pytest.raises(model.UnauthorizedError):
        connect(nucleus, "com.example.Other").call("restart_component", component_name=NAME)


def test_a_component_can_be_stopped_paused_and_resumed(
    classic: BackgroundNucleus, connect: Connect, component_files: Files
) -> None:
    component = classic.deploy(component_files(run="'while :; do date +%N > beat; sleep 0.02; done'"))
    client, beat = connect(classic, access=ALL), component.work_path / "beat"
    until(beat.exists, "it does not run")
    client.call("pause_component", component_name=NAME)
    frozen = beat.read_text()
    time.sleep(0.2)
    assert beat.read_text() == frozen
    client.call("resume_component", component_name=NAME)
    until(lambda: beat.read_text() != frozen, "it did not go on")
    assert client.call("stop_component", component_name=NAME).stop_status == "SUCCEEDED"
    component.wait_for("FINISHED")
    with pytest.raises(model.InvalidArgumentsError):
        client.call("pause_component", component_name=NAME)


def folders(tmp_path: Path, recipe: Path, **artifacts: str) -> dict[str, str]:
    """A folder of recipes and one of artifacts, as greengrass-cli takes them."""
    recipes, files = tmp_path / "cli" / "recipes", tmp_path / "cli" / "artifacts"
    recipes.mkdir(parents=True, exist_ok=True)
    shutil.move(recipe, recipes / recipe.name)
    own = files / NAME / "1.0.0"
    own.mkdir(parents=True, exist_ok=True)
    for name, text in artifacts.items():
        (own / f"{name}.py").write_text(text)
    return {"recipe_directory_path": str(recipes), "artifacts_directory_path": str(files)}


def test_a_local_deployment_brings_its_folder_of_artifacts_and_its_configuration(
    nucleus: BackgroundNucleus, connect: Connect, component_files: Files, tmp_path: Path
) -> None:
    run = "exec python3 -u {artifacts:path}/hello.py '{configuration:/name}'"
    recipe = component_files(run=f'"{run}"', configuration="{name: nobody}")
    client = connect(nucleus, access=ALL)
    paths = folders(tmp_path, recipe, hello="import sys, time; print('hello', sys.argv[1]); time.sleep(60)")
    asked = client.call(
        "create_local_deployment",
        root_component_versions_to_add={NAME: "1.0.0"},
        component_to_configuration={NAME: {"MERGE": {"name": "world"}}},
        **paths,
    )
    until(lambda: nucleus.deployment_status(asked.deployment_id)[0]["status"] == "SUCCEEDED", "it did not succeed")
    component = nucleus.component(NAME)
    until(lambda: "hello world" in component.log_path.read_text(), "it did not say hello")
    with pytest.raises(model.ServiceError if nucleus.nucleus.profile.name == "lite" else model.UnauthorizedError):
        connect(nucleus, "com.example.Other").call("create_local_deployment", **paths)


def test_the_status_of_local_deployments_can_be_asked(
    classic: BackgroundNucleus, connect: Connect, component_files: Files, tmp_path: Path
) -> None:
    client = connect(classic, access=ALL)
    paths = folders(tmp_path, component_files(run=RUN, install="exit 1"))
    first = client.call(
        "create_local_deployment", root_component_versions_to_add={NAME: "1.0.0"}, **paths
    ).deployment_id
    second = client.call(
        "create_local_deployment", root_component_versions_to_add={"com.example.X": "1.0.0"}
    ).deployment_id

    def status(identity: str) -> Any:
        return client.call("get_local_deployment_status", deployment_id=identity).deployment

    def failed(identity: str) -> bool:
        return bool(status(identity).status == "FAILED")

    for identity, cause in ((first, "install failed"), (second, r"no recipe of com.example.X 1.0.0")):
        until(partial(failed, identity), "it did not fail")
        assert cause in status(identity).deployment_status_details.deployment_failure_cause
    assert {each.deployment_id for each in client.call("list_local_deployments").local_deployments} == {first, second}
    with pytest.raises(model.ResourceNotFoundError):
        status("nothing")
    with pytest.raises(model.InvalidArgumentsError):
        client.call("create_local_deployment", component_to_configuration={"a": {"MERGE": [1]}})
    with pytest.raises(model.InvalidArgumentsError):
        client.call("cancel_local_deployment", deployment_id=first)


def test_dependencies_are_deployed_first_and_in_a_version_that_will_do(
    classic: BackgroundNucleus, component_files: Files, tmp_path: Path
) -> None:
    for version in ("1.0.0", "1.2.0", "2.0.0"):
        folders(tmp_path, component_files(name="com.example.Base", version=version, run=RUN))
    top = component_files(run=RUN)
    top.write_text(top.read_text() + "ComponentDependencies: {com.example.Base: {VersionRequirement: ^1.0.0}}\n")
    paths = folders(tmp_path, top)
    request = {"rootComponentVersionsToAdd": {NAME: "1.0.0"}, "recipeDirectoryPath": paths["recipe_directory_path"]}
    identity = classic.create_local_deployment(request)
    until(lambda: classic.deployment_status(identity)[0]["status"] == "SUCCEEDED", "it did not succeed")
    assert [(each.name, each.version) for each in classic.components] == [
        ("com.example.Base", "1.2.0"),
        (NAME, "1.0.0"),
    ]
    removed = classic.create_local_deployment({"rootComponentsToRemove": [NAME]})
    until(lambda: classic.deployment_status(removed)[0]["status"] == "SUCCEEDED", "it was not removed")
    assert [each.name for each in classic.components] == ["com.example.Base"]


def test_a_component_that_ends_three_times_makes_lites_deployment_fail(
    lite: BackgroundNucleus, component_files: Files, tmp_path: Path
) -> None:
    paths = folders(tmp_path, component_files(run="exit 1"))
    request = {"rootComponentVersionsToAdd": {NAME: "1.0.0"}, "recipeDirectoryPath": paths["recipe_directory_path"]}
    identity = lite.create_local_deployment(request)
    until(lambda: lite.deployment_status(identity)[0]["status"] == "FAILED", "it did not fail")
    assert "ended 3 times" in lite.deployment_status(identity)[0]["deploymentStatusDetails"]["deploymentFailureCause"]


def test_metrics_are_taken_from_aws_components_only(classic: BackgroundNucleus, connect: Connect) -> None:
    metric = model.Metric(name="readings", unit="Count", value=3.0)
    connect(classic, "aws.example.Own").call("put_component_metric", metrics=[metric])
    assert [(each.component, each.name, each.value) for each in classic.metrics] == [
        ("aws.example.Own", "readings", 3.0)
    ]
    with pytest.raises(model.UnauthorizedError):
        connect(classic).call("put_component_metric", metrics=[metric])
    for bad in (
        [],
        [model.Metric(name="a", unit="Count", value=-1.0)],
        [model.Metric(name="a", unit="Miles", value=1.0)],
    ):
        with pytest.raises(model.InvalidArgumentsError):
            connect(classic, "aws.example.Own").call("put_component_metric", metrics=bad)


def test_a_token_is_validated_for_the_stream_manager_only(nucleus: BackgroundNucleus, connect: Connect) -> None:
    token = nucleus.credentials("com.example.Test")["SVCUID"]
    manager = connect(nucleus, "aws.greengrass.StreamManager")
    assert manager.call("validate_authorization_token", token=token).is_valid
    with pytest.raises(model.InvalidTokenError):
        manager.call("validate_authorization_token", token="A" * 16)
    with pytest.raises(model.UnauthorizedError):
        connect(nucleus).call("validate_authorization_token", token=token)


def test_a_password_for_the_debug_console_is_made(classic: BackgroundNucleus, connect: Connect) -> None:
    made = connect(classic, access=ALL).call("create_debug_password")
    assert made.username == "debug"
    assert len(made.password) > 20
    assert made.password_expiration.timestamp() > time.time()


def test_secrets_are_those_that_were_given(
    full: BackgroundNucleus, connect: Connect, make_nucleus: MakeNucleus, tmp_path: Path
) -> None:
    client = connect(full, access=ALL)
    assert client.call("get_secret_value", secret_id="db").secret_value.secret_string == "s3cret"
    assert client.call("get_secret_value", secret_id="key").secret_value.secret_binary == b"\x00\x01"
    for arguments in ({"secret_id": "other"}, {"secret_id": "db", "version_id": "9"}):
        with pytest.raises(model.ResourceNotFoundError):
            client.call("get_secret_value", **arguments)
    with pytest.raises(model.UnauthorizedError):
        connect(full, "com.example.Other").call("get_secret_value", secret_id="db")
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps({"arn:a": {"secretString": "from a file", "versionId": "v2"}}))
    other = make_nucleus("classic", secrets=file)
    assert connect(other, access=ALL).call("get_secret_value", secret_id="arn:a", version_id="v2").version_id == "v2"


def test_shadows_have_versions_and_conflicts(full: BackgroundNucleus, connect: Connect) -> None:
    client = connect(full, access=ALL)

    def update(document: Any, shadow: str = "") -> Any:
        payload = json.dumps(document).encode()
        return json.loads(
            client.call("update_thing_shadow", thing_name="t", shadow_name=shadow, payload=payload).payload
        )

    def get(shadow: str = "") -> Any:
        return json.loads(client.call("get_thing_shadow", thing_name="t", shadow_name=shadow).payload)

    with pytest.raises(model.ResourceNotFoundError):
        get()
    assert update({"state": {"desired": {"a": 1, "b": {"c": 2}}}})["version"] == 1
    assert update({"state": {"reported": {"a": 0, "b": {"c": 2}}}, "version": 1})["version"] == 2
    assert get()["state"]["delta"] == {"a": 1}
    assert update({"state": {"desired": {"a": None}}})["version"] == 3
    assert get()["state"]["desired"] == {"b": {"c": 2}}
    with pytest.raises(model.ConflictError):
        update({"state": {"desired": {"a": 5}}, "version": 1})
    refused: tuple[Any, ...] = ([], {"state": 7}, {"state": {"other": 1}}, {"state": {"desired": {"a": "x" * 9000}}})
    for bad in refused:
        with pytest.raises(model.InvalidArgumentsError):
            update(bad)
    for name in ("one", "two", "three"):
        update({"state": {"desired": {"x": name}}}, name)
    page = client.call("list_named_shadows_for_thing", thing_name="t", page_size=2)
    rest = client.call("list_named_shadows_for_thing", thing_name="t", next_token=page.next_token)
    assert page.results + rest.results == ["one", "three", "two"]
    client.call("delete_thing_shadow", thing_name="t", shadow_name="two")
    with pytest.raises(model.ResourceNotFoundError):
        get("two")
    with pytest.raises(model.UnauthorizedError):
        connect(full, "com.example.Other").call("get_thing_shadow", thing_name="t", shadow_name="")


def test_client_devices_are_known_by_their_certificates(full: BackgroundNucleus, connect: Connect) -> None:
    client = connect(full, access=ALL)
    full.client_devices.certificates["press-7"] = "PEM"
    full.client_devices.permissions["press-7"] = [("mqtt:publish", "mqtt:topic:line/*")]
    credential = model.ClientDeviceCredential(client_device_certificate="PEM")
    assert client.call("verify_client_device_identity", credential=credential).is_valid_client_device
    mqtt = model.CredentialDocument(mqtt_credential=model.MQTTCredential(client_id="press-7", certificate_pem="PEM"))
    token = client.call("get_client_device_auth_token", credential=mqtt).client_device_auth_token
    for operation, resource, allowed in (
        ("mqtt:publish", "mqtt:topic:line/7", True),
        ("mqtt:publish", "mqtt:topic:other", False),
        ("mqtt:subscribe", "mqtt:topic:line/7", False),
    ):
        asked = {"client_device_auth_token": token, "operation": operation, "resource": resource}
        answer = client.sdk.authorize_client_device_action_async(**asked).result(10)
        assert answer.is_authorized is allowed
    with pytest.raises(model.InvalidClientDeviceAuthTokenError):
        client.sdk.authorize_client_device_action_async(
            client_device_auth_token="no", operation="o", resource="r"
        ).result(10)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl, which is not on PATH")
def test_server_certificates_come_and_are_rotated(full: BackgroundNucleus, connect: Connect) -> None:
    options = model.CertificateOptions(certificate_type="SERVER")
    updates = connect(full, access=ALL).stream("subscribe_to_certificate_updates", certificate_options=options)
    first = updates.get().certificate_update
    full.rotate_certificates()
    second = updates.get().certificate_update
    assert first.certificate.startswith("-----BEGIN CERTIFICATE-----")
    assert first.private_key != second.private_key
    assert second.ca_certificates == [second.certificate]


def test_what_no_component_depends_on_is_not_there(classic: BackgroundNucleus, connect: Connect) -> None:
    client = connect(classic, access=ALL)
    for operation, arguments in (
        ("get_secret_value", {"secret_id": "x"}),
        ("get_thing_shadow", {"thing_name": "x", "shadow_name": ""}),
    ):
        with pytest.raises(model.ServiceError):
            client.call(operation, **arguments)
    recipe = {
        "ComponentName": "com.example.Test",
        "ComponentVersion": "1.0.0",
        "ComponentDependencies": {"aws.greengrass.ShadowManager": {"VersionRequirement": "^2.0.0"}},
        "Manifests": [{"Lifecycle": {}}],
    }
    classic.credentials("com.example.Test", recipe)
    with pytest.raises(model.ResourceNotFoundError):
        client.call("get_thing_shadow", thing_name="x", shadow_name="")
