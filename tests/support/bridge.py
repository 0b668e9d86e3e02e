"""The bridge as a process of its own, and what it connects to: a real broker with TLS, an OPC UA and a Modbus server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from paho.mqtt.enums import CallbackAPIVersion

from greengrass_sandbox import BackgroundNucleus
from support.clocks import SECONDS, until
from support.line import nursery
from support.nursery import Child

NAME = "com.example.MLInference.Bridge"
PROJECT = Path(__file__).parents[2] / "components" / "bridge"
STOP_SECONDS = 4.5
"""The classic nucleus kills after 5."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Authority:
    """Signs certificates for a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {folder.name}")])
        self.certificate = folder / "ca.pem"
        signed = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def sign(self, name: str, uri: str = "") -> tuple[Path, Path]:
        """A certificate for this machine, and its key."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        names += [x509.UniformResourceIdentifier(uri)] if uri else []
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        signed = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths


def mosquitto() -> str:
    """The broker's program."""
    # Debian installs it where only root's path leads.
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no mosquitto, and CI is set: apt-get install mosquitto")
        pytest.skip("no mosquitto on this machine: apt-get install mosquitto")
    return path


class Broker:
    """A real mosquitto, with a plain listener for the test and one with TLS and client certificates for the bridge."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        self._program = mosquitto()
        folder.mkdir()
        self._folder = folder
        self.port, self.tls_port, self.password_port = free_port(), free_port(), free_port()
        lines = [
            "per_listener_settings true",
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 0",
        ]
        lines += ["max_inflight_messages 0", f"listener {self.port} 127.0.0.1", "allow_anonymous true"]
        if authority is not None:
            certificate, key = authority.sign("broker")
            lines += [
                f"listener {self.tls_port} 127.0.0.1",
                f"cafile {authority.certificate}",
                f"certfile {certificate}",
            ]
            lines += [f"keyfile {key}", "require_certificate true", "use_identity_as_username true"]
        lines += [f"listener {self.password_port} 127.0.0.1", f"password_file {folder}/passwords"]
        create = [str(Path(self._program).with_name("mosquitto_passwd")), "-b", "-c", str(folder / "passwords")]
        subprocess.run([shutil.which("mosquitto_passwd") or create[0], *create[1:], "bridge", "sesame"], check=True)
        if os.geteuid() == 0:
            lines.insert(0, "user root")  # it would become a user who cannot read the test's files
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        until(self._listens, "mosquitto does not listen")

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """SIGTERM: what it keeps for absent clients goes to disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(SECONDS)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: what it keeps for absent clients is lost."""
        assert self._process is not None
        self._process.kill()
        self.stop()

    def client(self) -> paho.Client:
        """A client over the plain listener, with its own thread."""
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"test-{free_port()}", clean_session=False)
        client.max_queued_messages_set(0)
        client.max_inflight_messages_set(1000)
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client


def tls_of(authority: Authority, name: str = "bridge") -> dict[str, str]:
    """What a mapping says to connect to the broker's TLS listener."""
    certificate, key = authority.sign(name)
    return {"ca": str(authority.certificate), "certificate": str(certificate), "key": str(key)}


@dataclass
class Bridge:
    """The component's process."""

    nucleus: BackgroundNucleus
    work: Path
    mapping: Mapping[str, Any]
    configuration: Mapping[str, Any] = field(default_factory=dict)
    process: Child | None = None

    def __post_init__(self) -> None:
        self.work.mkdir(exist_ok=True)
        self._health = self.nucleus.watch("ml/inference/bridge/health")
        self._readings = self.nucleus.watch("ml/inference/request")
        self.health: dict[str, Any] = {}

    @property
    def log(self) -> str:
        path = self.work / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def recipe(self) -> dict[str, Any]:
        recipe: dict[str, Any] = yaml.safe_load((PROJECT / "recipe.yaml").read_text(encoding="utf-8"))
        # As a deployment does for a mapping that names a secret.
        secrets = {"operations": ["aws.greengrass#GetSecretValue"], "resources": ["broker-password"]}
        access = recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
        access["aws.greengrass.SecretManager"] = {f"{NAME}:secrets:1": secrets}
        return recipe | {"ComponentName": NAME, "ComponentVersion": "1.0.0"}

    def start(self, *, wait: bool = True) -> None:
        mapping = self.work / "mapping.json"
        mapping.write_text(json.dumps(self.mapping))
        settings = {"HealthIntervalSeconds": 1, "MappingFile": str(mapping), **self.configuration}
        environment = self.nucleus.credentials(NAME, self.recipe(), configuration=settings)
        (self.work / "log").touch()
        self._health.drain()  # what a process before this one said
        self.process = nursery().start(["run"], os.environ | environment, self.work, self.work / "log", bridge=True)
        if wait:
            self.until(lambda health: health["state"] == "running")

    def until(self, wanted: Any) -> dict[str, Any]:
        """The next health message that is as wanted; each of them must balance."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            self.health = json.loads(self._health.get(SECONDS).payload)
            assert balanced(self.health), self.health
            if wanted(self.health):
                return self.health
        raise AssertionError(f"no such health message came; the last was {self.health}; log: {self.log}")

    def now(self) -> dict[str, Any]:
        """A health message of now, and not one that came before."""
        self._health.drain()
        return self.until(lambda _: True)

    def next_reading(self) -> dict[str, Any]:
        return self.readings(1)[0]

    def readings(self, at_least: int = 0) -> list[dict[str, Any]]:
        """Readings that came: as many as are asked for, and what came with them."""
        found: list[dict[str, Any]] = []
        while len(found) < at_least:
            found += json.loads(self._readings.get(SECONDS).payload)
        for message in self._readings.drain():
            found += json.loads(message.payload)
        return found

    def says(self, text: str) -> None:
        until(lambda: text in self.log, f"no {text!r} in the log")

    def stop(self) -> dict[str, Any]:
        """SIGTERM, which must end it in time; its last accounts."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert self.process.wait(SECONDS) == 0, self.log
        assert time.monotonic() - began < STOP_SECONDS, self.log
        return self.accounts()

    def accounts(self) -> dict[str, Any]:
        """What it says at its end."""
        accounts: dict[str, Any] = json.loads(re.findall(r"ended: (.*)", self.log)[-1])
        assert balanced(accounts), accounts
        return accounts

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert "Traceback" not in self.log, self.log
        assert "internal error" not in self.log, self.log


def balanced(accounts: Mapping[str, Any]) -> bool:
    """Whether a health message, or the last accounts, add up."""
    values, readings = accounts.get("values"), accounts["readings"]
    fates = sum(readings[key] for key in ("published", "refused", "dropped", "kept", "waiting"))
    fine = readings["assembled"] + readings["carried_over"] == fates
    if values is not None:
        fine &= values["received"] == sum(values.values()) - values["received"]
    messages = accounts.get("messages") or {
        name: source["messages"] for name, source in accounts.get("sources", {}).items() if "messages" in source
    }
    for counts in messages.values():
        fine &= counts["received"] == sum(counts[key] for key in ("read", "unmatched", "unreadable", "retained"))
    return bool(fine)
