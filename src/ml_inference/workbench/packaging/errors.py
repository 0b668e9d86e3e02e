"""What goes wrong with a source; its text is one line that says what to do."""

from __future__ import annotations


class PackagingError(Exception):
    """A source that cannot become a model directory."""
