"""Component recipes: read, the manifest for this machine chosen, and scripts filled in, each as the runtime does it.

The runtimes differ most here, and silently: nucleus lite takes keys in their exact case, skips a manifest without `runtime`, and cuts a
script off at a `{` it does not know. None of that may be repaired on the way, or a recipe would pass here and fail on a device.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from greengrass_sandbox.configuration import KeyPath, parse_pointer
from greengrass_sandbox.profiles import Profile

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT: Final = 120.0
"""Seconds that a lifecycle script may take when the recipe does not say, on both runtimes."""

_LONGEST_VARIABLE: Final = 256  # lite's buffer for the text between the braces
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "i386": "x86",
    "i686": "x86",
    "armv7l": "arm",
}
_VARIABLE: Final = re.compile(r"\{(?:([\w.-]+):)?(configuration|artifacts|work|kernel|iot):([^}]*)\}")


class RecipeError(Exception):
    """A recipe that this runtime would not deploy."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a recipe needs.

    Attributes:
        uri: As the recipe has it.
        unarchive: Whether it is a ZIP archive to unpack.
    """

    uri: str
    unarchive: bool

    @property
    def is_image(self) -> bool:
        """Whether it is a container image, which Docker would pull."""
        return self.uri.lower().startswith("docker:")

    @property
    def file_name(self) -> str:
        """The last part of the URI."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Step:
    """One lifecycle script.

    Attributes:
        script: With its variables still in it.
        environment: The step's `Setenv`, with variables.
        timeout: In seconds.
        timeout_is_integer: Whether the recipe has it as a number, not as text. The classic nucleus takes such a step for changed at a rollback.
        skip_if: When the step is skipped: `onpath PROGRAM` or `exists FILE`, with variables. Lite ignores it.
    """

    script: str
    environment: Mapping[str, str]
    timeout: float
    timeout_is_integer: bool = False
    skip_if: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What of a recipe concerns this machine.

    Attributes:
        name: The component's name.
        version: Its version.
        defaults: `DefaultConfiguration`.
        dependencies: The components it depends on, each with the versions that will do (`>=1.0.0 <2.0.0`, "" for any).
        environment: The `Setenv` of the whole lifecycle, with variables.
        steps: The lifecycle's scripts by name: `install`, `run`, `startup`, `bootstrap`, `shutdown`, `recover`.
        artifacts: The files it needs.
        text: The recipe as it was read.
    """

    name: str
    version: str
    defaults: Mapping[str, Any]
    dependencies: Mapping[str, str]
    environment: Mapping[str, str]
    steps: Mapping[str, Step]
    artifacts: tuple[Artifact, ...]
    text: str


def load_recipe(source: Path | Mapping[str, Any], profile: Profile, *, local: bool = False) -> Recipe:
    """Reads a recipe for a runtime.

    Args:
        source: A `.yaml`, `.yml` or `.json` file, or a recipe already parsed.
        profile: The runtime.
        local: A local deployment. On lite every scalar of a YAML recipe is then a string, default configuration included.

    Raises:
        RecipeError: The runtime would not take it: not parseable, too long, a key missing, no manifest for this machine.
    """
    data, text = _parse(source, strings=local and profile.exact_keys)
    if profile.recipe_limit is not None and len(text.encode()) > profile.recipe_limit:
        raise RecipeError(f"the recipe has {len(text.encode())} bytes, and this runtime reads {profile.recipe_limit}")
    top = _Section(data, exact=profile.exact_keys)
    name, version = top.text("ComponentName"), top.text("ComponentVersion")
    defaults = top.section("ComponentConfiguration").get("DefaultConfiguration") or {}
    if not isinstance(defaults, Mapping):
        raise RecipeError("DefaultConfiguration is not a map")
    manifest, lifecycle = _choose_manifest(top, profile)
    if profile.runtime_required and not lifecycle.keys():
        raise RecipeError("no lifecycle was found for linux: this runtime needs one script at least")
    return Recipe(
        name=name,
        version=version,
        defaults=defaults,
        dependencies=_dependencies(top.section("ComponentDependencies")),
        environment=_environment(lifecycle),
        steps=dict(_steps(lifecycle)),
        artifacts=tuple(_artifacts(manifest)),
        text=text,
    )


class _Section:
    """A map of a recipe, whose keys are case-sensitive on one runtime and not on the other."""

    def __init__(self, data: Mapping[str, Any], *, exact: bool) -> None:
        self._data = data
        self._exact = exact

    def keys(self) -> list[str]:
        return list(map(str, self._data))

    def get(self, key: str) -> Any:
        if self._exact:
            return self._data.get(key)
        return next((value for found, value in self._data.items() if str(found).lower() == key.lower()), None)

    def section(self, key: str) -> _Section:
        value = self.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise RecipeError(f"{key} is not a map")
        return _Section(value or {}, exact=self._exact)

    def sections(self, key: str) -> list[_Section]:
        value = self.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, Mapping) for item in value)):
            raise RecipeError(f"{key} is not a list of maps")
        return [_Section(item, exact=self._exact) for item in value or ()]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value:
            raise RecipeError(f"the recipe has no {key}")
        return value


def _parse(source: Path | Mapping[str, Any], *, strings: bool) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, json.dumps(source)
    try:
        text = source.read_text()
        data = json.loads(text) if source.suffix == ".json" else _parse_yaml(text, strings=strings)
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read the recipe {source}: {error}") from error
    if not isinstance(data, Mapping):
        raise RecipeError(f"the recipe {source} is not a map")
    return data, text


def _parse_yaml(text: str, *, strings: bool) -> Any:
    # Late, so that the command can be asked for its help without it, and says what is missing.
    try:
        import yaml  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RecipeError(f"a recipe in YAML needs {error.name}: pip install pyyaml") from error
    try:
        return yaml.load(text, yaml.BaseLoader if strings else yaml.SafeLoader)  # noqa: S506  BaseLoader makes strings only
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _choose_manifest(top: _Section, profile: Profile) -> tuple[_Section, _Section]:
    """Returns the first manifest for this machine, and its lifecycle."""
    manifests = top.sections("Manifests")
    shared = top.section("Lifecycle")
    if not manifests and shared.keys() and not profile.runtime_required:
        return _without_manifests(shared, exact=profile.exact_keys)
    reasons = []
    for number, manifest in enumerate(manifests, start=1):
        reason = _misfit(manifest, profile)
        if reason is not None:
            reasons.append(f"manifest {number}: {reason}")
            continue
        lifecycle = manifest.section("Lifecycle")
        if not lifecycle.keys():
            lifecycle = _selected(shared, manifest.get("Selections"), lifecycle)
        if lifecycle.keys() or not profile.runtime_required:
            return manifest, lifecycle
        reasons.append(f"manifest {number}: it has no lifecycle, and this runtime needs one script at least")
    raise RecipeError(
        "no manifest of the recipe is for this runtime and machine" + "".join(f"; {reason}" for reason in reasons)
    )


def _without_manifests(shared: _Section, *, exact: bool) -> tuple[_Section, _Section]:
    """Returns what stands for the manifest of a recipe that has none, and the shared lifecycle's part for this machine."""
    empty = _Section({}, exact=exact)
    return empty, _selected(shared, None, empty)


def _selected(shared: _Section, selections: Any, otherwise: _Section) -> _Section:
    for selection in selections if isinstance(selections, list) else ["all"]:
        if selection in ("all", "linux") and shared.get(selection):
            otherwise = shared.section(selection)
    return otherwise


def _misfit(manifest: _Section, profile: Profile) -> str | None:
    """Returns why a manifest is not for this runtime and machine; None if it is."""
    wanted = manifest.section("Platform")
    mine = {"os": "linux", "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine())}
    if profile.runtime_required:
        if manifest.get("Platform") is None:
            raise RecipeError("Platform not provided: this runtime needs one in every manifest")
        return _misfit_on_lite(wanted, mine)
    mine |= {"runtime": "aws_nucleus_classic", "architecture.detail": platform.machine()}
    for key in wanted.keys():  # noqa: SIM118  a section is no mapping
        value, have = wanted.get(key), mine.get(key.lower())
        if not _attribute_fits(value, have):
            return f"{key} is {value!r}, " + (f"here it is {have!r}" if have else "which is unknown here")
    return None


def _misfit_on_lite(wanted: _Section, mine: Mapping[str, str]) -> str | None:
    for key in ("runtime", "os", "architecture"):
        if wanted.get(key) is not None and not isinstance(wanted.get(key), str):
            raise RecipeError(f"Platform {key} is invalid: this runtime takes a string, no list and no map")
    runtime, system, architecture = wanted.get("runtime"), wanted.get("os"), wanted.get("architecture")
    if runtime is None:
        return "Platform has no runtime, so it is for the classic nucleus only"
    if runtime not in ("*", "aws_nucleus_lite"):
        return f"runtime is {runtime!r}, not '*' or 'aws_nucleus_lite'"
    if system not in ("linux", "*", "all"):
        return f"os is {system!r}, not 'linux', 'all' or '*'"
    if architecture not in (None, "", "*", mine["architecture"]):
        return f"architecture is {architecture!r}, here it is {mine['architecture']!r} (no regular expressions on this runtime)"
    return None


def _attribute_fits(wanted: Any, mine: str | None) -> bool:
    """Whether classic takes a platform attribute: a value, `*`, `any`, `all`, `/a regular expression/`, or a list of them."""
    if isinstance(wanted, list):
        return any(_attribute_fits(each, mine) for each in wanted)
    if wanted is None or wanted in ("*", "any", "all"):
        return True
    if not isinstance(wanted, str) or mine is None:
        return False
    if len(wanted) > 1 and wanted[0] == wanted[-1] == "/":
        try:
            return re.fullmatch(wanted[1:-1], mine) is not None
        except re.error as error:
            raise RecipeError(f"{wanted!r} is no regular expression: {error}") from error
    return wanted.lower() == mine.lower()


def _dependencies(section: _Section) -> dict[str, str]:
    names = section.keys()
    return {name: str(section.section(name).get("VersionRequirement") or "") for name in names}


def _environment(section: _Section) -> dict[str, str]:
    values = section.section("Setenv")
    return {key: str(values.get(key)) for key in values.keys()}  # noqa: SIM118  a section is no mapping


def _steps(lifecycle: _Section) -> Iterator[tuple[str, Step]]:
    for name in ("bootstrap", "install", "startup", "run", "shutdown", "recover"):
        found = lifecycle.get(name)
        if found is None:
            continue
        if isinstance(found, str):
            yield name, Step(found, {}, DEFAULT_TIMEOUT)
            continue
        step = lifecycle.section(name)
        if step.get("RequiresPrivilege") in (True, "true"):
            logger.warning("the %s script asks for root; it runs as the current user", name)
        try:
            timeout = float(step.get("Timeout") or DEFAULT_TIMEOUT)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"the Timeout of {name} is no number") from error
        integer = isinstance(step.get("Timeout"), int)
        skip_if = step.get("Skipif")
        yield name, Step(step.text("Script"), _environment(step), timeout, integer, str(skip_if) if skip_if else None)


def _artifacts(manifest: _Section) -> Iterator[Artifact]:
    for entry in manifest.sections("Artifacts"):
        # A lower-case key is written by some tools and read by the classic runtime only.
        yield Artifact(entry.text("Uri"), unarchive=str(entry.get("Unarchive") or "NONE").upper() == "ZIP")


class _UnknownVariableError(Exception):
    """A variable that the runtime does not know."""


@dataclass(frozen=True, slots=True)
class Interpolator:
    """Fills in the variables of one component's scripts.

    Attributes:
        profile: The runtime.
        root: The nucleus's root folder.
        thing_name: The core device's name.
        component: The component's name.
        versions: The version of every deployed component, this one included.
        read: Reads a component's configuration; KeyError where there is nothing.
    """

    profile: Profile
    root: Path
    thing_name: str
    component: str
    versions: Mapping[str, str]
    read: Callable[[str, KeyPath], Any]

    def script(self, recipe: Recipe, step: str) -> tuple[str, dict[str, str]]:
        """Returns a step's script as the shell gets it, and the environment variables that the runtime sets around it.

        On lite, `Setenv` becomes `export` lines without quotes, and the first unknown `{` ends the text: what stands before it runs.
        """
        chosen = recipe.steps[step]
        if not self.profile.cuts_unknown:
            values = {**recipe.environment, **chosen.environment}
            return self._lenient(chosen.script), {key: self._lenient(value) for key, value in values.items()}
        written: list[str] = []
        try:
            for setenv in (recipe.environment, chosen.environment):
                for key, value in setenv.items():
                    written.append(f"export {key}=")
                    written.extend(self._strict(value, escape=True))
                    written.append("\n")
            written.extend(self._strict(chosen.script))
        except _UnknownVariableError as error:
            logger.warning("%s: the %s script is cut off at %s, as on nucleus lite", self.component, step, error)
        return "".join(written), {}

    def is_skipped(self, recipe: Recipe, step: str) -> bool:
        """Whether a step's `Skipif` holds: `onpath PROGRAM` or `exists FILE`. Lite ignores it."""
        condition = recipe.steps[step].skip_if
        if condition is None or self.profile.exact_keys:
            return False
        kind, _, text = self._lenient(condition).strip().partition(" ")
        if kind.lower() == "onpath":
            return shutil.which(text.strip()) is not None
        if kind.lower() == "exists":
            return Path(text.strip()).exists()
        logger.warning("%s: the %s script has a Skipif that is neither onpath nor exists", self.component, step)
        return False

    def _strict(self, text: str, *, escape: bool = False) -> Iterator[str]:
        """Yields the text piece by piece until a brace that lite does not know."""
        end = 0
        for brace in re.finditer(r"\{", text):
            if brace.start() < end:
                continue
            yield _escaped(text[end : brace.start()]) if escape else text[end : brace.start()]
            inside, closed, _ = text[brace.end() :].partition("}")
            if not closed or len(inside) > _LONGEST_VARIABLE:
                raise _UnknownVariableError(f"a brace that is never closed: {text[brace.start() :][:40]!r}")
            namespace, _, key = inside.partition(":")
            yield self._value(self.component, namespace, key)
            end = brace.end() + len(inside) + 1
        yield _escaped(text[end:]) if escape else text[end:]

    def _lenient(self, text: str) -> str:
        """Fills in what is known and leaves the rest as written, as the classic runtime does."""

        def fill(found: re.Match[str]) -> str:
            try:
                return self._value(found[1] or self.component, found[2], found[3])
            except _UnknownVariableError:
                return found[0]

        return _VARIABLE.sub(fill, text)

    def _value(self, component: str, namespace: str, key: str) -> str:
        if namespace == "configuration":
            return self._configured(component, key)
        slash = "/" if self.profile.paths_end_in_slash else ""
        version = self.versions.get(component)
        if (namespace, key) == ("kernel", "rootPath"):
            return str(self.root)
        if (namespace, key) == ("iot", "thingName"):
            return self.thing_name
        if version is not None and (namespace, key) in _PATHS:
            below = _PATHS[namespace, key].format(name=component, version=version)
            return f"{self.root}/{below}{slash}"
        raise _UnknownVariableError(f"{{{namespace}:{key}}}")

    def _configured(self, component: str, pointer: str) -> str:
        try:
            value = self.read(component, parse_pointer(pointer))
        except (KeyError, ValueError):
            raise _UnknownVariableError(f"{{configuration:{pointer}}}") from None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return _escaped(text) if self.profile.cuts_unknown else text


_PATHS: Final[Mapping[tuple[str, str], str]] = {
    ("work", "path"): "work/{name}",
    ("artifacts", "path"): "packages/artifacts/{name}/{version}",
    ("artifacts", "decompressedPath"): "packages/artifacts-unarchived/{name}/{version}",
}


def _escaped(text: str) -> str:
    """Escapes what a shell would read between double quotes, as lite does with values."""
    return re.sub(r'(["\\$`])', r"\\\1", text)


def locate(source: Path) -> tuple[Path, Path | None]:
    """Returns the recipe and the folder of artifacts that a source stands for.

    Args:
        source: A recipe, or a build folder as GDK writes it (`greengrass-build/`, with `recipes/` and `artifacts/`).

    Raises:
        RecipeError: The folder holds no recipe, or more than one.
    """
    if not source.is_dir():
        return source, None
    found = sorted(path for path in (source / "recipes").glob("*") if path.suffix in (".yaml", ".yml", ".json"))
    if len(found) != 1:
        raise RecipeError(f"{source / 'recipes'} holds {len(found)} recipes, one is needed")
    return found[0], source / "artifacts"
