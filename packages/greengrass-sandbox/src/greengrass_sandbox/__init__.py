"""A stand-in for the Greengrass nucleus on one's own machine.

It speaks the Greengrass IPC protocol on a Unix socket, so that components with the real SDK run against it as they run on a device; see
:class:`Nucleus` for asynchronous tests and :class:`BackgroundNucleus` for the others. It is a tool for development and tests and never
part of what is deployed.
"""

from greengrass_sandbox.access import MQTT_PROXY, PUBSUB, is_allowed
from greengrass_sandbox.background import BackgroundComponent, BackgroundIotCore, BackgroundNucleus, BackgroundTap
from greengrass_sandbox.cloud import IotCore
from greengrass_sandbox.component import Component, State
from greengrass_sandbox.configuration import Configuration, ConfigurationError
from greengrass_sandbox.faults import Faults, PendingFault
from greengrass_sandbox.nucleus import (
    BrokenComponentError,
    Deployment,
    DeploymentError,
    LogLine,
    Nucleus,
    OpenSubscription,
    StateChange,
)
from greengrass_sandbox.profiles import Profile, ProfileName, profile_named
from greengrass_sandbox.recipe import Recipe, RecipeError, load_recipe
from greengrass_sandbox.services import ClientDevices, Metric
from greengrass_sandbox.shadows import Shadows
from greengrass_sandbox.topics import Message, Tap

__version__ = "1.0.0"

__all__ = [
    "MQTT_PROXY",
    "PUBSUB",
    "BackgroundComponent",
    "BackgroundIotCore",
    "BackgroundNucleus",
    "BackgroundTap",
    "BrokenComponentError",
    "ClientDevices",
    "Component",
    "Configuration",
    "ConfigurationError",
    "Deployment",
    "DeploymentError",
    "Faults",
    "IotCore",
    "LogLine",
    "Message",
    "Metric",
    "Nucleus",
    "OpenSubscription",
    "PendingFault",
    "Profile",
    "ProfileName",
    "Recipe",
    "RecipeError",
    "Shadows",
    "State",
    "StateChange",
    "Tap",
    "is_allowed",
    "load_recipe",
    "profile_named",
]
