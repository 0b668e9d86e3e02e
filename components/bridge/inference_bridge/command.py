"""The command `ml-inference-bridge`: `run` is the component, `try` shows what a mapping makes of a payload, `check` checks a mapping.

It prints for people; `try` opens no connection.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference_bridge.extract import Extract
from inference_bridge.intake import Intake
from inference_bridge.mapping import READY, Mapping, MappingError, Mqtt, Replay, load_mapping
from inference_bridge.patterns import Pattern

EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; None for this process's.

    Returns:
        0; 1 if a mapping cannot be used or a reading is not complete; of `run` the component's exit code.
    """
    ready = ", ".join(sorted(path.stem for path in READY.glob("*.json")))
    parser = argparse.ArgumentParser(prog="ml-inference-bridge", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the component; started by a Greengrass nucleus")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="wins over the configuration")
    attempt = commands.add_parser("try", help="show the readings that a mapping makes of a payload")
    attempt.add_argument("mapping", help=f"a file, or one of {ready}")
    attempt.add_argument("payload", help="a file with a message's payload; - for standard input")
    attempt.add_argument("--topic", help="the topic that it came on")
    attempt.add_argument("--source", help="name of the source; default: the first that reads messages")
    check = commands.add_parser("check", help="check a mapping")
    check.add_argument("mapping", help=f"a file, or one of {ready}")
    arguments = parser.parse_args(argv)
    if arguments.command == "run":
        from inference_bridge.application import run as run_component  # noqa: PLC0415 - only this needs the SDK

        return run_component(arguments.set, parser.error)
    try:
        mapping = load_mapping(arguments.mapping)
    except MappingError as error:
        print(f"{arguments.mapping}: {error}", file=sys.stderr)
        return 1
    if arguments.command == "check":
        print(_described(mapping))
        return 0
    return _try(mapping, arguments)


def _described(mapping: Mapping) -> str:
    lines = [f"{len(mapping.features)} features: {', '.join(mapping.features)}"]
    lines += [f"source {source.name}: {source.type}" for source in mapping.sources]
    lines += [f"output: {output.type} by {output.source}" for output in mapping.outputs]
    return "\n".join([*lines, f"a machine is read: {mapping.assemble.when}"])


def _try(mapping: Mapping, arguments: argparse.Namespace) -> int:
    sources = [source for source in mapping.sources if isinstance(source, Mqtt | Replay)]
    chosen = [source for source in sources if arguments.source in (None, source.name)]
    if not chosen:
        print("the mapping has no such source of messages", file=sys.stderr)
        return EXIT_USAGE
    source = chosen[0]
    try:
        payload = sys.stdin.buffer.read() if arguments.payload == "-" else Path(arguments.payload).read_bytes()
    except OSError as error:
        print(f"{arguments.payload}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE
    topic = arguments.topic or _some_topic(source)
    if arguments.topic is None and topic:
        print(f"as if it came on {topic} (say --topic)", file=sys.stderr)
    # A sample may be of any day: what is ahead of the clock is for the running bridge to refuse.
    timeless = mapping.assemble.model_copy(update={"future_seconds": math.inf})
    intake = Intake(mapping.model_copy(update={"assemble": timeless}), max_machines=10_000)
    extract = intake.message(source.name, topic, payload)
    readings = intake.close()
    for reading in readings:
        print(json.dumps(reading, ensure_ascii=False, indent=2))
    problems = _problems(mapping, extract, readings, topic)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _some_topic(source: Mqtt | Replay) -> str:
    """A topic for the first rule, with `machine-1` and the like for its variables."""
    pattern = source.read[0].topic
    if not pattern:
        return ""
    for variable in Pattern(pattern, topic=True).variables:
        pattern = pattern.replace(f"{{{variable}}}", f"{variable}-1")
    return pattern.replace("+", "any").replace("#", "any")


def _problems(mapping: Mapping, extract: Extract, readings: list[dict[str, Any]], topic: str) -> list[str]:
    features = list(mapping.features)
    problems = []
    if not extract.matched:
        problems.append(f"no rule is for the topic {topic!r}")
    if extract.problem:
        problems.append(f"the message cannot be read: {extract.problem}")
    problems += [
        f"{sample.machine}: {features[sample.feature]}: {sample.problem}"
        for sample in extract.samples
        if sample.problem
    ]
    problems += [f"{refused.name or 'a value'}: {refused.problem}" for refused in extract.refused]
    for reading in readings:
        missing = [name for name in features if name not in reading]
        if missing:
            problems.append(f"{reading['equipment_id']}: this message has no {', '.join(missing)}")
    if not readings and not problems:
        problems.append("the message holds no values")
    return problems
