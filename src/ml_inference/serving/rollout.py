"""Loads models beside the one that scores, and notices when there is a new one.

Loading and checking takes up to seconds on a gateway, so it happens on a thread of its own; the worker goes on with the
old model until the new one is ready. A new model that fails any check changes nothing but the health message.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from ml_inference.backoff import Backoff
from ml_inference.model.bundle import Model, load_model, load_verified
from ml_inference.model.location import artifact_model_directory
from ml_inference.model.manifest import MANIFEST_FILE, ModelCheckDeferredError, ModelError
from ml_inference.serving.last_good import MAX_DEATHS, LastGood

FIRST_RETRY = 15.0
LONGEST_RETRY = 900.0
"""Seconds after which a model is tried again that could not be checked because the machine was too busy."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from, who must have signed it, and the oldest version that it may have."""

    directory: Path
    trusted_keys: tuple[str, ...] = ()
    minimum_version: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a request to load.

    Attributes:
        source: What was asked for.
        model: The model, or another in its place; None if there is none.
        problem: Why it is not the one that was asked for.
        missing: Whether that is because there is no such directory; it may come.
        deferred: Whether that is because the machine was too busy to check it; it is tried again.
    """

    source: Source
    model: Model | None
    problem: str | None
    missing: bool = False
    deferred: bool = False


def fingerprint(directory: Path) -> tuple[object, ...] | None:
    """Changes with each file of a model, which may come one after the other; None while there is no manifest."""
    try:
        resolved = directory.resolve()
        files = {entry.name: _status(entry) for entry in os.scandir(resolved)}
    except (OSError, RuntimeError, ValueError):  # a loop of links, before Python 3.13; a path that cannot be one
        return None
    if MANIFEST_FILE not in files:
        return None
    return resolved, *sorted((name, file.st_ino, file.st_mtime_ns, file.st_size) for name, file in files.items())


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a link that leads nowhere, which need not be the model's
        return entry.stat(follow_symlinks=False)


class ModelSlot:
    """One place for a model: the champion's, or the challenger's.

    Used from one thread; loading happens on the executor, and `loaded` is called there.

    Args:
        executor: Runs one load at a time.
        loaded: Told of each load's outcome.
        load: Checks and loads a model directory.
        monotonic: Seconds of a clock that never goes back.
        last_good: Keeps each model that has served, and gives one in place of the first if that is refused, or if the
            process died with it again and again.
    """

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        loaded: Callable[[Loaded], None],
        load: Callable[[Path, Sequence[str]], Model],
        monotonic: Callable[[], float],
        last_good: LastGood | None = None,
    ) -> None:
        self._executor = executor
        self._loaded = loaded
        self._load = load
        self._monotonic = monotonic
        self._last_good = last_good
        self._has_model = False
        self._on_trial: Model | None = None
        self._retry = Backoff(monotonic, first=FIRST_RETRY, longest=LONGEST_RETRY)
        self._retry_at = inf
        self._source: Source | None = None
        self._seen: tuple[object, ...] | None = None

    @property
    def source(self) -> Source | None:
        """What was asked for last; None for no model."""
        return self._source

    def want(self, source: Source | None) -> None:
        """Ask for the model of a source; nothing happens if it was asked for already and has not changed."""
        if source != self._source:
            self._source, self._seen = source, None
            self.look(first=True)

    def look(self, *, first: bool = False) -> None:
        """Load again if the directory holds another model than at the last look, or one that could not be checked."""
        if self._source is None:
            return
        seen = fingerprint(self._source.directory)
        # A directory that is being replaced is missing for a moment; the next look finds it.
        known = seen is None or (seen == self._seen and self._monotonic() < self._retry_at)
        if known and not first:
            return
        self._seen, self._retry_at = seen, inf
        self._executor.submit(self._work, self._source)

    def served(self) -> None:
        """The model that was loaded last has served: keep it."""
        self._executor.submit(self._keep)

    # On the executor.

    def _keep(self) -> None:
        if self._last_good and self._on_trial:
            self._last_good.keep_model(self._on_trial)
            self._on_trial = None

    def _work(self, source: Source) -> None:
        loaded = self._try(source)
        if self._last_good and not self._has_model:
            loaded = self._prefer_last_good(loaded, self._last_good)
        if loaded.model is not None and loaded.problem is None:
            on_trial = self._last_good is not None and self._last_good.begin_trial(loaded.model)
            self._on_trial = loaded.model if on_trial else None
        self._has_model |= loaded.model is not None
        self._loaded(loaded)

    def _prefer_last_good(self, loaded: Loaded, last_good: LastGood) -> Loaded:
        """At the start: the copy in place of a model that is refused, or that the process died with again and again."""
        if not last_good.model_directory.exists():
            return loaded
        if loaded.model is None:
            other = self._try(replace(loaded.source, directory=last_good.model_directory))
            return replace(loaded, model=other.model)
        deaths = last_good.deaths(loaded.model)
        if deaths < MAX_DEATHS:
            return loaded
        other = self._try(replace(loaded.source, directory=last_good.model_directory))
        if other.model is None:
            return loaded
        return replace(loaded, model=other.model, problem=f"the process died {deaths} times in a row with this model")

    def _try(self, source: Source) -> Loaded:
        try:
            # A link may turn to another model at any moment; what it points to does not change.
            model = self._load(source.directory.resolve(), source.trusted_keys)
            require_version(model.manifest.version, source.minimum_version)
        except ModelCheckDeferredError as error:
            self._retry.failed()
            self._retry_at = self._retry.at
            return Loaded(source, None, f"{error}; it is tried again", deferred=True)
        except ModelError as error:
            return Loaded(source, None, str(error), missing=not os.path.lexists(source.directory))
        except Exception as error:
            logger.exception("loading %s failed", source.directory)
            return Loaded(source, None, f"{type(error).__name__}: {error}")
        self._retry.succeeded()
        return Loaded(source, model, None)


def require_version(version: str, minimum: str) -> None:
    """Refuse a model that is older than the configuration allows, such as a signed one that somebody brings back.

    Raises:
        ModelError: It is. Numbers in a version compare as numbers, `1.10` after `1.9`, and a missing part as 0.
    """

    def parts(text: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", re.split(r"[-+]", text, maxsplit=1)[0])]

    mine, least = parts(version), parts(minimum)
    length = max(len(mine), len(least))
    if mine + [0] * (length - len(mine)) < least + [0] * (length - len(least)):
        raise ModelError(f"version: {version} is older than MinimumModelVersion {minimum}")


def load_checked(directory: Path, trusted_keys: Sequence[str]) -> Model:
    """Check a model directory and load it.

    Any but the artifact's own, which the deployment has verified, is first opened in a child process.

    Raises:
        ModelError: A check failed.
    """
    load = load_model if directory == artifact_model_directory() else load_verified
    return load(directory, trusted_keys=trusted_keys)
