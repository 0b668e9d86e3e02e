"""The bridge's health message: every count, the state of each source, and the names of what is stale or went wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from inference_bridge.accounts import MAX_NAMES, ReadingCounts
from inference_bridge.assembly import Stale
from inference_bridge.intake import Intake
from inference_bridge.outputs import Outputs
from inference_bridge.sources.base import Source
from ml_inference.limits import MAX_PAYLOAD_BYTES


def health_message(
    *,
    version: str,
    intake: Intake | None,
    readings: ReadingCounts,
    sources: dict[str, Source],
    outputs: Outputs | None,
    problems: dict[str, str],
) -> dict[str, Any]:
    """The message; its lists are short enough for one local message.

    Args:
        version: Of the component.
        intake: Counts of messages and values, if there is a mapping.
        readings: Counts of readings.
        sources: By name.
        outputs: If there are any.
        problems: Of the component itself, by what they concern.
    """
    ok = not problems and all(source.state in ("connected", "finished") for source in sources.values())
    message: dict[str, Any] = {
        "state": "running" if ok and intake is not None else "degraded" if intake is not None else "no mapping",
        "component_version": version,
        "sources": {
            name: {
                "state": source.state,
                "connections": source.connections,
                "lost_seconds": round(source.lost_seconds, 1),
                **({"sessions_lost": source.sessions_lost} if source.sessions_lost else {}),
                **({"messages": asdict(intake.messages[name])} if intake and name in intake.messages else {}),
                **({"problem": source.problem} if source.problem else {}),
            }
            for name, source in sources.items()
        },
        "readings": asdict(readings),
    }
    if intake is not None:
        machines, stale = intake.stale()
        with intake.lock:
            message["values"] = asdict(intake.values)
            examples = intake.examples.as_json()
        silent = [each for each in stale if not each.feature]
        message["machines"] = {"known": machines, "silent": len(silent), "stale_tags": len(stale) - len(silent)}
        stale.sort(key=lambda each: (bool(each.feature), each.seconds or 0.0))
        message["stale"] = [_shown(each) for each in stale[:MAX_NAMES]]
        message["examples"] = examples
    if outputs is not None:
        message["outputs"] = {
            **asdict(outputs.counts),
            "waiting": outputs.waiting,
            "sent": sum(getattr(source, "sent", 0) for source in sources.values()),
            "failed": sum(getattr(source, "failed", 0) for source in sources.values()),
        }
    if problems:
        message["problems"] = problems
    return message


def encode(message: dict[str, Any]) -> bytes:
    """The message as JSON that fits into one local message: the longest lists of names are halved until it does."""
    while True:
        payload = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        if len(payload) <= MAX_PAYLOAD_BYTES:
            return payload
        if not _halve(message):
            # Very many sources: their number says more than a cut list.
            message["sources"] = {"number": len(message["sources"])}


def _halve(message: dict[str, Any]) -> bool:
    examples: dict[str, dict[str, str]] = message.get("examples", {})
    longest = max(examples, key=lambda kind: len(json.dumps(examples[kind])), default=None)
    if longest is not None:
        kept = list(examples[longest].items())
        examples[longest] = dict(kept[len(kept) // 2 + 1 :])
        if not examples[longest]:
            del examples[longest]
        return True
    if message.get("stale"):
        message["stale"] = message["stale"][: len(message["stale"]) // 2]
        return True
    return False


def _shown(stale: Stale) -> dict[str, Any]:
    shown: dict[str, Any] = {"machine": stale.machine}
    if stale.feature:
        shown["tag"] = stale.feature
    shown["seconds"] = None if stale.seconds is None else round(stale.seconds, 1)
    return shown
