"""Nuclei, brokers and bridges that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greengrass_sandbox import BackgroundNucleus
from support.bridge import Authority, Bridge, Broker

Start = Callable[..., Bridge]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker", authority)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def nucleus(tmp_path: Path) -> Iterator[BackgroundNucleus]:
    with BackgroundNucleus(tmp_path / "nucleus") as running:
        yield running


@pytest.fixture
def start(tmp_path: Path, nucleus: BackgroundNucleus) -> Iterator[Start]:
    """Starts a bridge with a mapping."""
    bridges: list[Bridge] = []

    def start(mapping: dict[str, Any], *, wait: bool = True, **configuration: Any) -> Bridge:
        bridge = Bridge(nucleus, tmp_path / f"bridge-{len(bridges)}", mapping, configuration)
        bridges.append(bridge)
        bridge.start(wait=wait)
        return bridge

    yield start
    for bridge in bridges:
        bridge.end()
