"""Readings that nobody took by the end of the process: kept in the work directory for the next one.

A nucleus that restarts takes its components down while it cannot take their readings. A line of the file is a batch. It must never
keep the process from ending or from starting: what cannot be written or read is left, and said.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic_core import from_json

NAME = "unsent.jsonl"

logger = logging.getLogger(__name__)


def keep(folder: Path, batches: Iterable[bytes]) -> bool:
    """Write batches; whether that went well.

    Args:
        folder: The work directory.
        batches: JSON arrays without line breaks.
    """
    temporary = folder / f"{NAME}.tmp"
    try:
        with temporary.open("wb") as file:
            for batch in batches:
                file.write(batch + b"\n")
        os.replace(temporary, folder / NAME)  # noqa: PTH105 - as atomic as it says
    except OSError as error:
        logger.error("unsent readings cannot be kept: %s", error)
        return False
    return True


def take(folder: Path) -> list[tuple[bytes, int]]:
    """Read batches and remove the file.

    Args:
        folder: The work directory.

    Returns:
        Batches, each with the number of its readings.
    """
    path = folder / NAME
    try:
        lines = path.read_bytes().splitlines()
        path.unlink()
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.error("unsent readings of before cannot be read: %s", error)
        return []
    batches = []
    for line in lines:
        try:
            readings = from_json(line)
        except ValueError:
            logger.error("unsent readings of before: a line is no JSON")
            continue
        if isinstance(readings, list):
            batches.append((line, len(readings)))
    return batches
