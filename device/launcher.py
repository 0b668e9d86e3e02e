# ruff: noqa: INP001, S603, T201 - the artifact's `__main__.py`: no package, starts what it put there itself, prints to the runtime's log
"""What a runtime starts: `python3 ARTIFACT.zip install|run WORK ARGUMENT...`; it is `__main__.py` in the artifact.

It puts the artifact's files and a virtual environment with exactly the locked packages into the component's work
directory, then hands over to that environment's Python. `install` does so, runs the arguments as a gate and removes what
older versions left; `run` becomes the component. It never changes an environment in use: one is made under a temporary
name and renamed when complete, so a failure leaves the previous version able to run.

Only the standard library, and nothing that Python 3.6 lacks: the `python3` of a gateway may be too old for the component
while a newer one stands beside it. Starting from the archive itself works alike on every runtime: the classic nucleus
and lite's cloud deployments could unpack it, lite's local deployments cannot.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SUPPORTED = ("3.14", "3.13", "3.12", "3.11", "3.10")
"""The Python versions that every package in the lock has wheels for, the preferred first."""

WHEELHOUSE = "wheelhouse/"
"""Folder of the archive with a folder of wheels for each platform, such as `wheelhouse/aarch64-3.11/`."""

PROBE = """
import os, sys
try:
    import ensurepip, venv
    complete = "complete"
except ImportError:
    complete = "bare"
print("%d.%d" % sys.version_info[:2], 64 if sys.maxsize > 2**32 else 32, complete, os.path.realpath(sys.executable))
"""


class InstallError(Exception):
    """Something that stops the installation; its text is the one line that names the cause."""


class Launcher:
    """One artifact and the work directory of its component.

    Attributes:
        home: Directory of the work directory that belongs to the launcher alone.
        app: The artifact's files, in a directory named after their content.
    """

    def __init__(self, archive: Path, work: Path) -> None:
        self.archive = archive
        self.home = work / "runtime"
        with zipfile.ZipFile(str(archive)) as opened:
            members = opened.infolist()
        content = "".join(f"{member.filename} {member.CRC} {member.file_size}\n" for member in members)
        self.app = self.home / f"app-{_digest(content.encode())}"
        self._files = [member.filename for member in members if not member.filename.startswith(WHEELHOUSE)]
        self._wheels = [member.filename for member in members if member.filename.startswith(WHEELHOUSE)]

    def install(self, arguments: "list[str]") -> None:
        """Prepare everything, let the environment's Python run the arguments in the artifact's folder, then tidy up.

        Args:
            arguments: For the environment's Python; a non-zero exit code fails the installation. Empty: no gate.

        Raises:
            InstallError: With the cause.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        for leftover in self.home.glob("tmp-*"):  # of an installation that was killed
            remove(leftover)
        python = self._prepare()
        if arguments:
            print(_output([python, *arguments], self._child_environment(), cwd=self.app), end="")
        self._forget_older()

    def run(self, arguments: "list[str]") -> None:
        """Become the component; returns only by raising.

        Args:
            arguments: For the environment's Python.

        Raises:
            InstallError: With the cause.
        """
        # All of it is there since the installation, unless the system's Python was replaced: then this builds anew.
        self.home.mkdir(parents=True, exist_ok=True)
        python = self._prepare()
        sys.stdout.flush()
        # The process keeps its id, so that the runtime's signals reach the component itself.
        os.execve(python, [python, *arguments], self._child_environment())  # noqa: S606 - no shell is wanted

    def _prepare(self) -> str:
        """Unpack the artifact and build its environment, each only if it is not there; the environment's Python."""
        if not self.app.is_dir():
            self._unpack()
        environments = self._environments(self.app)
        usable = [path for path in environments if os.access(str(path / "bin" / "python"), os.X_OK)]
        environment = usable[0] if usable else self._build_environment()
        return str(environment / "bin" / "python")

    def _unpack(self) -> None:
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=str(self.home)))
        try:
            with zipfile.ZipFile(str(self.archive)) as opened:
                opened.extractall(str(temporary), self._files)
            publish(temporary, self.app)
        finally:
            remove(temporary)

    def _environments(self, app: Path) -> "list[Path]":
        """Where the environment of an unpacked artifact may be, one place for each Python version."""
        lock = _digest((app / "requirements.lock").read_bytes())
        return [self.home / f"venv-{lock}-{version}" for version in SUPPORTED]

    def _build_environment(self) -> Path:
        """Make a virtual environment with the locked packages, from the network or from the artifact's wheels."""
        machine = platform.machine()
        versions = [version for version in SUPPORTED if not self._wheels or self._wheels_for(machine, version)]
        if not versions:
            platforms = sorted({name.split("/")[1] for name in self._wheels})
            raise InstallError(
                f"the artifact has wheels for {', '.join(platforms)}, and this machine is {machine}: build it with wheels for "
                "this machine, too (make wheelhouse), or without its folder wheelhouse"
            )
        python, version = find_python(versions)
        print(f"building the environment with {python}", flush=True)
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=str(self.home)))
        try:
            # pip downloads to TMPDIR, and /tmp is often a small file system in memory on a gateway.
            variables = dict(_own_environment(), TMPDIR=str(temporary))
            target = temporary / "venv"
            _output([python, "-m", "venv", str(target)], variables)
            # Compiled files appear for what is imported; the others would only take up the gateway's disk.
            command = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
            command += ["--no-cache-dir", "--disable-pip-version-check", "--require-hashes", "--only-binary=:all:"]
            if self._wheels:
                wheels = self._wheels_for(machine, version)
                with zipfile.ZipFile(str(self.archive)) as opened:
                    opened.extractall(str(temporary), wheels)
                command += ["--no-index", "--find-links", str((temporary / wheels[0]).parent)]
            _output([*command, "--requirement", str(self.app / "requirements.lock")], variables)
            environment = self._environments(self.app)[SUPPORTED.index(version)]
            publish(target, environment)
        finally:
            remove(temporary)
        return environment

    def _wheels_for(self, machine: str, version: str) -> "list[str]":
        return [name for name in self._wheels if name.startswith(f"{WHEELHOUSE}{machine}-{version}/")]

    def _child_environment(self) -> "dict[str, str]":
        return dict(_own_environment(), PYTHONPATH=str(self.app / "src"))

    def _forget_older(self) -> None:
        """Remove what neither this version nor the one installed before it needs; that one is the way back."""
        record = self.home / "installed"
        names = [self.app.name]
        if record.exists():
            names += [name for name in record.read_text().split() if name != self.app.name][:1]
        temporary = self.home / "tmp-installed"
        temporary.write_text("\n".join(names) + "\n")
        temporary.replace(record)
        needed = {record}
        for app in (self.home / name for name in names):
            if app.is_dir():
                needed.update([app, *self._environments(app)])
        for path in set(self.home.iterdir()) - needed:
            remove(path)


def find_python(versions: "list[str]") -> "tuple[str, str]":
    """The first Python of an acceptable version that can make an environment: the one that runs this before all others.

    Args:
        versions: Acceptable versions, such as `3.11`, the preferred first.

    Returns:
        Its real path, so that a changed `python3` link changes no environment, and its version.

    Raises:
        InstallError: There is none; says what was found instead.
    """
    found = []
    for name in [sys.executable, *("python" + version for version in versions)]:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            version, bits, complete, real = _output([path, "-c", PROBE], _own_environment()).split(maxsplit=3)
        except (InstallError, ValueError):
            continue  # such as a version manager's stand-in for a version that is not selected
        if version not in versions:
            found.append(f"{path} is {version}")
        elif bits != "64":
            found.append(f"{path} is a 32-bit program")
        elif complete != "complete":
            found.append(f"{path} has no venv and ensurepip (on Debian and Ubuntu: apt install python{version}-venv)")
        else:
            return real.strip(), version
    raise InstallError(f"needs a Python {', '.join(versions)}; found: {'; '.join(found) or 'none'}")


def main(arguments: "list[str]") -> int:
    """Install or run.

    Args:
        arguments: `install` or `run`, the work directory, and what the environment's Python is given.

    Returns:
        The exit code; `run` returns only for a failure.
    """
    archive = Path(__file__).resolve().parent
    if arguments[:1] not in (["install"], ["run"]) or arguments[1:2] in ([], [""]):
        print(f"usage: python3 {archive} install|run WORK [ARGUMENT...]", file=sys.stderr)
        return 2
    try:
        launcher = Launcher(archive, Path(arguments[1]).resolve())
        (launcher.install if arguments[0] == "install" else launcher.run)(arguments[2:])
    except (InstallError, OSError, zipfile.BadZipFile) as error:
        print(f"{archive.name} {arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


def _output(command: "list[str]", variables: "dict[str, str]", cwd: "Path | None" = None) -> str:
    """What a command prints, or an InstallError with the line that names the cause.

    What it writes to standard error goes to this process's: a runtime files it as a warning.
    """
    directory = None if cwd is None else str(cwd)
    # Apart, since a program's two streams reach one pipe in no order: Python holds back the first until it ends.
    done = subprocess.run(  # noqa: UP022 - `capture_output` came with Python 3.7
        command, check=False, cwd=directory, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    printed, told = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode == 0:
        print(told, end="", file=sys.stderr)
        return printed
    lines = [line.strip() for line in (told if told.strip() else printed).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:] or [f"exit code {done.returncode}"]
    if done.returncode < 0:
        causes = [f"killed by signal {-done.returncode}"]
    # pip repeats this and ends with "No matching distribution found", which is not the cause.
    unreachable = re.search("connection broken by (.*)", told)
    if unreachable:
        causes = [f"cannot reach the package index: {unreachable.group(1)}"]
    what = " ".join(part for part in command[1:4] if part != "-m")
    raise InstallError(f"{what}: {' '.join(causes)}")


def _own_environment() -> "dict[str, str]":
    """This process's environment variables without those that would show another Python's packages."""
    foreign = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in foreign}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def publish(temporary: Path, final: Path) -> None:
    """Give a complete directory its name once all of it has reached the disk: gateways lose power.

    Args:
        temporary: The directory, on the same file system as `final`.
        final: Its name; what bears it already is replaced.
    """
    os.sync()
    remove(final)
    temporary.rename(final)


def remove(path: Path) -> None:
    """Remove a file, a link or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path), ignore_errors=True)
    elif path.exists() or path.is_symlink():
        path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
