"""The configuration in force, how another comes into force, and what each part of the component needs of it.

A configuration that is refused changes nothing: the one before stays, over a restart, too (`LastGood`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ml_inference.config import Configuration, ConfigurationError, parse_configuration, parse_until
from ml_inference.monitoring.watch import AlarmSettings
from ml_inference.scoring.judgement import Judgement
from ml_inference.serving.exits import CannotStartError
from ml_inference.serving.last_good import LastGood
from ml_inference.times import time_zone

logger = logging.getLogger(__name__)


class Settings:
    """The configuration tree as the nucleus last gave it, and the configuration in force.

    Args:
        overrides: Keys that win over the nucleus's.
        last_good: Keeps what was in force for the next start.

    Attributes:
        current: The configuration in force.
        problem: Why it is not the nucleus's; None if it is.
    """

    def __init__(self, overrides: Mapping[str, Any], last_good: LastGood) -> None:
        self._overrides = dict(overrides)
        self._last_good = last_good
        self._tree: Mapping[str, Any] | None = None
        self.current = Configuration()
        self.problem: str | None = None

    @property
    def known(self) -> bool:
        """Whether the nucleus has given a configuration."""
        return self._tree is not None

    def take(self, tree: Mapping[str, Any]) -> bool:
        """Put a tree in force, if it is another and right.

        Args:
            tree: As the nucleus gives it.

        Returns:
            Whether it was another one: the configuration in force or the problem may have changed.

        Raises:
            CannotStartError: The first is refused, and there is none that was in force before.
        """
        if tree == self._tree:
            return False
        first, self._tree = self._tree is None, tree
        try:
            self.current, self.problem = parse_configuration({**tree, **self._overrides}), None
        except ConfigurationError as error:
            self.problem = str(error)
            if first:
                self.current = self._before_this_start(error)
                logger.error("the configuration is refused, the last one in force stays: %s", error)
            else:
                logger.error("the new configuration is refused, the old one stays in force: %s", error)
        return True

    def keep(self) -> None:
        """The configuration in force has proved itself: keep it for the next start."""
        if self._tree is not None and self.problem is None:
            self._last_good.keep_configuration(self._tree)

    def kept_input_topic(self) -> str | None:
        """The input topic of the kept configuration; None without one."""
        tree = self._last_good.configuration()
        try:
            return None if tree is None else parse_configuration(tree | self._overrides).input_topic
        except ConfigurationError:
            return None

    def check(self, proposed: Mapping[str, Any]) -> str | None:
        """What is wrong with a proposed configuration; None if nothing is."""
        try:
            parse_configuration({**proposed, **self._overrides})
        except ConfigurationError as error:
            return str(error)
        return None

    def _before_this_start(self, problem: ConfigurationError) -> Configuration:
        tree = self._last_good.configuration()
        try:
            if tree is None:
                raise problem
            return parse_configuration(tree | self._overrides)
        except ConfigurationError as error:
            raise CannotStartError(f"configuration: {problem}") from error


def judgement_of(configuration: Configuration) -> Judgement:
    """The rules by which the pipeline judges."""
    return Judgement(
        threshold=configuration.threshold,
        debounce_readings=configuration.debounce_readings,
        explain_top_k=configuration.explain_top_k,
    )


def alarm_settings_of(configuration: Configuration) -> AlarmSettings:
    """What is configured about alarms."""
    return AlarmSettings(
        smoothing_seconds=configuration.alarm_smoothing_seconds,
        open_score=configuration.alarm_open_score,
        close_score=configuration.alarm_close_score,
        silence_seconds=configuration.silence_seconds,
        maintenance=dict(map(parse_until, configuration.maintenance)),
        shelved=dict(map(parse_until, configuration.shelved)),
        label_key=configuration.label_key,
        zone=time_zone(configuration.time_zone),
    )
