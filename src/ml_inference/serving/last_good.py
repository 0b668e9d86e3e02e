"""What was last in force, kept so that a bad deployment does not stop the next start.

While the component runs, a configuration or a model that is refused changes nothing. But nucleus lite restarts a component
at each change, and every gateway restarts some day. So what is in force is kept in the work directory, and a start that
meets something worse goes on with that, and says so. It is only ever a copy, checked again like any other.

A model that passes every check may still kill the process that scores with it. So a new model is on trial until it has
served; the copy of the one before stays until then, and a start that finds that the process died twice in a row during the
trial goes on with that copy.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ml_inference.model.bundle import Model
from ml_inference.model.manifest import MANIFEST_FILE
from ml_inference.model.trust import SIGNATURE_FILE
from ml_inference.serving.durable import sync_path

MAX_DEATHS = 2
"""Times that the process may die with a model on trial. Nucleus lite starts a component three times an hour, so the third
start has to go on with the model before."""

logger = logging.getLogger(__name__)


class LastGood:
    """The kept configuration and model.

    Never raises for its disk: without a copy the component starts as if it were its first time.

    Args:
        directory: Made with mode 0700 when something is kept.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._configuration = directory / "configuration.json"
        self._trial = directory / "trial.json"
        self.model_directory = directory / "model"
        self._before = directory / "model.old"
        self._began_trial = False
        if self._before.exists() and not self.model_directory.exists():  # killed between the two renames
            with suppress(OSError):
                self._before.rename(self.model_directory)

    def configuration(self) -> dict[str, Any] | None:
        """The configuration tree that was kept; None if there is none."""
        try:
            tree = json.loads(self._configuration.read_bytes())
        except (OSError, ValueError):
            return None
        return tree if isinstance(tree, dict) else None

    def keep_configuration(self, tree: Mapping[str, Any]) -> None:
        """Keep a configuration tree that is in force."""
        try:
            if self.configuration() != tree:
                fresh = self._beside(self._configuration)
                fresh.write_text(json.dumps(tree))
                sync_path(fresh)  # or a power cut leaves an empty file under the old one's name
                fresh.replace(self._configuration)
        except OSError as error:
            logger.warning("the configuration in force cannot be kept for the next start: %s", error)

    def keep_model(self, model: Model) -> None:
        """Keep a model that has served, and end its trial. Nothing is written if the copy is the same, file by file."""
        kept = self.model_directory
        try:
            files = _files(model)
            if not _same(model.directory, kept, files):
                fresh = self._beside(kept)
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir()
                for name in files:
                    shutil.copyfile(model.directory / name, fresh / name)
                    sync_path(fresh / name)
                sync_path(fresh)
                shutil.rmtree(self._before, ignore_errors=True)
                if kept.exists():
                    kept.rename(self._before)
                fresh.rename(kept)
                sync_path(self._directory)
                shutil.rmtree(self._before, ignore_errors=True)
            self._trial.unlink(missing_ok=True)
            self._began_trial = False
        except OSError as error:
            logger.warning("the model in force cannot be kept for the next start: %s", error)

    def begin_trial(self, model: Model) -> bool:
        """A model is about to score. What is not new is kept at once: the first model, and one that is kept already.

        Returns:
            Whether it is on trial: to be kept only when it has served.
        """
        try:
            digest = _digest(model.directory)
            if not self.model_directory.exists() or digest == _digest(self.model_directory):
                self.keep_model(model)  # signed by another key, perhaps, or a copy that was cut short
                return False
            self._write_trial({"model": digest, "deaths": self.deaths(model), "running": True})
            self._began_trial = True
        except OSError as error:
            logger.warning("the trial of the model in force cannot be written down: %s", error)
        return True

    def end(self) -> None:
        """No model killed the process: it was asked to end, decided to, or has scored so much that this one will not."""
        try:
            if self._began_trial:  # what an earlier process left undone stays so
                # Not synced: there is little time left, and after a power cut it counts as a death, which it may have been.
                self._write_trial(self._read_trial() | {"running": False, "deaths": 0}, sync=False)
        except OSError as error:
            logger.warning("the trial of the model in force cannot be written down: %s", error)

    def deaths(self, model: Model) -> int:
        """How often the process died with this model on trial."""
        trial = self._read_trial()
        try:
            if trial["model"] != _digest(model.directory):
                return 0
            return int(trial["deaths"]) + bool(trial["running"])
        except (KeyError, TypeError, ValueError, OSError):
            return 0

    def _read_trial(self) -> dict[str, Any]:
        try:
            trial = json.loads(self._trial.read_bytes())
        except (OSError, ValueError):
            return {}
        return trial if isinstance(trial, dict) else {}

    def _write_trial(self, trial: Mapping[str, Any], *, sync: bool = True) -> None:
        fresh = self._beside(self._trial)
        fresh.write_text(json.dumps(trial))
        if sync:
            sync_path(fresh)
        fresh.replace(self._trial)

    def _beside(self, path: Path) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.with_name(f"{path.name}.new")


def _files(model: Model) -> list[str]:
    signature = [SIGNATURE_FILE] if (model.directory / SIGNATURE_FILE).exists() else []
    return [MANIFEST_FILE, model.manifest.booster.file, *signature]


def _same(one: Path, other: Path, files: list[str]) -> bool:
    if not other.is_dir() or {path.name for path in other.iterdir()} != set(files):
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in files)


def _digest(directory: Path) -> str:
    """What tells a model from others: its manifest holds the booster's SHA-256."""
    return hashlib.sha256((directory / MANIFEST_FILE).read_bytes()).hexdigest()
