from __future__ import annotations

from ml_inference.logs import MAX_NAME_CHARACTERS, escaped


def test_a_name_is_as_it_was_if_it_can_be_printed_and_is_not_too_long() -> None:
    for name in ("cylinder-7", "실린더 7", "Zylinder-ü", 7):
        assert escaped(name) == str(name)


def test_what_could_forge_a_log_line_is_escaped_and_what_is_long_is_cut() -> None:
    assert escaped("a\nERROR b\x1b[31m\u202e") == "a\\nERROR b\\x1b[31m\\u202e"
    for name in ("x" * 1_000, "\n" * 1_000):
        assert len(escaped(name)) == MAX_NAME_CHARACTERS
        assert escaped(name).isprintable()
