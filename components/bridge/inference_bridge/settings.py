"""The component's configuration in Greengrass. What comes from where is in the mapping, which it holds or names.

A value may arrive as a string: nucleus lite gives every value of a local deployment as one. A wrong value is an error that names the
key, never a default.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping as Table
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_pascal

from inference_bridge.mapping import READY, Mapping, MappingError, broken_rules, load_mapping, parse_mapping
from ml_inference.lenient import Lenient
from ml_inference.topics import publish_topic, subscribe_filter

logger = logging.getLogger(__name__)


class SettingsError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def _plain_topic(topic: str) -> str:
    if "{" in topic:
        raise ValueError("must not hold placeholders")
    return publish_topic(topic)


def _mapping_file(name: str) -> str:
    if name and not Path(name).is_absolute() and not (name.isidentifier() and (READY / f"{name}.json").is_file()):
        raise ValueError("must be an absolute path, or the name of a ready mapping")
    return name


PlainTopic = Annotated[str, AfterValidator(_plain_topic)]
Filter = Annotated[str, AfterValidator(subscribe_filter)]


class Settings(BaseModel):
    """What an engineer sets in a deployment. The keys in Greengrass are these names in PascalCase.

    Attributes:
        input_topic: Local topic of the inference component's readings, which this component publishes to.
        result_topic: Local topic filter of the results that go to `outputs` of the mapping.
        alarm_topic: Local topic filter of the alarms that do.
        health_topic: Local topic of this component's state.
        mapping: The mapping itself.
        mapping_file: Absolute path of a file with it, or the name of a ready one.
        max_machines: Machines that may be known at once.
        max_queue_megabytes: Room for readings while there is no nucleus, in 10^6 bytes.
        health_interval_seconds: Seconds between health messages.
        log_level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    """

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, extra="ignore", frozen=True)

    input_topic: PlainTopic = "ml/inference/request"
    result_topic: Filter = "ml/inference/result"
    alarm_topic: Filter = "ml/inference/alarm"
    health_topic: PlainTopic = "ml/inference/bridge/health"
    mapping: Annotated[dict[str, Any], BeforeValidator(lambda text: text or {}), Lenient] = Field(default_factory=dict)
    mapping_file: Annotated[str, AfterValidator(_mapping_file)] = ""
    max_machines: Annotated[int, Field(ge=1, le=100_000), Lenient] = 5000
    max_queue_megabytes: Annotated[int, Field(ge=1, le=1000), Lenient] = 16
    health_interval_seconds: Annotated[float, Field(ge=1, le=86_400), Lenient] = 60
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(lambda level: str(level).upper())
    ] = "INFO"

    @model_validator(mode="after")
    def _one_mapping(self) -> Settings:
        if self.mapping and self.mapping_file:
            raise ValueError("Mapping and MappingFile: give one of them")
        return self


def parse_settings(tree: Table[str, Any]) -> Settings:
    """Read the component's configuration.

    Args:
        tree: As the nucleus gives it. Unknown keys are logged as warnings.

    Raises:
        SettingsError: A value is wrong.
    """
    known = {field.alias for field in Settings.model_fields.values()}
    for key in sorted(set(tree) - known - {"accessControl"}):
        logger.warning("configuration: %s is not a key of this component", key)
    given = {key: value for key, value in tree.items() if key in known and value is not None and value != "null"}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError(broken_rules(error)) from None


def read_mapping(settings: Settings) -> Mapping | None:
    """The mapping that the settings hold or name; None if there is none yet.

    Raises:
        SettingsError: It cannot be used.
    """
    try:
        if settings.mapping:
            return parse_mapping(settings.mapping, lenient=True)
        return load_mapping(settings.mapping_file) if settings.mapping_file else None
    except MappingError as error:
        raise SettingsError(f"{'Mapping' if settings.mapping else 'MappingFile'}: {error}") from None
