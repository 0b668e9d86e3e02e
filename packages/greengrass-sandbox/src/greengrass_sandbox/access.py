"""Who may do what: the `accessControl` of a component's configuration, as a nucleus reads it.

Nothing is allowed that no policy allows. The wildcards are the runtimes': `*` as a glob in every resource, and `+` and `#` only in the resources of
`aws.greengrass.ipc.mqttproxy`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

PUBSUB: Final = "aws.greengrass.ipc.pubsub"
MQTT_PROXY: Final = "aws.greengrass.ipc.mqttproxy"
CLI: Final = "aws.greengrass.Cli"

_ESCAPE_OR_STAR: Final = re.compile(r"\$\{([^}]*)\}|(\*)")


def is_allowed(
    access_control: Any, service: str, operation: str, resource: str, *, thing_name: str | None = None
) -> bool:
    """Whether a component may use an operation on a resource.

    Args:
        access_control: The value of `accessControl` in the component's configuration; anything but a map allows nothing.
        service: `aws.greengrass.ipc.pubsub` or `aws.greengrass.ipc.mqttproxy`.
        operation: With its namespace, as `aws.greengrass#PublishToTopic`.
        resource: The topic or topic filter.
        thing_name: What `{iot:thingName}` in a policy's resource stands for; None where the runtime knows no variables there.
    """
    policies = access_control.get(service) if isinstance(access_control, Mapping) else None
    if not isinstance(policies, Mapping):
        return False
    for policy in policies.values():
        if not isinstance(policy, Mapping):
            continue
        operations, resources = _strings(policy.get("operations")), _strings(policy.get("resources"))
        if (operation in operations or "*" in operations) and any(
            _covers(_filled_in(pattern, thing_name), resource, mqtt=service == MQTT_PROXY) for pattern in resources
        ):
            return True
    return False


def _strings(value: Any) -> list[str]:
    """Returns a list of strings as it is; a policy that holds anything else allows nothing."""
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []


def _filled_in(pattern: str, thing_name: str | None) -> str:
    return pattern if thing_name is None else pattern.replace("{iot:thingName}", thing_name)


def _covers(pattern: str, resource: str, *, mqtt: bool) -> bool:
    if pattern == "*" or _glob(pattern).fullmatch(resource):
        return True
    return mqtt and _mqtt(pattern).match(resource) is not None


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    """`*` is any text, `/` included; `${*}` is a star itself."""
    parts, end = [], 0
    for found in _ESCAPE_OR_STAR.finditer(pattern):
        parts += [re.escape(pattern[end : found.start()]), ".*" if found[2] else re.escape(found[1])]
        end = found.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]), re.DOTALL)


@lru_cache(maxsize=1024)
def _mqtt(pattern: str) -> re.Pattern[str]:
    """`+` is any text without `/`, and `#` everything from there on, wherever they stand: no whole level is asked for."""
    head, hash_sign, _ = pattern.partition("#")
    return re.compile("[^/]*".join(map(re.escape, head.split("+"))) + ("" if hash_sign else r"\Z"), re.DOTALL)
