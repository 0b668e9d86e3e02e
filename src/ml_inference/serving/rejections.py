"""Says in the log which machine sends what is rejected: a line now and then, however many they are.

The error topic has each of them; this is for whoever reads only the log. A name stands there escaped and cut.
"""

from __future__ import annotations

import logging
from math import inf

from ml_inference.delivery.routing import Router
from ml_inference.logs import escaped

SECONDS = 60.0
"""Between two lines."""
MAX_RULE_CHARACTERS = 128

logger = logging.getLogger(__name__)


class RejectionLog:
    """What was said of rejected readings.

    Args:
        router: Knows the last one.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._told = 0
        self._told_at = -inf

    def look(self, rejected: int, moment: float) -> None:
        """Say so if there are more, and it was not said just now.

        Args:
            rejected: Readings since the start.
            moment: Seconds of a clock that never goes back.
        """
        last = self._router.last_rejection
        if last is None or rejected == self._told or moment - self._told_at < SECONDS:
            return
        error = last.errors[0]
        rule = ": ".join([*map(str, error.loc), error.msg])
        logger.warning(
            "%d readings were rejected; the last, of machine '%s': %s",
            rejected - self._told,
            escaped(last.equipment_id),
            escaped(rule, MAX_RULE_CHARACTERS),
        )
        self._told, self._told_at = rejected, moment
