"""Messages to values: what a payload says of which feature of which machine, by the rules of a mapping.

Pure: it knows no source, no clock and no lock. What it cannot use it names, so that somebody can count it; it must never raise for a
payload, guess a number, or give two machines one name unasked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from jmespath.exceptions import JMESPathError
from pydantic_core import from_json

from inference_bridge.mapping import Feature, Mapping, Mqtt, Replay, Rule, compile_paths
from inference_bridge.patterns import Pattern, fill
from inference_bridge.sparkplug import Aliases, decode
from ml_inference.limits import MAX_FLOAT32
from ml_inference.times import TimeError, parse_time, time_zone

MAX_PAYLOAD_BYTES = 1024 * 1024
"""Of one message: some ten thousand values."""
MAX_VALUES = 20_000
"""Of one message; the rest is counted as rejected."""
MAX_NAME = 128
"""Characters of a machine's or a tag's name."""
MAX_CACHED = 50_000
"""Names and topics whose meaning is remembered; made-up ones must not fill the memory."""

Finder: TypeAlias = list[Callable[[Any], Any]]


class Sample(NamedTuple):
    """A value of a feature.

    Attributes:
        machine: The machine's name.
        feature: Its position in the mapping.
        value: None where it is missing: bad quality, or a number that stands for none.
        time: When it was measured, in seconds since 1970; None for the time of its arrival.
        problem: Why it is missing, or why it was rejected; "" for a good one.
        rejected: Whether it is missing because it could not be read, not because its source says so.
    """

    machine: str
    feature: int
    value: float | str | None
    time: float | None = None
    problem: str = ""
    rejected: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A value that belongs to nobody: no feature or machine is known for it.

    Attributes:
        name: What it was called.
        problem: Why.
        unmapped: Whether the mapping leaves it out; else it could not be read.
    """

    name: str
    problem: str
    unmapped: bool


@dataclass(slots=True)
class Extract:
    """What a message holds.

    Attributes:
        samples: Values.
        refused: Values that belong to nobody.
        deaths: Machines whose connection is gone.
        problem: Why the message as a whole could not be read; "" for none.
        matched: Whether a rule was for it.
        missed: Messages of its sender before it that never came.
    """

    samples: list[Sample] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    problem: str = ""
    matched: bool = True
    missed: int = 0


class Conversion:
    """From a source's value to a feature's number."""

    def __init__(self, name: str, feature: Feature) -> None:
        self.name = name
        self._kind = feature.kind
        self._parse_text = feature.parse_text
        self._factor, self._offset = feature.linear
        self._plain = (self._factor, self._offset) == (1.0, 0.0)
        self._missing = frozenset(feature.missing_values)

    def __call__(self, value: Any) -> float | str | None:
        """Convert.

        Returns:
            None where the number stands for a missing value.

        Raises:
            ValueError: It is of the wrong kind, or no number that a model can use; the message says what.
        """
        kind = type(value)
        if self._kind == "text":
            if kind is not str or len(value) > MAX_NAME:
                raise ValueError(f"expected text, got {_shown(value)}")
            return str(value)
        if kind is bool:
            if self._kind != "boolean":
                raise ValueError(f"expected a number, got {_shown(value)}")
            return float(value)
        if kind is str and self._parse_text:
            value = _number(value)
        elif kind is not float and kind is not int:
            raise ValueError(f"expected a number, got {_shown(value)}")
        if value in self._missing:
            return None
        try:
            number = float(value) if self._plain else value * self._factor + self._offset
        except OverflowError:
            number = math.inf
        if not -MAX_FLOAT32 <= number <= MAX_FLOAT32:  # NaN is in no range
            raise ValueError(f"{_shown(value)} is not finite, or too large")
        return number


class Names:
    """Which machine and which feature a source's names mean."""

    def __init__(self, mapping: Mapping) -> None:
        self.features = tuple(mapping.features)
        self._by_tag = {
            tag: position
            for position, (name, feature) in enumerate(mapping.features.items())
            for tag in (name, *feature.tags)
        }
        self._machines = mapping.machines
        self._template = mapping.machine_name
        self._only_listed = mapping.only_listed
        self.conversions = [Conversion(name, feature) for name, feature in mapping.features.items()]

    def feature(self, tag: str) -> int | None:
        """Position of a tag's feature; None if it has none."""
        return self._by_tag.get(tag)

    def machine(self, raw: Any) -> str | None:
        """The machine's name; None if it is not listed and must be.

        Raises:
            ValueError: It is no name.
        """
        if type(raw) is float and raw.is_integer():
            raw = int(raw)
        if type(raw) is int and abs(raw) < 10**MAX_NAME:
            raw = str(raw)
        if type(raw) is not str or not raw.strip() or len(raw) > MAX_NAME or not raw.isprintable():
            raise ValueError(f"the machine's name should be text or an integer, got {_shown(raw)}")
        listed = self._machines.get(raw)
        if listed is not None:
            return listed
        return None if self._only_listed else fill(self._template, {"machine": raw})

    def sample(self, raw: str, feature: int, value: Any, time: float | None, problem: str = "") -> Sample:
        """A value of a source that has no messages, converted.

        Args:
            raw: The machine as the source names it, one of the mapping's.
            feature: Position of the feature.
            value: As the source has it.
            time: Seconds since 1970.
            problem: Why it is missing.
        """
        machine = self.machine(raw) or raw
        if problem:
            return Sample(machine, feature, None, time, problem)
        try:
            number = self.conversions[feature](value)
        except ValueError as error:
            return Sample(machine, feature, None, time, str(error), rejected=True)
        return Sample(machine, feature, number, time, "" if number is not None else "it stands for a missing value")


class _Rule:
    """A rule, compiled."""

    def __init__(self, rule: Rule) -> None:
        self.format = rule.format
        self.death = rule.death
        self.topic = Pattern(rule.topic, topic=True) if rule.topic else None
        self.tag_pattern = Pattern(rule.tag_pattern, topic=False) if rule.tag_pattern else None
        self.each = compile_paths(rule.each)
        self.machine, self.time, self.quality = (
            compile_paths(each) for each in (rule.machine, rule.time, rule.quality)
        )
        self.tag, self.value = compile_paths(rule.tag), compile_paths(rule.value)
        self.tags_in = compile_paths([rule.tags_in]) if rule.tags_in else []
        self.entry_value, self.entry_time, self.entry_quality = (
            compile_paths(each) for each in (rule.entry.value, rule.entry.time, rule.entry.quality)
        )
        self.values = {name: compile_paths(paths) for name, paths in rule.values.items()}


_NOTHING = object()


class Extractor:
    """Reads the messages of one source.

    Args:
        names: The mapping's names.
        source: Whose messages.
    """

    def __init__(self, names: Names, source: Mqtt | Replay) -> None:
        self._names = names
        self._rules = [_Rule(rule) for rule in source.read]
        self._qualities = Qualities(source.quality_codes, use_uncertain=source.uncertain == "use")
        self._zone = time_zone(source.time_zone)
        self._on_arrival = source.time_from == "arrival"
        self._aliases = Aliases()
        self._topics: dict[str, tuple[_Rule, dict[str, str]] | None] = {}
        self._known: dict[tuple[str, str], tuple[str, int]] = {}
        self._behind: dict[str, set[str]] = {}

    def extract(self, topic: str, payload: bytes) -> Extract:
        """Read a message.

        Args:
            topic: It came on; "" where there are no topics.
            payload: As it came.
        """
        extract = Extract()
        found = self._rule_of(topic)
        if found is None:
            extract.matched = False
            return extract
        rule, variables = found
        try:
            document = self._document(rule, topic, payload, extract)
            if rule.death:
                self._death(rule, variables, topic, document, extract)
            elif rule.format == "text":
                self._add(rule, variables, [], variables.get("tag"), document, extract)
            else:
                for scope in _records(rule.each, document):
                    self._record(rule, variables, scope, extract)
                    if len(extract.samples) + len(extract.refused) >= MAX_VALUES:
                        extract.problem = f"it holds more than {MAX_VALUES} values; the rest is left out"
                        break
                if rule.format == "sparkplug_b":
                    self._remember(topic, extract)
        except (ValueError, RecursionError, JMESPathError) as error:
            extract.problem = f"{error}"[:200] or type(error).__name__
        return extract

    def _rule_of(self, topic: str) -> tuple[_Rule, dict[str, str]] | None:
        found = self._topics.get(topic, _NOTHING)
        if found is _NOTHING:
            if len(self._topics) >= MAX_CACHED:
                self._topics.clear()
            found = self._topics[topic] = next(self._fitting(topic), None)
        return found  # type: ignore[return-value]

    def _fitting(self, topic: str) -> Iterator[tuple[_Rule, dict[str, str]]]:
        for rule in self._rules:
            variables = rule.topic.match(topic) if rule.topic else {}
            if variables is not None:
                yield rule, variables

    def _document(self, rule: _Rule, topic: str, payload: bytes, extract: Extract) -> Any:
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"it is larger than {MAX_PAYLOAD_BYTES} bytes")
        if rule.format == "json":
            return from_json(payload)  # a third of the cost of json.loads
        if rule.format == "text":
            text = payload[:MAX_NAME].decode("utf-8", "replace").strip()
            try:
                return _number(text)
            except ValueError:
                return text
        document = decode(payload)
        extract.missed = self._aliases.resolve(topic, document)
        return document

    def _death(self, rule: _Rule, variables: dict[str, str], topic: str, document: Any, extract: Extract) -> None:
        raw = _first(rule.machine, [document]) if rule.machine else variables.get("machine")
        machine = self._names.machine(raw)
        if machine is not None:
            extract.deaths.append(machine)
        if rule.format == "sparkplug_b" and "/NDEATH/" in topic:
            extract.deaths += sorted(self._behind.pop(_edge_node(topic), set()) - set(extract.deaths))

    def _remember(self, topic: str, extract: Extract) -> None:
        """Which machines are behind an edge node, whose death is theirs."""
        if len(self._behind) >= MAX_CACHED:
            self._behind.clear()
        behind = self._behind.setdefault(_edge_node(topic), set())
        if len(behind) < MAX_CACHED:
            behind.update(sample.machine for sample in extract.samples)

    def _record(self, rule: _Rule, variables: dict[str, str], scope: list[Any], extract: Extract) -> None:
        if rule.tags_in:
            entries = _first(rule.tags_in, scope[-1:])
            if not isinstance(entries, dict):
                extract.refused.append(
                    Refused("", f"expected an object of values, got {_shown(entries)}", unmapped=False)
                )
                return
            for tag, entry in entries.items():
                if isinstance(entry, dict):
                    time = _first(rule.entry_time, [entry])
                    quality = _first(rule.entry_quality, [entry])
                    value = _first(rule.entry_value, [entry])
                    self._add(rule, variables, scope, tag, value, extract, time=time, quality=quality)
                else:
                    self._add(rule, variables, scope, tag, entry, extract)
                if len(extract.samples) + len(extract.refused) >= MAX_VALUES:
                    return
        elif rule.values:
            for name, paths in rule.values.items():
                value = _first(paths, scope[-1:])
                if value is not None:
                    self._add(rule, variables, scope, name, value, extract)
        else:
            tag = _first(rule.tag, scope) if rule.tag else variables.get("tag")
            self._add(rule, variables, scope, tag, _first(rule.value, scope[-1:]), extract)

    def _add(  # noqa: PLR0917 - the hot path of each value
        self,
        rule: _Rule,
        variables: dict[str, str],
        scope: list[Any],
        tag: Any,
        value: Any,
        extract: Extract,
        *,
        time: Any = None,
        quality: Any = None,
    ) -> None:
        machine = _first(rule.machine, scope) if rule.machine else None
        if machine is None:
            machine = variables.get("machine")
        try:
            meaning = self._meaning(rule, machine, tag)
        except ValueError as error:
            extract.refused.append(Refused(str(tag)[:MAX_NAME], str(error), unmapped=False))
            return
        if meaning is None:
            extract.refused.append(
                Refused(
                    f"{machine}/{tag}"[: 2 * MAX_NAME], "the mapping has no feature or machine for it", unmapped=True
                )
            )
            return
        if time is None and rule.time:
            time = _first(rule.time, scope)
        if quality is None and rule.quality:
            quality = _first(rule.quality, scope)
        extract.samples.append(self._sample(*meaning, value, time, quality))

    def _meaning(self, rule: _Rule, machine: Any, tag: Any) -> tuple[str, int] | None:
        """The machine and the feature that two names mean; None if the mapping has none.

        Raises:
            ValueError: They are no names.
        """
        if type(tag) is int:
            tag = str(tag)
        if type(tag) is not str or len(tag) > 2 * MAX_NAME:
            raise ValueError(f"the tag should be text, got {_shown(tag)}")
        if type(machine) is str and (known := self._known.get((machine, tag))) is not None:
            return known
        raw, name = machine, tag
        if rule.tag_pattern is not None:
            parts = rule.tag_pattern.match(tag)
            if parts is None:
                return None
            raw, name = parts.get("machine", machine), parts.get("tag", tag)
        feature = self._names.feature(name)
        if feature is None:
            return None
        mine = self._names.machine(raw)
        if mine is None:
            return None
        if type(machine) is str:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            self._known[machine, tag] = mine, feature
        return mine, feature

    def _sample(self, machine: str, feature: int, value: Any, time: Any, quality: Any) -> Sample:
        measured: float | None = None
        if not self._on_arrival and time is not None:
            try:
                measured = read_time(time, self._zone)
            except TimeError as error:
                return Sample(machine, feature, None, None, f"the time {_shown(time)} {error}", rejected=True)
        if quality is not None and (problem := self._qualities.problem(quality)):
            return Sample(machine, feature, None, measured, problem)
        if value is None:
            return Sample(machine, feature, None, measured, "its value is null")
        try:
            number = self._names.conversions[feature](value)
        except ValueError as error:
            return Sample(machine, feature, None, measured, str(error), rejected=True)
        return Sample(machine, feature, number, measured, "" if number is not None else "it stands for a missing value")


class Qualities:
    """What a quality means.

    Args:
        codes: What numbers are: `opc_ua` (status codes), `opc_da` (192 is good), or "" for none.
        use_uncertain: Whether a value of uncertain quality is used.
    """

    def __init__(self, codes: str, *, use_uncertain: bool) -> None:
        self._codes = codes
        self._use_uncertain = use_uncertain

    def problem(self, quality: Any) -> str:
        """Why a value of this quality is missing; "" for one to be used."""
        if quality is True:
            return ""
        if isinstance(quality, dict):  # OPC UA's JSON: {"Code": ..., "Symbol": ...}; an empty one is Good
            quality = quality.get("Code", quality.get("Symbol", 0))
        grade = self._grade(quality)
        if grade == "good" or (grade == "uncertain" and self._use_uncertain):
            return ""
        return f"its quality is {_shown(quality)}" + ("" if grade else ", which `quality_codes` does not explain")

    def _grade(self, quality: Any) -> str:
        if quality is False:
            return "bad"
        if isinstance(quality, str):
            text = quality.lower()
            return next((grade for grade in ("good", "uncertain", "bad") if text.startswith(grade)), "")
        if isinstance(quality, float) and quality.is_integer():
            quality = int(quality)
        if not isinstance(quality, int) or quality < 0:
            return ""
        if self._codes == "opc_ua" and quality < 1 << 32:
            return ("good", "uncertain", "bad", "bad")[quality >> 30]
        if self._codes == "opc_da" and quality < 1 << 16:
            return ("bad", "uncertain", "bad", "good")[quality >> 6 & 3]
        return ""


def read_time(time: Any, zone: Any) -> float:
    """A time as sources write it, in seconds since 1970.

    Args:
        time: As `ml_inference.times.parse_time` takes it, or an object with `timeInSeconds` and `offsetInNanos`.
        zone: Of times without an offset.

    Raises:
        TimeError: It is none.
    """
    kind = type(time)
    # What most machines send: seconds or milliseconds of today, whose digits form no date.
    if kind is int or kind is float:
        if 1e12 <= time < 1e13:  # noqa: PLR2004
            return float(time) / 1000.0
        if 1e9 <= time < 1e10:  # noqa: PLR2004
            return float(time)
    elif kind is dict and "timeInSeconds" in time:
        nanos = time.get("offsetInNanos", 0)
        seconds = parse_time(time["timeInSeconds"], zone).timestamp()
        return seconds + nanos / 1e9 if isinstance(nanos, int) and 0 <= nanos < 10**9 else seconds
    return parse_time(time, zone).timestamp()


def _records(each: Finder, document: Any) -> Iterator[list[Any]]:
    """The records of a document, each with what is around it, from the outermost on."""
    scopes = iter([[document]])
    for find in each:
        scopes = _within(find, scopes)
    return scopes


def _within(find: Callable[[Any], Any], scopes: Iterator[list[Any]]) -> Iterator[list[Any]]:
    for scope in scopes:
        found = find(scope[-1])
        if isinstance(found, list):
            for record in found:
                yield [*scope, record]
        elif found is not None:
            yield [*scope, found]


def _edge_node(topic: str) -> str:
    """Group and edge node of a Sparkplug topic."""
    levels = topic.split("/")
    return "/".join(levels[1:2] + levels[3:4])


def _first(paths: Finder, scope: list[Any]) -> Any:
    """What the first expression that finds something finds, in the innermost record that has it."""
    for path in paths:
        for record in reversed(scope):
            found = path(record)
            if found is not None:
                return found
    return None


def _number(text: str) -> float:
    plain = text.strip()
    if len(plain) > MAX_NAME or not plain.isascii() or "_" in plain:
        raise ValueError(f"expected a number, got {_shown(text)}")
    try:
        return float(plain)
    except ValueError:
        raise ValueError(f"expected a number, got {_shown(text)}") from None


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004
