"""What was last in force, kept so that a bad deployment does not stop the next start.

While the component runs, a configuration or a model that is refused changes nothing. But nucleus lite restarts a component
at each change, and every gateway restarts some day. So what is in force is kept in the work directory, and a start that
meets something worse goes on with that, and says so. It is only ever a copy, checked again like any other.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_inference.model.bundle import Model
from ml_inference.model.manifest import MANIFEST_FILE
from ml_inference.model.trust import SIGNATURE_FILE

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
        self.model_directory = directory / "model"

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
                fresh.replace(self._configuration)
        except OSError as error:
            logger.warning("the configuration in force cannot be kept for the next start: %s", error)

    def keep_model(self, model: Model) -> None:
        """Keep a model that passed all checks."""
        kept = self.model_directory
        try:
            if _same(model.directory / MANIFEST_FILE, kept / MANIFEST_FILE):
                return
            fresh = self._beside(kept)
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            for name in (MANIFEST_FILE, model.manifest.booster.file, SIGNATURE_FILE):
                if name != SIGNATURE_FILE or (model.directory / name).exists():
                    shutil.copyfile(model.directory / name, fresh / name)
            shutil.rmtree(kept, ignore_errors=True)
            fresh.rename(kept)
        except OSError as error:
            logger.warning("the model in force cannot be kept for the next start: %s", error)

    def _beside(self, path: Path) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.with_name(f"{path.name}.new")


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()
