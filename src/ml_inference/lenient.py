"""Values that arrive as strings: nucleus lite gives every value of a local deployment as one.

Pure; it knows no settings. It must never turn into a number what a setting wants as text: only settings that say so use it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BeforeValidator


def lenient(value: Any) -> Any:
    """What a string stands for, where it holds a number, a boolean, null, a list or an object."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    # JSON of a Greengrass configuration does not tell 7.0 from 7.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Lenient = BeforeValidator(lenient)
