"""What the sections of a manifest are made of: strict models and the types that several of them use.

A leaf: it knows no section.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Interval = Annotated[list[Finite], Field(min_length=2, max_length=2)]
"""An interval of confidence: its lower and its upper end."""
Value: TypeAlias = Finite | str | None
"""A feature in a reading: a number, the text of a category, or None where the reading lacks it."""


class Strict(BaseModel):
    """Strings are not numbers, and an unknown field is an error: what is silently ignored is silently not checked."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
