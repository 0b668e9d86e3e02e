"""Versions of components and what recipes demand of them: semantic versions, and requirements as NPM writes them.

Only comparing is done here; which version is deployed is the caller's business.
"""

from __future__ import annotations

import re
from typing import Final

Version = tuple[int, int, int]

_VERSION: Final = re.compile(r"[v=]?(\d+)(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?(?:[-+].*)?")
_CLAUSE: Final = re.compile(r"(>=|<=|>|<|=|\^|~)?\s*([^\s<>=^~]+)")
_ANY: Final = frozenset({"", "*", "x", "X", "latest"})


def satisfies(version: str, requirement: str) -> bool:
    """Whether a version meets a requirement such as `>=1.0.0 <2.0.0`, `^1.2`, `~1.2.0`, `1.x`, `1.0.0 - 2.0.0`, or several joined by `||`.

    A requirement that cannot be read is met by nothing.
    """
    try:
        mine, _ = _parse(version)
        return any(_meets(mine, each.strip()) for each in requirement.split("||"))
    except ValueError:
        return False


def _meets(version: Version, requirement: str) -> bool:
    if requirement in _ANY:
        return True
    low, dash, high = requirement.partition(" - ")
    if dash:
        return _parse(low)[0] <= version <= _last(*_parse(high))
    clauses = _CLAUSE.findall(requirement)
    if not clauses or _CLAUSE.sub("", requirement).strip(" ,"):
        raise ValueError(f"not a version requirement: {requirement!r}")
    return all(_meets_one(version, operator, text) for operator, text in clauses)


def _meets_one(version: Version, operator: str, text: str) -> bool:
    if text in _ANY:
        return True
    wanted, given = _parse(text)
    if operator == ">":
        return version > _last(wanted, given)
    if operator == "<":
        return version < wanted
    if operator == "<=":
        return version <= _last(wanted, given)
    if operator == ">=":
        return version >= wanted
    fixed = given
    if operator == "^":
        fixed = next((place + 1 for place, number in enumerate(wanted[:given]) if number), given)
    elif operator == "~":
        fixed = min(given, 2)
    return wanted <= version and version[:fixed] == wanted[:fixed]


def _parse(text: str) -> tuple[Version, int]:
    """Returns a version and how many of its numbers are given."""
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"not a version: {text!r}")
    numbers = [int(each) for each in found.groups() if each is not None and each.isdigit()]
    major, minor, patch = (*numbers, 0, 0)[:3]
    return (major, minor, patch), len(numbers)


def _last(version: Version, given: int) -> Version:
    """Returns the last version that begins with the numbers given."""
    endless = 2**62
    major, minor, patch = (*version[:given], *[endless] * (3 - given))
    return major, minor, patch
