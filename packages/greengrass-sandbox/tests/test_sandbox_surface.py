"""What the package promises: the names that it exports, and nothing else."""

from __future__ import annotations

import greengrass_sandbox

PROMISED = {
    "BackgroundComponent", "BackgroundIotCore", "BackgroundNucleus", "BackgroundTap", "BrokenComponentError", "Component",
    "Configuration", "ConfigurationError", "Deployment", "DeploymentError", "Faults", "IotCore", "LogLine", "MQTT_PROXY", "Message",
    "Nucleus", "OpenSubscription", "PUBSUB", "PendingFault", "Profile", "ProfileName", "Recipe", "RecipeError", "State", "StateChange",
    "Tap", "is_allowed", "load_recipe", "profile_named",
}  # fmt: skip


def test_the_package_exports_what_it_promises() -> None:
    assert set(greengrass_sandbox.__all__) == PROMISED
    assert all(hasattr(greengrass_sandbox, name) for name in PROMISED)


def test_every_verb_and_observer_of_the_nucleus_is_there_in_the_blocking_form() -> None:
    public = {name for name in vars(greengrass_sandbox.Nucleus) if not name.startswith("_")}
    for_operations = {
        "access_control", "answer_update", "configuration_changed", "drop_connections", "forget_streams", "has_room_for_subscription", "inject_event",
        "report_state", "rotate_token", "stamp", "watch_configuration", "watch_updates",
    }  # fmt: skip
    blocking = {name for name in vars(greengrass_sandbox.BackgroundNucleus) if not name.startswith("_")}
    assert public - for_operations - blocking == set()
