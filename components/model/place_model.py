# ruff: noqa: T201 - the artifact's `__main__.py` prints to the runtime's log
"""Puts a model where the inference component finds it: `python3 model.zip install|run WORK`; `__main__.py` of that artifact.

`install` checks the model's checksum and copies it to `WORK/models/`, and so stops a deployment whose model is damaged.
`run` turns the link `WORK/current` to it, in one step, and ends; it is a step of its own since nucleus lite calls a component
without `run` never finished. The link `WORK/previous` shows the model before. It must never touch a model that
`current` shows: the inference component may read it at any moment; and it never writes outside the model's own folder.

Only the standard library: XGBoost is in another component's environment, which checks the rest when it loads the model.
"""

import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

from launcher import InstallError, publish, remove

FOLDER = "model/"
"""Folder of the archive that holds the model directory."""


class Placement:
    """One model and the work directory of its component.

    Attributes:
        target: Where the model directory is put, named after its content.
        current: The link that the inference component follows.
        previous: The link to the model that was current before.
    """

    def __init__(self, archive: Path, work: Path) -> None:
        self._archive = archive
        with zipfile.ZipFile(str(archive)) as opened:
            self._files = {
                name[len(FOLDER) :]: opened.read(name)
                for name in opened.namelist()
                if name.startswith(FOLDER) and not name.endswith("/")
            }
        for name in self._files:
            if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
                raise InstallError(f"not a model directory: {name!r} would lie outside of it")
        content = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(self._files.items())})
        self.target = work / "models" / hashlib.sha256(content.encode()).hexdigest()[:16]
        self.current = work / "current"
        self.previous = work / "previous"

    def install(self) -> str:
        """Check the model and copy it.

        Returns:
            What was done, for the log.

        Raises:
            InstallError: The archive holds no model, or a damaged one.
        """
        try:
            manifest = json.loads(self._files["manifest.json"].decode())
            name, version = manifest["name"], manifest["version"]
            booster, expected = manifest["booster"]["file"], manifest["booster"]["sha256"]
            actual = hashlib.sha256(self._files[booster]).hexdigest()
        except (KeyError, TypeError, ValueError) as error:
            raise InstallError(f"not a model directory: {error!r}") from error
        if actual != expected:
            raise InstallError(
                f"checksum: {_shown(booster)} is not the file that the manifest describes (SHA-256 differs)"
            )
        if not self.target.is_dir():
            self.target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=str(self.target.parent)))
            try:
                for file, data in self._files.items():
                    (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                    (temporary / file).write_bytes(data)
                publish(temporary, self.target)
            finally:
                remove(temporary)
        return f"{_shown(name)} {_shown(version)} is in {self.target}"

    def run(self) -> str:
        """Make the model current, and remove all others but the one before.

        Returns:
            What was done, for the log.
        """
        self.install()
        before = self.current.resolve()
        if before != self.target:
            if before.parent == self.target.parent and before.is_dir():
                _link(self.previous, before)
            _link(self.current, self.target)
        kept = {self.target, self.previous.resolve()}
        for model in set(self.target.parent.iterdir()) - kept:
            remove(model)
        return f"{self.current} is {self.target}"


def _shown(text: object) -> str:
    """A name as it may stand in a log line: what cannot be printed is escaped."""
    return ascii(str(text)[:64])[1:-1]


def _link(link: Path, target: Path) -> None:
    """Turn a link to another directory in one step; who opens it gets the old one or the new one."""
    temporary = link.with_name(f"{link.name}.new")
    remove(temporary)
    temporary.symlink_to(target.relative_to(link.parent), target_is_directory=True)
    temporary.replace(link)


def main(arguments: "list[str]") -> int:
    """Install or run.

    Args:
        arguments: `install` or `run`, and the work directory.

    Returns:
        The exit code.
    """
    archive = Path(__file__).resolve().parent
    if arguments[:1] not in (["install"], ["run"]) or arguments[1:] in ([], [""]):
        print(f"usage: python3 {archive} install|run WORK", file=sys.stderr)
        return 2
    try:
        placement = Placement(archive, Path(arguments[1]).resolve())
        print(placement.install() if arguments[0] == "install" else placement.run())
    except (InstallError, OSError, zipfile.BadZipFile) as error:
        print(f"{archive.name} {arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
