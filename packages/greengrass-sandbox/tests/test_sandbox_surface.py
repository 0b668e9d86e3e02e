"""What the package promises: the names that it exports, and nothing else."""

from __future__ import annotations

import greengrass_sandbox

PROMISED = {
    "BackgroundComponent", "BackgroundIotCore", "BackgroundNucleus", "BackgroundTap", "BrokenComponentError", "ClientDevices", "Component",
    "Configuration", "ConfigurationError", "Deployment", "DeploymentError", "Faults", "IotCore", "LogLine", "MQTT_PROXY", "Message", "Metric",
    "Nucleus", "OpenSubscription", "PUBSUB", "PendingFault", "Profile", "ProfileName", "Recipe", "RecipeError", "Shadows", "State", "StateChange",
    "Tap", "is_allowed", "load_recipe", "profile_named",
}  # fmt: skip


def test_the_package_exports_what_it_promises() -> None:
    assert set(greengrass_sandbox.__all__) == PROMISED
    assert all(hasattr(greengrass_sandbox, name) for name in PROMISED)


def test_every_verb_and_observer_of_the_nucleus_is_there_in_the_blocking_form() -> None:
    public = {name for name in vars(greengrass_sandbox.Nucleus) if not name.startswith("_")}
    for_operations = {
        "access_control", "answer_update", "cancel_local_deployment", "component_details", "configuration_changed", "drop_connections", "forget_streams", "has_room_for_subscription", "inject_event",
        "has_service", "manage", "report_state", "rotate_token", "stamp", "token_owner", "watch_certificates", "watch_configuration", "watch_updates",
    }  # fmt: skip
    blocking = {name for name in vars(greengrass_sandbox.BackgroundNucleus) if not name.startswith("_")}
    assert public - for_operations - blocking == set()
