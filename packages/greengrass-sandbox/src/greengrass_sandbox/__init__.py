"""A stand-in for the Greengrass nucleus on one's own machine.

It speaks the Greengrass IPC protocol on a Unix socket, so that components with the real SDK run against it as they run on a device; see
:class:`Nucleus` for asynchronous tests and :class:`BackgroundNucleus` for the others. It is a tool for development and tests and never
part of what is deployed.
"""

from greengrass_sandbox.background import BackgroundNucleus
from greengrass_sandbox.component import Component, State
from greengrass_sandbox.nucleus import Deployment, DeploymentError, LogLine, Nucleus, StateChange
from greengrass_sandbox.topics import Message, Tap

__version__ = "1.0.0"

__all__ = [
    "BackgroundNucleus",
    "Component",
    "Deployment",
    "DeploymentError",
    "LogLine",
    "Message",
    "Nucleus",
    "State",
    "StateChange",
    "Tap",
]
