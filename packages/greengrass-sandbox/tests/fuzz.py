"""Throws frames and requests at a nucleus stand-in that no SDK would send, and says whether it survived: `python fuzz.py --seconds 600`.

Every case comes from a seed, which is printed when one fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from greengrass_sandbox import BackgroundNucleus
from greengrass_sandbox.codec import Frame, encode

OPERATIONS = [
    "PublishToTopic",
    "SubscribeToTopic",
    "PublishToIoTCore",
    "SubscribeToIoTCore",
    "GetConfiguration",
    "UpdateConfiguration",
    "SubscribeToConfigurationUpdate",
    "UpdateState",
    "SubscribeToComponentUpdates",
    "DeferComponentUpdate",
    "SubscribeToValidateConfigurationUpdates",
    "SendConfigurationValidityReport",
    "CreateLocalDeployment",
    "RestartComponent",
    "StopComponent",
    "PauseComponent",
    "ResumeComponent",
    "ListComponents",
    "GetComponentDetails",
    "ListLocalDeployments",
    "GetLocalDeploymentStatus",
    "CancelLocalDeployment",
    "CreateDebugPassword",
    "PutComponentMetric",
    "GetSecretValue",
    "GetThingShadow",
    "UpdateThingShadow",
    "DeleteThingShadow",
    "ListNamedShadowsForThing",
    "SubscribeToCertificateUpdates",
    "VerifyClientDeviceIdentity",
    "GetClientDeviceAuthToken",
    "AuthorizeClientDeviceAction",
    "ValidateAuthorizationToken",
    "NoSuchOperation",
]
KEYS = [
    "topic",
    "publishMessage",
    "jsonMessage",
    "binaryMessage",
    "message",
    "topicName",
    "qos",
    "payload",
    "keyPath",
    "componentName",
    "valueToMerge",
    "timestamp",
    "receiveMode",
    "state",
    "deploymentId",
    "recheckAfterMs",
    "configurationValidityReport",
    "status",
    "metrics",
    "name",
    "unit",
    "value",
    "secretId",
    "versionId",
    "versionStage",
    "thingName",
    "shadowName",
    "pageSize",
    "nextToken",
    "certificateOptions",
    "certificateType",
    "credential",
    "clientDeviceCertificate",
    "mqttCredential",
    "clientId",
    "certificatePem",
    "clientDeviceAuthToken",
    "operation",
    "resource",
    "token",
    "rootComponentVersionsToAdd",
    "rootComponentsToRemove",
    "componentToConfiguration",
    "recipeDirectoryPath",
    "artifactsDirectoryPath",
    "failureHandlingPolicy",
    "accessControl",
    "MERGE",
    "RESET",
    "a",
]
SERVICES = ("aws.greengrass.ShadowManager", "aws.greengrass.SecretManager", "aws.greengrass.clientdevices.Auth")
ACCESS = {
    service: {"all": {"operations": ["*"], "resources": ["*"]}}
    for service in (
        "aws.greengrass.ipc.pubsub",
        "aws.greengrass.ipc.mqttproxy",
        "aws.greengrass.ipc.lifecycle",
        "aws.greengrass.Cli",
        *SERVICES,
    )
}
DEEP = ("[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "[" * 200 + "]" * 200)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 7, 1e308, 10**30, 0.5, "", "a", "/", "+", "#", "a/#", "\ud800", "\u0000", "x" * 300, "AAAA", "1", "RUNNING", "ACCEPTED",
    "com.example.Fuzz", "Count", "eyJzdGF0ZSI6eyJkZXNpcmVkIjp7ImEiOjF9fX0=", [], {}, [[]], {"": {}},
)  # fmt: skip


class Complaints(logging.Handler):
    """What may not happen: errors of the event loop, and of the stand-in itself."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth > 3 or kind < 0.6:
        return chance.choice(ODD)
    if kind < 0.8:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    return {chance.choice(KEYS): value(chance, depth + 1) for _ in range(chance.randint(0, 4))}


def request(chance: random.Random) -> bytes:
    if chance.random() < 0.05:
        deep = chance.choice(DEEP)
        return (
            deep.encode() if chance.random() < 0.5 else f'{{"valueToMerge":{deep},"keyPath":[],"timestamp":1}}'.encode()
        )
    body = {key: value(chance) for key in chance.sample(KEYS, chance.randint(0, 8))}
    return json.dumps(body).encode()


def frames(chance: random.Random, token: str) -> Iterator[bytes]:
    """One connection's bytes."""
    hello = json.dumps({"authToken": token}).encode()
    if chance.random() < 0.2:
        hello = chance.choice([b"", b"7", b"[]", DEEP[0].encode(), b'{"authToken":[]}', b"\xff\xfe", hello[:-3]])
    yield encode(Frame({":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}, hello))
    for number in range(1, chance.randint(2, 30)):
        headers: dict[str, Any] = {":message-type": 0, ":message-flags": 0, ":stream-id": number}
        headers |= {"operation": f"aws.greengrass#{chance.choice(OPERATIONS)}", ":content-type": "application/json"}
        if chance.random() < 0.05:
            headers[chance.choice(list(headers))] = chance.choice([-1, 2**40, "x", b"", True, 7])
        data = encode(Frame(headers, request(chance)))
        if chance.random() < 0.02:
            place = chance.randrange(len(data))
            data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        yield data if chance.random() > 0.01 else chance.randbytes(chance.randint(0, 200))


def converse(nucleus: BackgroundNucleus, seed: int) -> None:
    chance = random.Random(seed)
    name = chance.choice(("com.example.Fuzz", "aws.example.Fuzz", "aws.greengrass.StreamManager"))
    token = nucleus.credentials(name, ACCESS)["SVCUID"]
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.connect(str(nucleus.socket_path))
        for data in frames(chance, token):
            connection.sendall(data)
        connection.settimeout(0.05)
        while connection.recv(65536):
            pass


def run(nucleus: BackgroundNucleus, seeds: Iterator[int], go_on: Callable[[], bool]) -> list[str]:
    """Lets connections do their worst; returns what the nucleus had to complain about."""
    complaints = Complaints()
    loggers = [logging.getLogger(name) for name in ("asyncio", "greengrass_sandbox")]
    for logger in loggers:
        logger.addHandler(complaints)
    try:
        for seed in seeds:
            converse(nucleus, seed)
            if complaints.lines:
                return [f"seed {seed}", *complaints.lines]
            if not go_on():
                break
    finally:
        for logger in loggers:
            logger.removeHandler(complaints)
    return complaints.lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    for profile in ("lite", "classic"):
        with (
            tempfile.TemporaryDirectory() as folder,
            BackgroundNucleus(Path(folder), profile, services=SERVICES) as nucleus,
        ):
            logging.disable(logging.WARNING)
            end, count = time.monotonic() + options.seconds / 2, 0

            def seeds() -> Iterator[int]:
                nonlocal count
                while True:
                    yield options.seed + count
                    count += 1

            found = run(nucleus, seeds(), lambda: time.monotonic() < end)  # noqa: B023
            print(f"{profile}: {count} connections, {'nothing wrong' if not found else 'FAILED'}")
            if found:
                print("\n".join(found))
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
