# ruff: noqa: INP001, S603, T201 - the artifact's `__main__.py`: no package, starts what it put there itself, prints to the runtime's log
"""What a runtime starts: `python3 ARTIFACT.zip install|run WORK ARGUMENT...`; it is `__main__.py` in the artifact.

It puts the artifact's files and a virtual environment with exactly the locked packages into the component's work
directory, then hands over to that environment's Python. `install` does so, runs the arguments as a gate and removes what
older versions left; `run` becomes the component. The gate proves what is there: if it fails and a file is not as it was
built, the artifact's files or the environment are built anew, once. It never changes an environment in use: one is made under
a temporary name and renamed when complete, so a failure leaves the previous version able to run.

Only the standard library, and nothing that Python 3.6 lacks: the `python3` of a gateway may be too old for the component
while a newer one stands beside it. Starting from the archive itself works alike on every runtime: the classic nucleus
and lite's cloud deployments could unpack it, lite's local deployments cannot.
"""

import ast
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SUPPORTED = ("3.14", "3.13", "3.12", "3.11", "3.10")
"""The Python versions that every package in the lock has wheels for, the preferred first."""

WHEELHOUSE = "wheelhouse/"
"""Folder of the archive with a folder of wheels for each platform, such as `wheelhouse/aarch64-3.11/`."""

STAMP = "component.json"
"""File of the artifact with the name and the version that were built."""

CHECKSUMS = "checksums.json"
"""File of an environment that says what it was built of."""

PIP_SETTINGS = (
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "client-cert",
    "keyring-provider", "timeout", "default-timeout", "retries",
)  # fmt: skip
"""What may be set for pip on a device: the index, the way to it and its certificates. Nothing that changes what is installed."""

PROBE = """
import glob, json, os, sys
try:
    import ensurepip, sysconfig, venv
    folders = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), sysconfig.get_config_var("WHEEL_PKG_DIR") or ""]
    wheels = [path for folder in folders for path in glob.glob(os.path.join(glob.escape(folder), "pip-*.whl"))]
except ImportError:
    wheels = []
version, bits = "%d.%d" % sys.version_info[:2], 64 if sys.maxsize > 2**32 else 32
print(json.dumps([os.path.realpath(sys.executable), version, bits, (wheels or [""])[-1]]))
"""


class Python(NamedTuple):
    """An interpreter that can make environments.

    Attributes:
        path: Its real path, so that a changed `python3` link changes no environment.
        version: Such as `3.11`.
        pip: The wheel of pip that comes with it.
    """

    path: str
    version: str
    pip: str


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
        self._files = {
            m.filename: m.CRC for m in members if not m.filename.startswith(WHEELHOUSE) and not m.filename.endswith("/")
        }
        self._wheels = [m.filename for m in members if m.filename.startswith(WHEELHOUSE)]

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
            print(self._gate(python, arguments), end="")
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
        return str((self._environment() or self._build_environment()) / "bin" / "python")

    def _gate(self, python: str, arguments: "list[str]") -> str:
        """What the arguments print, once they have passed with everything as it was built."""
        what = " ".join(part for part in arguments[:3] if part != "-m")
        try:
            return _output(what, [python, *arguments], self._child_environment(), cwd=self.app)
        except InstallError as error:
            # Damage is one of two causes, and the other, such as a bad model, is not worth downloading everything again.
            damaged = self._damaged()
            if not damaged:
                raise
            print(f"{error}; built anew, since damaged: {', '.join(path.name for path in damaged)}", file=sys.stderr)
            try:
                if self.app in damaged:
                    self._unpack()
                if damaged != [self.app]:
                    python = str(self._build_environment() / "bin" / "python")
            except (InstallError, OSError) as failure:
                raise InstallError(f"{error}; something is damaged and cannot be built anew: {failure}") from failure
        return _output(what, [python, *arguments], self._child_environment(), cwd=self.app)

    def _damaged(self) -> "list[Path]":
        """Those of the artifact's directory and its environment whose files are not as they were built."""
        damaged = []
        if _checksums(self.app) != self._files:
            damaged.append(self.app)
        environment = self._environment()
        if environment is not None:
            try:
                built = json.loads((environment / CHECKSUMS).read_text())
            except (OSError, ValueError):
                built = None
            if _checksums(environment) != built:
                damaged.append(environment)
        return damaged

    def _unpack(self) -> None:
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=str(self.home)))
        try:
            with zipfile.ZipFile(str(self.archive)) as opened:
                opened.extractall(str(temporary), list(self._files))
            publish(temporary, self.app)
        finally:
            remove(temporary)

    def _environments(self, app: Path) -> "list[Path]":
        """Where the environment of an unpacked artifact may be, one place for each Python version."""
        return [
            self.home / environment_name((app / "requirements.lock").read_bytes(), version) for version in SUPPORTED
        ]

    def _environment(self) -> "Path | None":
        """The artifact's environment, if it is there."""
        found = (path for path in self._environments(self.app) if os.access(str(path / "bin" / "python"), os.X_OK))
        return next(found, None)

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
        python = find_python(versions)
        print(f"building the environment with {python.path}", flush=True)
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=str(self.home)))
        try:
            options, index = ["--no-cache-dir"], True
            if self._wheels:
                wheels = self._wheels_for(machine, python.version)
                with zipfile.ZipFile(str(self.archive)) as opened:
                    opened.extractall(str(temporary), wheels)
                options, index = ["--no-index", "--find-links", str((temporary / wheels[0]).parent)], False
            environment = self.home / environment_name((self.app / "requirements.lock").read_bytes(), python.version)
            build_environment(python, self.app / "requirements.lock", temporary, options, index=index)
            publish(temporary / "venv", environment)
        finally:
            remove(temporary)
        return environment

    def _wheels_for(self, machine: str, version: str) -> "list[str]":
        return [name for name in self._wheels if name.startswith(f"{WHEELHOUSE}{machine}-{version}/")]

    def _child_environment(self) -> "dict[str, str]":
        variables = dict(_own_environment(), PYTHONPATH=str(self.app / "src"))
        try:
            stamp = json.loads((self.app / STAMP).read_text())
            name, version = stamp["name"], stamp["version"]
        except (OSError, ValueError, KeyError):
            return variables
        # Where the cloud chose the version, the runtime's folder for the artifact knows it.
        if version == "NEXT_PATCH":
            version = self.archive.parent.name
        return dict(variables, COMPONENT_NAME=name, COMPONENT_VERSION=version)

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


def environment_name(lock: bytes, version: str) -> str:
    """The directory's name of the environment with the packages of a lock file.

    Args:
        lock: Content of the lock file.
        version: Of Python.
    """
    return f"venv-{_digest(lock)}-{version}"


def build_environment(
    python: Python,
    lock: Path,
    folder: Path,
    options: "list[str]",
    *,
    index: bool = True,
    show: "Callable[[str], None] | None" = None,
) -> Path:
    """Make a virtual environment with exactly the locked packages: no pip, no setuptools.

    Args:
        python: The interpreter.
        lock: The lock file, with hashes.
        folder: For everything that is needed on the way; gets the environment as `venv`.
        options: More options for `pip install`.
        index: Whether pip may use a package index, and so its settings.
        show: Called with each line that pip prints.

    Returns:
        The environment's directory.

    Raises:
        InstallError: With the cause.
    """
    target = folder / "venv"
    # pip downloads to TMPDIR, and /tmp is often a small file system in memory on a gateway.
    variables = dict(_own_environment(), TMPDIR=str(folder))
    _output("venv", [python.path, "-I", "-m", "venv", "--without-pip", str(target)], variables)
    with zipfile.ZipFile(python.pip) as wheel:
        wheel.extractall(str(folder / "pip"))
    # -I: nothing in the environment's variables or in a home directory reaches this pip but what is handed on here.
    # -u: what it prints comes at once.
    pip = [str(target / "bin" / "python"), "-I", "-u", str(folder / "pip" / "pip")]
    settings = index_settings(pip, variables) if index else {}
    variables = {name: value for name, value in variables.items() if not name.startswith("PIP_")}
    variables.update(settings, PIP_CONFIG_FILE=os.devnull)
    # Compiled files appear for what is imported; the others would only take up the gateway's disk.
    command = [*pip, "install", "--no-input", "--no-compile", "--disable-pip-version-check", "--require-hashes"]
    command += ["--only-binary=:all:", "--progress-bar=off", *options, "--requirement", str(lock)]
    _output("pip install", command, variables, show=show)
    (target / CHECKSUMS).write_text(json.dumps(_checksums(target)))
    return target


def index_settings(pip: "list[str]", variables: "dict[str, str]") -> "dict[str, str]":
    """The variables that tell pip about the index, from its configuration files and its variables, and no others.

    Args:
        pip: The command.
        variables: Of this process.

    Raises:
        InstallError: A configuration file cannot be read.
    """
    names = {"PIP_CONFIG_FILE", *(_variable(setting) for setting in PIP_SETTINGS)}
    known = {name: value for name, value in variables.items() if name in names or not name.startswith("PIP_")}
    listed = _output("pip config", [*pip, "config", "list"], known)
    settings = {}
    for section in ("global", "install", ":env:"):
        for key, value in re.findall(f"^{section}\\.([a-z-]+)=(.*)$", listed, re.MULTILINE):
            if key in PIP_SETTINGS:
                settings[_variable(key)] = str(ast.literal_eval(value))
    return settings


def _variable(setting: str) -> str:
    return "PIP_" + setting.upper().replace("-", "_")


def find_python(versions: "list[str]") -> Python:
    """The first Python of an acceptable version that can make an environment: the one that runs this before all others.

    Args:
        versions: Acceptable versions, such as `3.11`, the preferred first.

    Raises:
        InstallError: There is none; says what was found instead.
    """
    found = []
    for name in [sys.executable, *("python" + version for version in versions)]:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            real, version, bits, pip = json.loads(_output("probe", [path, "-c", PROBE], _own_environment()))
        except (InstallError, ValueError):
            continue  # such as a version manager's stand-in for a version that is not selected
        if version not in versions:
            found.append(f"{path} is {version}")
        elif bits != 64:  # noqa: PLR2004 - bits
            found.append(f"{path} is a 32-bit program")
        elif not pip:
            found.append(f"{path} has no venv and ensurepip (on Debian and Ubuntu: apt install python{version}-venv)")
        else:
            return Python(real, version, pip)
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


def _output(
    what: str,
    command: "list[str]",
    variables: "dict[str, str]",
    cwd: "Path | None" = None,
    show: "Callable[[str], None] | None" = None,
) -> str:
    """What a command prints, or an InstallError with its name and the line that names the cause.

    What it writes to standard error goes to this process's: a runtime files it as a warning.
    """
    # Each stream in a place of its own: together they come in no order, since Python holds back the first until it ends.
    with tempfile.TemporaryFile() as errors:
        directory = None if cwd is None else str(cwd)
        process = subprocess.Popen(command, cwd=directory, env=variables, stdout=subprocess.PIPE, stderr=errors)
        lines = []
        for line in process.stdout or ():
            lines.append(line.decode(errors="replace"))
            if show is not None:
                show(lines[-1].strip())
        code = process.wait()
        errors.seek(0)
        told = errors.read().decode(errors="replace")
    if code == 0:
        print(told, end="", file=sys.stderr)
        return "".join(lines)
    lines = [line.strip() for line in (told.splitlines() if told.strip() else lines) if line.strip()]
    causes = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:] or [f"exit code {code}"]
    if code < 0:
        causes = [f"killed by signal {-code}"]
    # pip repeats this and ends with "No matching distribution found", which is not the cause.
    unreachable = re.search("connection broken by (.*)", told)
    if unreachable:
        causes = [f"the package index cannot be reached: {unreachable.group(1)}"]
    absent = re.search(r"requirement (\S+).*\(from versions: none\)", told)
    if absent and not unreachable:
        causes = [f"the package index cannot be reached, or has no {absent.group(1)}"]
    raise InstallError(f"{what}: {' '.join(causes)}")


def _checksums(directory: Path) -> "dict[str, int]":
    """The CRC-32 of each file below a directory, and of where each link leads; without compiled files."""
    found = {}
    for folder, folders, files in os.walk(str(directory)):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files + linked:
            path = Path(folder, name)
            data = os.readlink(str(path)).encode() if path.is_symlink() else path.read_bytes()  # noqa: PTH115 - 3.6
            found[path.relative_to(directory).as_posix()] = zlib.crc32(data)
    found.pop(CHECKSUMS, None)
    return found


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
    # Under another name until it is replaced: a process of the version before may still import from it.
    replaced = Path(f"{temporary}-replaced")
    if os.path.lexists(str(final)):
        final.rename(replaced)
    temporary.rename(final)
    remove(replaced)


def remove(path: Path) -> None:
    """Remove a file, a link or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path), ignore_errors=True)
    elif path.exists() or path.is_symlink():
        path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
