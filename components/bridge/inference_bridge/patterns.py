"""Patterns of topics and tag names, such as `line/{machine}/{tag}`: whether a text fits, and what its variables are.

A variable stands for at least one character, and ends where the text after it begins, so a match takes linear time whatever a
message holds. It must never give a message's text any other meaning.
"""

from __future__ import annotations

import re

_VARIABLE = re.compile(r"\{(\w+)\}")


class Pattern:
    """A pattern with named variables.

    Args:
        text: Plain text with `{name}` for variables.
        topic: Whether it is an MQTT topic: variables stay within a level, `+` is any level, a last `#` the rest.

    Raises:
        ValueError: It is no such pattern.
    """

    def __init__(self, text: str, *, topic: bool) -> None:
        self.text = text
        parts = _VARIABLE.split(text)
        literals, names = parts[::2], parts[1::2]
        if any("{" in part or "}" in part for part in literals):
            raise ValueError(f"{text!r}: a variable is written as {{name}}")
        if len(set(names)) < len(names):
            raise ValueError(f"{text!r} names a variable twice")
        if any(not part for part in literals[1:-1]):
            raise ValueError(f"{text!r}: two variables need some text between them")
        if topic and any("{" in level and set(level) & {"+", "#"} for level in text.split("/")):
            raise ValueError(f"{text!r}: '+' and '#' must stand for a whole level")
        self.variables = tuple(names)
        expression = self._literal(literals[0], topic=topic)
        for name, after in zip(names, literals[1:], strict=True):
            ends = "/" if topic else after[:1]
            expression += f"(?P<{name}>[^{re.escape(ends)}]+)" if ends else f"(?P<{name}>.+)"
            expression += self._literal(after, topic=topic)
        self._expression = re.compile(expression, re.DOTALL)

    @staticmethod
    def _literal(text: str, *, topic: bool) -> str:
        if not topic:
            return re.escape(text)
        rest = text.endswith("#")
        plain = re.escape(text[:-1] if rest else text).replace(r"\+", "[^/]*")
        return plain + (".*" if rest else "")

    @property
    def filter(self) -> str:
        """The MQTT filter that hears every topic of the pattern."""
        return "/".join("+" if "{" in level else level for level in self.text.split("/"))

    def match(self, text: str) -> dict[str, str] | None:
        """The variables; None if the text does not fit."""
        found = self._expression.fullmatch(text)
        return None if found is None else found.groupdict()


def fill(template: str, variables: dict[str, str]) -> str:
    """Replace each `{name}` of a template that is a variable."""
    return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), template)
