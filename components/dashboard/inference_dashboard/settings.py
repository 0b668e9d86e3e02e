"""The component's configuration, and the rules of what may be served to whom.

A value may arrive as a string: nucleus lite gives every value of a local deployment as one. It must never guess: what cannot be
read, or would serve the page to strangers, is an error that names the key.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ml_inference.topics import subscribe_filter

MIN_TOKEN_CHARACTERS = 16
"""Shorter ones could be guessed over the network; `openssl rand -hex 24` makes one of 48."""


class SettingsError(ValueError):
    """A value cannot be used; the message names its key."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The component's configuration; the defaults are the recipe's.

    Attributes:
        input_topic: Topic filter of the readings.
        result_topic: Topic filter of the results.
        alarm_topic: Topic filter of the alarms.
        error_topic: Topic filter of the rejections.
        health_topic: Topic filter of the inference component's health.
        listen_address: IP address to listen on.
        port: TCP port to listen on.
        token: What a browser or a scraper has to know; "" for none, which only loopback allows.
        token_file: File that holds the token, instead of `token`.
        tls_certificate: PEM file with the certificate chain; "" for plain HTTP.
        tls_key: PEM file with its private key.
        behind_proxy: A reverse proxy stands in front and does TLS.
        history_megabytes: Bound of the history on disk.
        log_level: Of `logging`.
    """

    input_topic: str = "ml/inference/request"
    result_topic: str = "ml/inference/result"
    alarm_topic: str = "ml/inference/alarm"
    error_topic: str = "ml/inference/error"
    health_topic: str = "ml/inference/health"
    listen_address: str = "127.0.0.1"
    port: int = 8990
    token: str = field(default="", repr=False)
    token_file: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    behind_proxy: bool = False
    history_megabytes: int = 256
    log_level: str = "INFO"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return ipaddress.ip_address(self.listen_address).is_loopback

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS itself."""
        return bool(self.tls_certificate)

    @property
    def topics(self) -> dict[str, str]:
        """Topic filters by what comes on them."""
        return {
            "reading": self.input_topic,
            "result": self.result_topic,
            "alarm": self.alarm_topic,
            "error": self.error_topic,
            "health": self.health_topic,
        }


def parse(values: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """Put given values over the defaults, and check the whole.

    Args:
        values: By configuration key. None and "null" leave the default; unknown keys are left out (see `unknown`).
        base: For what is not given; the defaults if None.

    Raises:
        SettingsError: A value cannot be used, or the page would be open to strangers.
    """
    settings = base or Settings()
    given = {key: value for key, value in values.items() if key in _KEYS and value is not None and value != "null"}
    for key, value in given.items():
        name, read = _KEYS[key]
        try:
            settings = replace(settings, **{name: read(value)})
        except SettingsError as error:
            shown = "a value" if key == "Token" else repr(value)
            raise SettingsError(f"{key}: expected {error}, got {shown}") from None
    return _checked(settings)


def unknown(values: Mapping[str, Any]) -> list[str]:
    """The keys that mean nothing here."""
    return sorted(values.keys() - _KEYS.keys() - {"accessControl"})


def _checked(settings: Settings) -> Settings:
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingsError("TlsCertificate and TlsKey: give both or neither")
    if settings.token and settings.token_file:
        raise SettingsError("Token and TokenFile: give one of them")
    if settings.token_file:
        try:
            token = Path(settings.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"TokenFile: cannot read {settings.token_file}: {error}") from None
        settings = replace(settings, token=token)
        if not token:
            raise SettingsError(f"TokenFile: {settings.token_file} is empty")
    if settings.token and len(settings.token) < MIN_TOKEN_CHARACTERS:
        raise SettingsError(f"Token: has {len(settings.token)} characters, needs at least {MIN_TOKEN_CHARACTERS}")
    open_to_others = not settings.loopback or settings.behind_proxy
    if open_to_others and not settings.token:
        raise SettingsError(
            f"Token: is needed where others can connect (ListenAddress {settings.listen_address}, BehindProxy "
            f"{str(settings.behind_proxy).lower()}); set Token or TokenFile"
        )
    if not settings.loopback and not settings.tls and not settings.behind_proxy:
        raise SettingsError(
            f"ListenAddress: {settings.listen_address} can be reached by others, so the page needs TlsCertificate and TlsKey, or "
            "BehindProxy if a reverse proxy does TLS"
        )
    return settings


def _filter(value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError("a topic filter such as ml/inference/result/#")
    try:
        return subscribe_filter(value)
    except ValueError as error:
        raise SettingsError(f"a topic filter such as ml/inference/result/#, which {error}") from None


def _address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address("127.0.0.1" if value == "localhost" else value))
    except ValueError:
        raise SettingsError("an IP address of this device, such as 127.0.0.1 or 0.0.0.0") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError("a string")
    return value.strip()


def _boolean(value: Any) -> bool:
    known = {"true": True, "false": False}
    text = str(value).lower()
    if not isinstance(value, bool | str) or text not in known:
        raise SettingsError("true or false")
    return known[text]


def _integer(lowest: int, highest: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        # A nucleus may hand out 4 as 4.0; NaN is in no range.
        if not lowest <= number <= highest or not number.is_integer():
            raise SettingsError(f"an integer from {lowest} to {highest}")
        return int(number)

    return read


def _level(value: Any) -> str:
    text = str(value).upper()
    if text not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise SettingsError("DEBUG, INFO, WARNING or ERROR")
    return text


_KEYS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "InputTopic": ("input_topic", _filter),
    "ResultTopic": ("result_topic", _filter),
    "AlarmTopic": ("alarm_topic", _filter),
    "ErrorTopic": ("error_topic", _filter),
    "HealthTopic": ("health_topic", _filter),
    "ListenAddress": ("listen_address", _address),
    "Port": ("port", _integer(0, 65535)),
    "Token": ("token", _text),
    "TokenFile": ("token_file", _text),
    "TlsCertificate": ("tls_certificate", _text),
    "TlsKey": ("tls_key", _text),
    "BehindProxy": ("behind_proxy", _boolean),
    "HistoryMaxMegabytes": ("history_megabytes", _integer(8, 100_000)),
    "LogLevel": ("log_level", _level),
}
