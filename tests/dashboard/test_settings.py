"""What can be set, and that the page cannot be opened to strangers by mistake."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_dashboard.settings import Settings, SettingsError, parse, unknown

RECIPE = Path(__file__).parents[2] / "components" / "dashboard" / "recipe.yaml"
TOKEN = "0123456789abcdef"


def test_the_recipes_defaults_are_the_codes_and_it_may_listen_to_its_topics_and_nothing_else() -> None:
    defaults = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["ComponentConfiguration"]["DefaultConfiguration"]
    policies = defaults["accessControl"]
    assert unknown(defaults) == []
    assert len(defaults) == len(asdict(Settings())) + 1  # and accessControl
    assert parse(defaults) == Settings()
    assert list(policies) == ["aws.greengrass.ipc.pubsub"]
    ((_, policy),) = policies["aws.greengrass.ipc.pubsub"].items()
    assert policy["operations"] == ["aws.greengrass#SubscribeToTopic"]
    assert set(Settings().topics.values()) <= set(policy["resources"])


def test_nucleus_lites_strings_are_read_as_what_they_mean() -> None:
    settings = parse(
        {"Port": "9000", "BehindProxy": "true", "Token": TOKEN, "TokenFile": "null", "HistoryMaxMegabytes": 64.0}
    )
    assert (settings.port, settings.behind_proxy, settings.token_file, settings.history_megabytes) == (
        9000,
        True,
        "",
        64,
    )


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"Port": "often"}, "Port"),
        ({"Port": 70_000}, "Port"),
        ({"Port": True}, "Port"),
        ({"ListenAddress": "example.com"}, "ListenAddress"),
        ({"ResultTopic": "ml/inference/result/{equipmentId}"}, "ResultTopic"),
        ({"AlarmTopic": "ml/#/alarm"}, "AlarmTopic"),
        ({"HealthTopic": "\ud800"}, "HealthTopic"),
        ({"BehindProxy": 1}, "BehindProxy"),
        ({"HistoryMaxMegabytes": 1}, "HistoryMaxMegabytes"),
        ({"LogLevel": "LOUD"}, "LogLevel"),
        ({"Token": "short"}, "Token"),
        ({"Token": TOKEN, "TokenFile": "/x"}, "Token and TokenFile"),
        ({"TokenFile": "/nowhere/token"}, "TokenFile"),
        ({"TlsCertificate": "/x"}, "TlsKey"),
        ({"ListenAddress": "0.0.0.0"}, "Token"),
        ({"ListenAddress": "::", "BehindProxy": True}, "Token"),
        ({"BehindProxy": True}, "Token"),
        ({"ListenAddress": "0.0.0.0", "Token": TOKEN}, "TlsCertificate"),
    ],
)
def test_a_value_that_cannot_be_used_or_would_open_the_page_is_an_error_that_names_the_key(
    values: dict[str, Any], names: str
) -> None:
    with pytest.raises(SettingsError, match=names):
        parse(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"ListenAddress": "localhost", "Token": TOKEN},
        {"ListenAddress": "0.0.0.0", "Token": TOKEN, "TlsCertificate": "/c", "TlsKey": "/k"},
        {"ListenAddress": "192.0.2.7", "Token": TOKEN, "BehindProxy": True},
    ],
)
def test_loopback_alone_tls_and_a_proxy_are_the_ways_to_serve(values: dict[str, Any]) -> None:
    parse(values)


def test_a_token_comes_from_a_file_and_stands_in_no_message(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f" {TOKEN}\n")
    settings = parse({"TokenFile": str(tmp_path / "token")})
    assert settings.token == TOKEN
    assert TOKEN not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        parse({"Token": [TOKEN]})
    assert TOKEN not in str(caught.value)
