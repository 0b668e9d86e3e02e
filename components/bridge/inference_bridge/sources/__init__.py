"""Where values come from; each kind imports its client library only when it is used."""

from __future__ import annotations

from inference_bridge.mapping import Modbus, Mqtt, OpcUa, Replay
from inference_bridge.sources.base import Events, Source, SourceError

__all__ = ["Events", "Source", "SourceError", "make_source"]

_EXTRAS = {"mqtt": "bridge-mqtt", "opcua": "bridge-opcua", "modbus": "bridge-modbus"}


def make_source(configuration: Mqtt | OpcUa | Modbus | Replay, events: Events) -> Source:
    """Make a source; it connects when it is started.

    Raises:
        SourceError: Its client library is not installed.
    """
    try:
        if isinstance(configuration, Mqtt):
            from inference_bridge.sources.mqtt import MqttClient  # noqa: PLC0415

            return MqttClient(configuration, events)
        if isinstance(configuration, OpcUa):
            from inference_bridge.sources.opcua import OpcUaClient  # noqa: PLC0415

            return OpcUaClient(configuration, events)
        if isinstance(configuration, Modbus):
            from inference_bridge.sources.modbus import ModbusPoller  # noqa: PLC0415

            return ModbusPoller(configuration, events)
    except ImportError as error:
        raise SourceError(
            f"{configuration.name}: {error.name} is not installed: pip install 'ml-inference[{_EXTRAS[configuration.type]}]'"
        ) from None
    from inference_bridge.sources.replay import FileReplay  # noqa: PLC0415

    return FileReplay(configuration, events)
