"""Loads models beside the one that scores, and notices when there is a new one.

Loading and checking takes up to seconds on a gateway, so it happens on a thread of its own; the worker goes on with the
old model until the new one is ready. A new model that fails any check changes nothing but the health message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from pathlib import Path

from ml_inference.model.bundle import Model, load_model, load_verified
from ml_inference.model.manifest import MANIFEST_FILE, ModelError, ModelUncheckedError

RETRY_SECONDS = 900.0
"""After which a model is tried again that could not be checked because the machine was too busy."""

logger = logging.getLogger(__name__)


def artifact_model_directory() -> Path:
    """The model that came with the component's artifact.

    The artifact has the repository's layout (`src/ml_inference/`, `artifacts/model/`); an installed package carries the
    model inside.
    """
    package = Path(__file__).resolve().parent
    artifact = package.parent.parent / "artifacts" / "model"
    return artifact if artifact.is_dir() else package / "_model"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from and who must have signed it."""

    directory: Path
    trusted_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a request to load: a model, or the reason why there is none."""

    source: Source
    model: Model | None
    problem: str | None


def fingerprint(directory: Path) -> tuple[object, ...] | None:
    """Changes whenever another model is put into the directory; None while there is none."""
    try:
        resolved = directory.resolve()
        status = (resolved / MANIFEST_FILE).stat()
    except (OSError, RuntimeError, ValueError):  # a loop of links, before Python 3.13; a path that cannot be one
        return None
    return resolved, status.st_ino, status.st_mtime_ns, status.st_size


class ModelSlot:
    """One place for a model: the champion's, or the challenger's.

    Used from one thread; loading happens on the executor, and `loaded` is called there.

    Args:
        executor: Runs one load at a time.
        loaded: Told of each load's outcome.
        load: Checks and loads a model directory.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        loaded: Callable[[Loaded], None],
        load: Callable[[Path, Sequence[str]], Model],
        monotonic: Callable[[], float],
    ) -> None:
        self._executor = executor
        self._loaded = loaded
        self._load = load
        self._monotonic = monotonic
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

    def _work(self, source: Source) -> None:
        try:
            # A link may turn to another model at any moment; what it points to does not change.
            outcome = Loaded(source, self._load(source.directory.resolve(), source.trusted_keys), None)
        except ModelUncheckedError as error:
            self._retry_at = self._monotonic() + RETRY_SECONDS
            outcome = Loaded(source, None, f"{error}; it is tried again in {RETRY_SECONDS / 60:g} minutes")
        except ModelError as error:
            outcome = Loaded(source, None, str(error))
        except Exception as error:
            logger.exception("loading %s failed", source.directory)
            outcome = Loaded(source, None, f"{type(error).__name__}: {error}")
        self._loaded(outcome)


def load_checked(directory: Path, trusted_keys: Sequence[str]) -> Model:
    """Check a model directory and load it.

    Any but the artifact's own, which the deployment has verified, is first opened in a child process.

    Raises:
        ModelError: A check failed.
    """
    load = load_model if directory == artifact_model_directory() else load_verified
    return load(directory, trusted_keys=trusted_keys)
