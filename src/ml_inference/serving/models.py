"""The champion, which scores, and the challenger, which scores in silence: what is wanted, in force, and refused.

It decides which model is to score; the worker puts it in force between two messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

from ml_inference.config import Configuration
from ml_inference.model.bundle import Model
from ml_inference.model.location import artifact_model_directory
from ml_inference.serving.exits import CannotStartError
from ml_inference.serving.last_good import LastGood
from ml_inference.serving.rollout import Loaded, ModelSlot, Source

SERVED_READINGS = 100
"""That a model has to score before it is kept: one that crashes the process does so at one of the first."""
CLEARED_READINGS = 250
"""After which a death of the process is not blamed on a model on trial."""

logger = logging.getLogger(__name__)


class Models:
    """Both places for a model. Used from the supervising thread; the callbacks are called on a thread of its own.

    Args:
        champion_loaded: Told of each load for the champion's place; passes it to `take_champion` on the supervising thread.
        challenger_loaded: The same for the challenger's.
        load: Checks and loads a model directory.
        last_good: Keeps each champion that has served.
        served: Seconds after which a champion has served, if it has scored `SERVED_READINGS`.
        wait: Seconds that a first model may be missing.
        monotonic: Seconds of a clock that never goes back.

    Attributes:
        in_force: The model that scores; None before the first.
        problem: Why it is not the one that is wanted; None if it is.
        challenger_problem: The same for the challenger.
    """

    def __init__(
        self,
        champion_loaded: Callable[[Loaded], None],
        challenger_loaded: Callable[[Loaded], None],
        *,
        load: Callable[[Path, Sequence[str]], Model],
        last_good: LastGood,
        served: float,
        wait: float,
        monotonic: Callable[[], float],
    ) -> None:
        executor = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._champion = ModelSlot(executor, champion_loaded, load, monotonic, last_good)
        self._challenger = ModelSlot(executor, challenger_loaded, load, monotonic)
        self._last_good = last_good
        self._served = served
        self._trial: tuple[float, int] | None = None
        self._cleared = False
        self._wait = wait
        self._monotonic = monotonic
        self._missing_until = inf
        self.in_force: Model | None = None
        self.problem: str | None = None
        self.challenger_problem: str | None = None

    def want(self, configuration: Configuration) -> bool:
        """Ask for the models of a configuration.

        Returns:
            Whether there is to be a challenger.
        """
        keys = tuple(configuration.trusted_keys)
        directory = configuration.model_directory
        oldest = configuration.minimum_model_version
        self._champion.want(Source(Path(directory) if directory else artifact_model_directory(), keys, oldest))
        challenger = configuration.challenger
        self._challenger.want(Source(Path(challenger), keys, oldest) if challenger else None)
        if not configuration.challenger:
            self.challenger_problem = None
        return bool(configuration.challenger)

    def look(self) -> None:
        """Load again what has changed."""
        self._champion.look()
        self._challenger.look()

    def look_at_trial(self, scored: int) -> None:
        """Keep the champion once it has served.

        Args:
            scored: Readings that were scored since the component started.
        """
        if self._trial is None:
            return
        began, before = self._trial
        if not self._cleared and scored - before >= CLEARED_READINGS:
            self._cleared = True
            self._last_good.end()
        if self._monotonic() - began >= self._served and scored - before >= SERVED_READINGS:
            self._trial = None
            self._champion.served()

    def begin_trial(self, scored: int) -> None:
        """A champion is in force from now on.

        Args:
            scored: As for `look_at_trial`.
        """
        self._trial = self._monotonic(), scored
        self._cleared = False

    def end(self) -> None:
        """The process ends, and not by a model."""
        self._last_good.end()

    def require(self) -> None:
        """Check that a first model has not been missing for too long.

        Raises:
            CannotStartError: It has.
        """
        if self._monotonic() >= self._missing_until:
            raise CannotStartError(f"model {self.problem}")

    def take_champion(self, loaded: Loaded) -> Model | None:
        """Decide what a load for the champion's place means.

        Returns:
            The model that is to score from now on; None if nothing changes.

        Raises:
            CannotStartError: It is refused, and there is none in its place.
        """
        if loaded.source != self._champion.source:
            return None  # asked for before a newer wish
        self.problem = f"{loaded.source.directory}: {loaded.problem}" if loaded.problem else None
        self._missing_until = inf
        if loaded.model is None:
            if self.in_force and loaded.missing:
                # A deployment may set the directory before its component has put a model there.
                logger.warning("no new model yet, the old one stays in force: %s", self.problem)
            elif self.in_force:
                logger.error("the new model is refused, the old one stays in force: %s", self.problem)
            elif loaded.missing:
                self._missing_until = self._monotonic() + self._wait
                logger.warning("waiting for the model: %s", self.problem)
            elif loaded.deferred:
                logger.warning("no model yet: %s", self.problem)
            else:
                raise CannotStartError(f"model {self.problem}")
            return None
        if loaded.problem:
            logger.error("the model is refused, the last one in force stays: %s", self.problem)
        manifest = loaded.model.manifest
        logger.info("model %s %s is ready: %s", manifest.name, manifest.version, loaded.model.directory)
        return loaded.model

    def take_challenger(self, loaded: Loaded) -> bool:
        """Note what a load for the challenger's place means.

        Returns:
            Whether the load is the one that is wanted.
        """
        if loaded.source != self._challenger.source:
            return False
        self.challenger_problem = loaded.problem
        if loaded.problem:
            logger.error("the challenger is refused: %s", loaded.problem)
        return True
