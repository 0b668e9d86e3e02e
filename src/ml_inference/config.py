"""The component's configuration: one pydantic model, with the same defaults as the recipe.

It reads leniently what the runtimes deliver (nucleus lite turns every value of a local deployment into a string) and
judges strictly what it means. It never falls back to a default for a value that is wrong: the caller keeps the
configuration that was in force, and says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_pascal

from ml_inference.lenient import Lenient
from ml_inference.model.over_time import LONGEST_SECONDS, with_offset
from ml_inference.model.trust import decode_public_key
from ml_inference.times import time_zone
from ml_inference.topics import cloud_topic, filters_overlap, publish_topic, subscribe_filter

SHIPPED_TOPICS = "greengrass/ml/inference/"
"""Below it are the topics in AWS IoT Core that the shipped recipe and policies allow."""
_FOREIGN_KEYS = frozenset({"accessControl"})
"""Keys of the component's configuration that the nucleus reads, not the component."""


class ConfigurationError(Exception):
    """A configuration that cannot be put in force; the message names each key and the rule it breaks."""


def _none(value: Any) -> Any:
    return None if value == "null" else value


def _absolute(path: str) -> str:
    if path and not Path(path).is_absolute():
        raise ValueError('must be an absolute path, or ""')
    return path


def _control_topic(topic: str) -> str:
    # Both heard and published to: no wildcards and no placeholders.
    if topic and any(character in topic for character in "+#{}"):
        raise ValueError("must not hold '+', '#' or placeholders")
    return publish_topic(topic) if topic else topic


def _zone(name: str) -> str:
    time_zone(name)
    return name


def _until(entry: str) -> str:
    parse_until(entry)
    return entry


def parse_until(entry: str) -> tuple[str, float]:
    """A machine that is set aside, and until when.

    Args:
        entry: An equipment id, or one followed by ` until ` and a time in ISO 8601 with an offset.

    Returns:
        The machine, and the end in epoch seconds; infinity where none is given.
    """
    name, separator, end = entry.rpartition(" until ")
    if not separator:
        return entry, math.inf
    return name, datetime.fromisoformat(with_offset(end.strip()).replace("Z", "+00:00")).timestamp()


def _public_key(key: str) -> str:
    decode_public_key(key)
    return key


PublishTopic = Annotated[str, AfterValidator(publish_topic)]
CloudTopic = Annotated[str, AfterValidator(cloud_topic)]
SubscribeFilter = Annotated[str, AfterValidator(subscribe_filter)]
OptionalCloudTopic = Annotated[str, AfterValidator(lambda topic: cloud_topic(topic) if topic else topic)]
ControlTopic = Annotated[str, AfterValidator(_control_topic)]
Directory = Annotated[str, AfterValidator(_absolute)]
OptionalScore = Annotated[Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None, Lenient]


class Configuration(BaseModel):
    """What an engineer sets in a deployment. The keys in Greengrass are these names in PascalCase.

    Attributes:
        input_topic: Local topic filter of the readings; may hold `+` and `#`.
        result_topic: Local topic of the results. This and the next three may hold `{thingName}` and `{equipmentId}`.
        error_topic: Local topic of what was rejected.
        health_topic: Local topic of the component's state.
        alarm_topic: Local topic of alarms.
        control_topic: Local topic of requests about alarms; "" for none. Replies go to it with `/reply` behind it.
        cloud_topic: Topic in AWS IoT Core of the results.
        cloud_alarm_topic: Topic in AWS IoT Core of alarms; "" keeps them local.
        cloud_health_topic: Topic in AWS IoT Core of the health message; "" for none.
        cloud_probe_topic: Topic in AWS IoT Core of the message that tells, on the classic nucleus, whether the cloud can be
            reached; "" for none; None: see `probe_topic`.
        cloud_publish: Which results go to the cloud: `all`, `abnormal`, `changes` (of a machine's state, and a heartbeat
            each `health_interval_seconds`) or `none`.
        cloud_qos: MQTT quality of service to the cloud, 1 or 0.
        model_directory: Absolute path of a model directory; "" for the model in the artifact.
        challenger: Absolute path of a second model that scores in silence; "" for none.
        trusted_keys: Ed25519 public keys (base64); if there are any, a model must be signed by one of them.
        threshold: Score from which a reading is abnormal; None for the manifest's.
        minimum_model_version: Oldest version of a model that may score, such as `1.2.0`; "" for any.
        validate_configuration: Whether the classic nucleus may ask if a deployment's configuration is valid. It then waits for
            every component whose configuration a deployment changes, and fails if one does not answer.
        debounce_readings: Readings in a row that change a machine's state.
        alarm_smoothing_seconds: Time constant of the smoothed score; None for the manifest's.
        alarm_open_score: Smoothed score from which an alarm opens; None for the manifest's.
        alarm_close_score: Smoothed score below which it closes; None for the manifest's.
        silence_seconds: Seconds without a reading from which a machine is silent; None: learnt from its own interval; 0: off.
        maintenance: Machines under maintenance: their names, each optionally with `until` and a time.
        shelved: Machines whose alarms are shelved, likewise.
        time_zone: Of times without an offset: a name of the IANA database, such as `Europe/Berlin`.
        label_key: Key of the label that the line itself sends with a reading; "" for none.
        explain_top_k: Features named with an abnormal result; 0 for none.
        max_queue: Messages that wait to be scored before the oldest are dropped.
        outbox_max_megabytes: Space on disk for results that wait for the cloud, in 10^6 bytes; 0 for none.
        health_interval_seconds: Seconds between health messages.
        log_level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    """

    model_config = ConfigDict(
        alias_generator=to_pascal, populate_by_name=True, extra="ignore", frozen=True, strict=True
    )

    input_topic: SubscribeFilter = "ml/inference/request"
    result_topic: PublishTopic = "ml/inference/result"
    error_topic: PublishTopic = "ml/inference/error"
    health_topic: PublishTopic = "ml/inference/health"
    alarm_topic: PublishTopic = "ml/inference/alarm"
    control_topic: ControlTopic = "ml/inference/control"
    cloud_topic: CloudTopic = "greengrass/ml/inference/{thingName}"
    cloud_alarm_topic: OptionalCloudTopic = "greengrass/ml/inference/{thingName}/alarm"
    cloud_health_topic: OptionalCloudTopic = ""
    cloud_probe_topic: Annotated[OptionalCloudTopic | None, BeforeValidator(_none)] = None
    cloud_publish: Literal["all", "abnormal", "changes", "none"] = "all"
    # Not a Literal, which takes true for 1.
    cloud_qos: Annotated[int, Field(ge=0, le=1), Lenient] = 1
    model_directory: Directory = ""
    challenger: Directory = ""
    trusted_keys: Annotated[list[Annotated[str, AfterValidator(_public_key)]], Lenient] = Field(default_factory=list)
    threshold: Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, Lenient] = None
    minimum_model_version: Annotated[str, Field(max_length=64)] = ""
    validate_configuration: Annotated[bool, Lenient] = False
    debounce_readings: Annotated[int, Field(ge=1, le=10_000), Lenient] = 1
    alarm_smoothing_seconds: Annotated[
        Annotated[float, Field(gt=0, le=LONGEST_SECONDS, allow_inf_nan=False)] | None, Lenient
    ] = None
    alarm_open_score: OptionalScore = None
    alarm_close_score: OptionalScore = None
    silence_seconds: Annotated[
        Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)] | None, Lenient
    ] = None
    maintenance: Annotated[list[Annotated[str, AfterValidator(_until)]], Lenient] = Field(default_factory=list)
    shelved: Annotated[list[Annotated[str, AfterValidator(_until)]], Lenient] = Field(default_factory=list)
    label_key: Annotated[str, Field(max_length=128)] = ""
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    explain_top_k: Annotated[int, Field(ge=0, le=20), Lenient] = 3
    max_queue: Annotated[int, Field(ge=1, le=1_000_000), Lenient] = 10_000
    outbox_max_megabytes: Annotated[int, Field(ge=0, le=100_000), Lenient] = 64
    health_interval_seconds: Annotated[float, Field(ge=1, le=86_400), Lenient] = 60
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def probe_topic(self) -> str:
        """Where probes go, "" for nowhere: without a setting, below the topics that the shipped policies allow, if results do.

        AWS IoT Core closes the connection of a device that publishes to a topic that its policy does not allow.
        """
        if self.cloud_probe_topic is not None:
            return self.cloud_probe_topic
        return f"{SHIPPED_TOPICS}{{thingName}}/probe" if self.cloud_topic.startswith(SHIPPED_TOPICS) else ""

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_loop(self) -> Configuration:
        # A subscriber hears its own publishes, on nucleus lite whatever its receive mode.
        for key, topic in (
            ("ResultTopic", self.result_topic),
            ("ErrorTopic", self.error_topic),
            ("HealthTopic", self.health_topic),
            ("AlarmTopic", self.alarm_topic),
            ("ControlTopic", self.control_topic or "/"),
            ("the replies of ControlTopic", f"{self.control_topic}/reply"),
        ):
            if filters_overlap(self.input_topic, topic):
                raise ValueError(f"InputTopic {self.input_topic!r} would hear what goes to {key} {topic!r}: a loop")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> Configuration:
        opens, closes = self.alarm_open_score, self.alarm_close_score
        if opens is not None and closes is not None and closes > opens:
            raise ValueError(f"AlarmCloseScore {closes} is above AlarmOpenScore {opens}")
        return self


def parse_configuration(tree: Mapping[str, Any]) -> Configuration:
    """Read the component's configuration tree.

    Args:
        tree: As the nucleus gives it: PascalCase keys; `accessControl` is the nucleus's own. Unknown keys are logged as
            warnings.

    Raises:
        ConfigurationError: A value is wrong.
    """
    known = {field.alias for field in Configuration.model_fields.values()}
    for key in sorted(set(tree) - known - _FOREIGN_KEYS):
        logging.getLogger(__name__).warning("configuration: unknown key %.66r is ignored", key)
    try:
        return Configuration.model_validate({key: value for key, value in tree.items() if key in known})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} (got {item['input']!r:.80})"
            if item["loc"]
            else item["msg"]
            for item in error.errors()
        )
        raise ConfigurationError(problems.replace("Value error, ", "")) from error
