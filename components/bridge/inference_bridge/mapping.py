"""The mapping: which value of which source becomes which feature of which machine. Configuration, never code.

It reads what a user writes and refuses what cannot work with the place and the rule: an unknown key, an expression that is none, a
unit that cannot be converted, a source without the security that it needs. It must never open a connection or read a secret.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from collections.abc import Mapping as Table
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import jmespath
from jmespath.exceptions import JMESPathError
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

from inference_bridge.patterns import Pattern
from inference_bridge.units import conversion
from ml_inference.lenient import lenient as read_string
from ml_inference.times import time_zone
from ml_inference.topics import filters_overlap, publish_topic, subscribe_filter

MAX_MAPPING_BYTES = 4 * 1024 * 1024
READY = Path(__file__).parent / "mappings"
"""Mappings for well-known senders, to copy or to name."""
DEPRECATED_POLICIES = ("Basic128Rsa15", "Basic256")
"""OPC UA policies that the OPC Foundation withdrew: SHA-1 and RSA PKCS #1 v1.5."""
POLICIES = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")

_RESERVED = frozenset({"equipment_id", "timestamp", "correlation_id", "held", "explain", "readings"})
Positive = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class MappingError(ValueError):
    """A mapping that cannot be used; the message names each place and the rule it breaks."""


def _path(text: str) -> str:
    try:
        jmespath.compile(text)
    except JMESPathError as error:
        raise ValueError(f"is no JMESPath expression: {str(error).splitlines()[0]}") from None
    return text


def _topic_pattern(text: str) -> str:
    subscribe_filter(Pattern(text, topic=True).filter)
    return text


def _tag_pattern(text: str) -> str:
    if not set(Pattern(text, topic=False).variables) & {"machine", "tag"}:
        raise ValueError("needs {machine} or {tag}")
    return text


def _zone(name: str) -> str:
    time_zone(name)
    return name


def _machine_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("is no name: blank, or with characters that cannot be printed")
    return name


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Path_: TypeAlias = Annotated[str, AfterValidator(_path)]
Paths: TypeAlias = Annotated[list[Path_], BeforeValidator(_listed), Field(max_length=8)]
"""One expression or several, of which the first that finds something holds."""
Zone = Annotated[str, AfterValidator(_zone)]
MachineName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_machine_name)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    comment: str = ""


class Feature(_Part):
    """A feature of the model, and how a source's value becomes it.

    Attributes:
        tags: Names that sources use for it, beside its own.
        kind: What it is; a value of another kind is rejected.
        parse_text: Whether a number may come as text, such as `"71.5"`.
        scale: Factor of the source's number.
        offset: Added to the scaled number.
        from_unit: Unit of the source, after `scale` and `offset`.
        unit: Unit of the model.
        missing_values: Numbers of the source that stand for "no value".
        max_age_seconds: For how long a value may be repeated; None for the assembly's.
    """

    tags: Annotated[list[str], BeforeValidator(_listed)] = Field(default_factory=list)
    kind: Literal["number", "boolean", "text"] = "number"
    parse_text: bool = False
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    from_unit: str = ""
    unit: str = ""
    missing_values: list[float] = Field(default_factory=list)
    max_age_seconds: Positive | None = None

    @model_validator(mode="after")
    def _convertible(self) -> Feature:
        if self.from_unit:
            conversion(self.from_unit, self.unit)
        return self

    @property
    def linear(self) -> tuple[float, float]:
        """Factor and offset from the source's number to the model's."""
        factor, offset = conversion(self.from_unit, self.unit) if self.from_unit else (1.0, 0.0)
        return self.scale * factor, self.offset * factor + offset


class Assembly(_Part):
    """When the values of a machine become a reading.

    Attributes:
        when: On a `clock`, on each `change`, or when `all_new`: each feature has a new value.
        every_seconds: The clock's period.
        max_age_seconds: For how long a feature's last value may be repeated.
        settle_seconds: On `change`: what changes within this time becomes one reading.
        heartbeat_seconds: On `change`: a machine whose values do not change is read so often while they come, or while the connection of a
            source that reports by exception vouches for them.
        patience_seconds: On `all_new`: a machine is read after this time although a feature has no new value.
        future_seconds: A source's time may be so far ahead of the gateway's clock.
    """

    when: Literal["clock", "change", "all_new"] = "clock"
    every_seconds: Annotated[float, Field(ge=0.05, le=86_400)] = 1.0
    max_age_seconds: Positive = 10.0
    settle_seconds: Annotated[float, Field(ge=0, le=60)] = 0.05
    heartbeat_seconds: Positive = 60.0
    patience_seconds: Positive = 5.0
    future_seconds: Positive = 60.0


class Entry(_Part):
    """Where value, time and quality are in an entry of `tags_in` that is an object."""

    value: Paths = Field(default_factory=lambda: ["value"])
    time: Paths = Field(default_factory=list)
    quality: Paths = Field(default_factory=list)


class Rule(_Part):
    """How messages are read. Expressions are JMESPath; what an inner record lacks is looked for in the outer ones.

    Attributes:
        topic: Pattern such as `line/{machine}/{tag}`; "" for all of the source's topics. Its variables stand in for `machine` and `tag`.
        format: `json`, `sparkplug_b`, or `text` for a value that stands alone.
        each: The records of a message; several expressions lead to records within records.
        machine: The machine's name.
        time: When the values were measured.
        quality: Of the values.
        tag: With `value`: a record holds one value and its name.
        value: See `tag`.
        tags_in: A record holds an object of values by name; each is a bare value, or an object that `entry` explains.
        entry: See `tags_in`.
        values: A record holds these features, by their expressions.
        tag_pattern: A name that holds more than the tag, such as `{channel}.{machine}.{tag}`.
        death: The message says that the machine's connection is gone: all its values are missing.
    """

    topic: str = ""
    format: Literal["json", "sparkplug_b", "text"] = "json"
    each: Paths = Field(default_factory=list)
    machine: Paths = Field(default_factory=list)
    time: Paths = Field(default_factory=list)
    quality: Paths = Field(default_factory=list)
    tag: Paths = Field(default_factory=list)
    value: Paths = Field(default_factory=list)
    tags_in: Path_ = ""
    entry: Entry = Field(default_factory=Entry)
    values: dict[str, Paths] = Field(default_factory=dict)
    tag_pattern: Annotated[str, AfterValidator(lambda text: _tag_pattern(text) if text else text)] = ""
    death: bool = False

    @field_validator("topic")
    @classmethod
    def _topic(cls, topic: str) -> str:
        return _topic_pattern(topic) if topic else topic

    @field_validator("tags_in", mode="before")
    @classmethod
    def _tags_in(cls, value: Any) -> Any:
        return "" if value is None else value

    @model_validator(mode="after")
    def _one_form(self) -> Rule:
        variables = set(Pattern(self.topic, topic=True).variables) if self.topic else set()
        if self.tag_pattern:
            variables |= set(Pattern(self.tag_pattern, topic=False).variables)
        if not self.machine and "machine" not in variables:
            raise ValueError("says nothing of the machine: give `machine`, or {machine} in `topic` or `tag_pattern`")
        forms = [name for name in ("value", "tags_in", "values") if getattr(self, name)]
        if self.death or self.format == "text":
            if forms:
                raise ValueError(f"`{forms[0]}` has no meaning here")
        elif len(forms) != 1:
            raise ValueError("give one of `value` (with `tag`), `tags_in` and `values`")
        if (self.value or self.format == "text") and not self.death and not self.tag and "tag" not in variables:
            raise ValueError("says nothing of the tag: give `tag`, or {tag} in `topic` or `tag_pattern`")
        return self


class _Source(_Part):
    """What all sources have.

    Attributes:
        name: In logs and in the health message.
        time_from: The `source`'s time, or the time of its `arrival`.
        time_zone: Of times without an offset.
        quality_codes: What numbers in `quality` are.
        uncertain: Whether an uncertain value is used or missing.
        report_by_exception: Whether the source sends a value only when it changes: then a value holds as long as the connection.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    time_from: Literal["source", "arrival"] = "source"
    time_zone: Zone = "UTC"
    quality_codes: Literal["", "opc_ua", "opc_da"] = ""
    uncertain: Literal["missing", "use"] = "missing"
    report_by_exception: bool = False


class Tls(_Part):
    """TLS of a connection.

    Attributes:
        ca: PEM file of the authorities; "" for the system's.
        certificate: PEM file of the client's certificate.
        key: PEM file of its key.
        server_name: Name in the server's certificate, where it is not the host's.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key: give both or neither")
        return self


class _Login(_Part):
    username: str = ""
    password_file: str = ""
    password_secret: str = ""

    @model_validator(mode="after")
    def _one_password(self) -> _Login:
        if self.password_file and self.password_secret:
            raise ValueError("password_file and password_secret: give one of them")
        if (self.password_file or self.password_secret) and not self.username:
            raise ValueError("a password needs a username")
        return self


class Mqtt(_Source, _Login):
    """An MQTT broker.

    Attributes:
        host: Its name or address.
        port: None for 8883 with TLS and 1883 without.
        version: Of the protocol; 5 costs more for each message.
        client_id: Names the session, which the broker keeps while the bridge is away; "" for one of this device and source, since two
            clients of one name throw each other out.
        session_seconds: For how long it shall keep it (MQTT 5; 3.1.1 leaves that to the broker).
        qos: Of the subscriptions.
        topics: MQTT filters; none: those of `read`.
        tls: None for none.
        allow_plain: Whether a connection without TLS may leave this device.
        read: How messages are read; the first rule whose topic fits holds.
    """

    type: Literal["mqtt"]
    host: Annotated[str, Field(min_length=1)]
    port: Port | None = None
    version: Literal["3.1.1", "5"] = "3.1.1"
    client_id: Annotated[str, Field(max_length=64)] = ""
    session_seconds: Annotated[int, Field(ge=0, le=604_800)] = 3600
    qos: Literal[0, 1] = 1
    keepalive_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    topics: list[Annotated[str, AfterValidator(subscribe_filter)]] = Field(default_factory=list)
    tls: Tls | None = None
    allow_plain: bool = False
    read: Annotated[list[Rule], Field(min_length=1)]

    @model_validator(mode="after")
    def _secure(self) -> Mqtt:
        if self.tls is None and not self.allow_plain and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("a broker on another machine needs `tls`, or `allow_plain` if the network is trusted")
        if not self.topics and any(not rule.topic for rule in self.read):
            raise ValueError("a rule without `topic` needs the source's `topics`")
        return self

    @property
    def filters(self) -> list[str]:
        """What to subscribe to."""
        return self.topics or sorted({Pattern(rule.topic, topic=True).filter for rule in self.read})


class OpcUa(_Source, _Login):
    """An OPC UA server.

    Attributes:
        endpoint: Such as `opc.tcp://plc:4840`.
        security_policy: Refused unless allowed: `None` and withdrawn ones.
        security_mode: What messages are.
        certificate: PEM or DER file of this client's certificate.
        key: PEM file of its key.
        server_certificate: PEM or DER file of the server's certificate: no other is accepted.
        allow_insecure: Whether `None` and withdrawn policies may be used.
        application_uri: Of this client, as in its certificate.
        nodes: Node id of each feature; `{machine}` stands for each of `machines`.
        machines: What `{machine}` stands for, as the server names them.
        sampling_milliseconds: How often the server looks at a value.
        publishing_milliseconds: How often it sends changes.
        queue_size: Changes that it keeps for each value between two sendings.
    """

    type: Literal["opcua"]
    endpoint: Annotated[str, Field(pattern=r"^opc\.tcp://")]
    security_policy: Literal[
        "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss", "Basic256", "Basic128Rsa15", "None"
    ]
    security_mode: Literal["Sign", "SignAndEncrypt"] = "SignAndEncrypt"
    certificate: str = ""
    key: str = ""
    server_certificate: str = ""
    allow_insecure: bool = False
    application_uri: str = "urn:inference-bridge"
    nodes: Annotated[dict[str, str], Field(min_length=1)]
    machines: Annotated[list[MachineName], Field(min_length=1)]
    sampling_milliseconds: Annotated[float, Field(ge=10, le=3_600_000)] = 500
    publishing_milliseconds: Annotated[float, Field(ge=10, le=3_600_000)] = 500
    queue_size: Annotated[int, Field(ge=1, le=1000)] = 10
    quality_codes: Literal["", "opc_ua", "opc_da"] = "opc_ua"
    report_by_exception: bool = True

    @model_validator(mode="after")
    def _secure(self) -> OpcUa:
        insecure = self.security_policy == "None" or self.security_policy in DEPRECATED_POLICIES
        if insecure and not self.allow_insecure:
            raise ValueError(
                f"the security policy {self.security_policy} protects nothing: use one of {', '.join(POLICIES)}, or set `allow_insecure`"
            )
        if self.security_policy != "None" and not (self.certificate and self.key and self.server_certificate):
            raise ValueError("needs `certificate`, `key` and `server_certificate`")
        if self.security_policy == "None" and self.username:
            raise ValueError("a password would go over the network as it is: use a security policy")
        if "@" in self.endpoint:
            raise ValueError("endpoint: give `username` and `password_file`, since an address ends up in logs")
        if len(self.machines) > 1 and any("{machine}" not in node for node in self.nodes.values()):
            raise ValueError("with several machines each node needs {machine}")
        return self


class Register(_Part):
    """Registers of one feature.

    Attributes:
        address: Of the first, counted from 0 as in the protocol; beside a machine's `base`.
        kind: Which function reads them.
        type: What they hold.
        word_order: `big`: the register with the highest bits comes first.
    """

    address: Annotated[int, Field(ge=0, le=65_535)]
    kind: Literal["holding", "input"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"] = "uint16"
    word_order: Literal["big", "little"] = "big"

    @property
    def words(self) -> int:
        """How many registers."""
        return int(self.type[-2:]) // 16


class Unit(_Part):
    """A machine behind a Modbus server: its unit id, and what is added to each register's address."""

    unit: Annotated[int, Field(ge=0, le=255)] = 1
    base: Annotated[int, Field(ge=0, le=65_535)] = 0


class Modbus(_Source):
    """A Modbus TCP server, which is polled. The protocol knows no security: keep it on a network of its own.

    Attributes:
        host: Its name or address.
        every_seconds: Time between two polls.
        timeout_seconds: For each answer.
        registers: By feature.
        machines: By name.
    """

    type: Literal["modbus"]
    host: Annotated[str, Field(min_length=1)]
    port: Port = 502
    every_seconds: Annotated[float, Field(ge=0.05, le=86_400)] = 1.0
    timeout_seconds: Annotated[float, Field(ge=0.05, le=60)] = 2.0
    registers: Annotated[dict[str, Register], Field(min_length=1)]
    machines: Annotated[dict[MachineName, Unit], Field(min_length=1)]


class Replay(_Source):
    """A file of messages, one a line: the payload itself, or `{"topic": ..., "payload": ...}`.

    Attributes:
        path: The file.
        messages_a_second: How fast.
        read: How messages are read.
    """

    type: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    messages_a_second: Annotated[float, Field(gt=0, le=100_000)] = 10.0
    read: Annotated[list[Rule], Field(min_length=1)]


Source: TypeAlias = Annotated[Mqtt | OpcUa | Modbus | Replay, Field(discriminator="type")]


class MqttOutput(_Part):
    """Results and alarms to an MQTT source's broker; topics may hold `{equipmentId}` and `{thingName}`, "" sends none."""

    type: Literal["mqtt"]
    source: str
    result_topic: str = ""
    alarm_topic: str = ""
    qos: Literal[0, 1] = 1

    @field_validator("result_topic", "alarm_topic")
    @classmethod
    def _topic(cls, topic: str) -> str:
        return publish_topic(topic) if topic else topic


class NodesOfMachine(_Part):
    """Node ids that may be written for a machine; "" for none."""

    abnormal: str = ""
    score: str = ""
    alarm: str = ""


class OpcUaOutput(_Part):
    """Results and alarms to nodes of an OPC UA source's server: these nodes and no others.

    Attributes:
        nodes: By machine: `abnormal` (Boolean), `score` (Double), `alarm` (Boolean: an equipment alarm is open).
    """

    type: Literal["opcua"]
    source: str
    nodes: Annotated[dict[str, NodesOfMachine], Field(min_length=1)]


Output: TypeAlias = Annotated[MqttOutput | OpcUaOutput, Field(discriminator="type")]


class Mapping(_Part):
    """A whole mapping.

    Attributes:
        features: The model's features, in any order.
        assemble: When values become readings.
        sources: Where values come from.
        machines: The product's name of a machine by the source's name.
        machine_name: Name of a machine that is not in `machines`; `{machine}` is the source's name.
        only_listed: Whether machines that are not in `machines` are left out.
        outputs: Where results and alarms go, beside the local topics; none by default.
    """

    features: Annotated[dict[str, Feature], Field(min_length=1, max_length=500)]
    assemble: Assembly = Field(default_factory=Assembly)
    sources: Annotated[list[Source], Field(max_length=50)] = Field(default_factory=list)
    machines: dict[str, str] = Field(default_factory=dict)
    machine_name: str = "{machine}"
    only_listed: bool = False
    outputs: Annotated[list[Output], Field(max_length=10)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Mapping:
        if "{machine}" not in self.machine_name:
            raise ValueError("machine_name needs {machine}, or all machines would be one")
        if reserved := sorted(_RESERVED & self.features.keys()):
            raise ValueError(f"a feature cannot be called {', '.join(reserved)}")
        owners: dict[str, str] = {}
        for name, feature in self.features.items():
            for tag in {name, *feature.tags}:
                if owners.setdefault(tag, name) != name:
                    raise ValueError(f"the tag {tag!r} belongs to {owners[tag]} and to {name}")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have one name")
        for source in self.sources:
            self._check_source(source)
        for output in self.outputs:
            self._check_output(output)
        return self

    def _check_source(self, source: Mqtt | OpcUa | Modbus | Replay) -> None:
        if unknown := sorted(set(_features_of(source)) - self.features.keys()):
            raise ValueError(f"the source {source.name!r} gives {', '.join(unknown)}, which is no feature")
        if self.only_listed and (left_out := sorted(_machines_of(source) - self.machines.keys())):
            raise ValueError(f"only_listed: {', '.join(left_out)} of the source {source.name!r} is not in `machines`")

    def _check_output(self, output: MqttOutput | OpcUaOutput) -> None:
        source = next((source for source in self.sources if source.name == output.source), None)
        if source is None or source.type != output.type:
            raise ValueError(f"an output needs a source of its kind: {output.source!r} is none")
        if isinstance(output, MqttOutput) and isinstance(source, Mqtt):
            for topic in filter(None, (output.result_topic, output.alarm_topic)):
                for heard in source.filters:
                    if filters_overlap(heard, topic):
                        raise ValueError(f"the source {source.name!r} would hear what goes to {topic!r}: a loop")


def _features_of(source: Mqtt | OpcUa | Modbus | Replay) -> list[str]:
    if isinstance(source, OpcUa):
        return list(source.nodes)
    if isinstance(source, Modbus):
        return list(source.registers)
    return [feature for rule in source.read for feature in rule.values]


def _machines_of(source: Mqtt | OpcUa | Modbus | Replay) -> set[str]:
    return set(source.machines) if isinstance(source, OpcUa | Modbus) else set()


def parse_mapping(document: Any, *, lenient: bool = False) -> Mapping:
    """Check a mapping.

    Args:
        document: As read from JSON.
        lenient: Whether a number, a list and the like may be a string that stands for it, as in a local deployment of nucleus lite.

    Raises:
        MappingError: It cannot be used.
    """
    document = copy.deepcopy(document) if lenient else document
    while True:
        try:
            return Mapping.model_validate(document)
        except ValidationError as error:
            if not lenient or not sum(_read_in_place(document, item["loc"]) for item in error.errors()):
                raise MappingError(broken_rules(error, "the mapping")) from None


def _read_in_place(document: Any, place: tuple[str | int, ...]) -> bool:
    """Replace a string by what it stands for; whether it stood for something else."""
    parent: Any = None
    key: Any = None
    here = document
    step: Any
    for step in place:
        # A place also names the kind of a source, which is no key.
        known = step in here if isinstance(here, dict) else isinstance(here, list) and step in range(len(here))
        if known:
            parent, key, here = here, step, here[step]
    if parent is None or not isinstance(here, str):
        return False
    value = read_string(here)
    if isinstance(value, str):
        return False
    parent[key] = value
    return True


def broken_rules(error: ValidationError, whole: str = "") -> str:
    """Each place with the rule that it breaks.

    Args:
        error: Of pydantic.
        whole: Stands for the place where the whole is meant; "" to leave it out.
    """
    places = ((".".join(map(str, item["loc"])) or whole, item["msg"]) for item in error.errors())
    return "; ".join(": ".join(filter(None, place)) for place in places).replace("Value error, ", "")


def load_mapping(name: str) -> Mapping:
    """Read a mapping from a file, or a ready one by its name.

    Raises:
        MappingError: It cannot be read or used.
    """
    ready = READY / f"{name}.json"
    path = ready if name.isidentifier() and ready.is_file() else Path(name)
    try:
        if path.stat().st_size > MAX_MAPPING_BYTES:
            raise MappingError(f"{path}: is larger than {MAX_MAPPING_BYTES} bytes")
        document = json.loads(path.read_bytes())
    except OSError as error:
        known = ", ".join(sorted(each.stem for each in READY.glob("*.json")))
        raise MappingError(f"{path}: {error.strerror}; ready mappings: {known}") from None
    except (ValueError, RecursionError) as error:
        raise MappingError(f"{path}: is no JSON: {error}") from None
    return parse_mapping(document)


def compile_paths(paths: list[str]) -> list[Callable[[Any], Any]]:
    """Functions of the expressions; plain names, which most are, at a tenth of the library's cost."""
    return [_compiled(path) for path in paths]


def _compiled(path: str) -> Callable[[Any], Any]:
    expression = jmespath.compile(path)
    names = _names(expression.parsed)
    if names is None:
        search: Callable[[Any], Any] = expression.search
        return search

    def walk(record: Any) -> Any:
        for name in names:
            if type(record) is not dict:
                return None
            record = record.get(name)
        return record

    return walk


def _names(node: Table[str, Any]) -> tuple[str, ...] | None:
    """The names of an expression that is nothing but `a.b.c`; None for others."""
    if node["type"] == "current":
        return ()
    if node["type"] == "field":
        return (node["value"],)
    if node["type"] == "subexpression":
        parts = [_names(child) for child in node["children"]]
        if all(part is not None for part in parts):
            return tuple(name for part in parts for name in part or ())
    return None
