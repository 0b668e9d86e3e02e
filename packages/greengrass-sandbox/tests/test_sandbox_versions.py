"""Version requirements as recipes write them."""

from __future__ import annotations

import pytest

from greengrass_sandbox.versions import satisfies


@pytest.mark.parametrize(
    ("requirement", "good", "bad"),
    [
        ("", "0.0.1", None),
        ("*", "7.0.0", None),
        ("1.2.3", "1.2.3", "1.2.4"),
        ("=1.2.3", "1.2.3", "1.2.4"),
        ("1.2", "1.2.9", "1.3.0"),
        ("1.x", "1.9.0", "2.0.0"),
        (">=1.0.0 <2.0.0", "1.99.0", "2.0.0"),
        (">= 1.0.0", "1.0.0", "0.9.9"),
        (">1.2", "1.3.0", "1.2.9"),
        ("<=1.2", "1.2.9", "1.3.0"),
        ("^1.2.3", "1.9.0", "2.0.0"),
        ("^0.2.3", "0.2.9", "0.3.0"),
        ("~1.2.3", "1.2.9", "1.3.0"),
        ("~1", "1.9.0", "2.0.0"),
        ("1.0.0 - 2.0", "2.0.9", "2.1.0"),
        ("1.0.0 || 3.x", "3.4.5", "2.0.0"),
        ("^2.0.0-rc.1", "2.0.0", "1.9.9"),
        ("what you like", None, "1.0.0"),
        ("1.0.0", None, "no version"),
    ],
)
def test_a_requirement_is_met_as_npm_reads_it(requirement: str, good: str | None, bad: str | None) -> None:
    assert good is None or satisfies(good, requirement)
    assert bad is None or not satisfies(bad, requirement)
