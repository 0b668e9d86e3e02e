"""Local deployments: what `greengrass-cli deployment create` or CreateLocalDeployment asks for, read, put in order, and kept with its status.

It decides what is deployed and in which order, by the recipes it finds; deploying itself is the nucleus's business.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from greengrass_sandbox.profiles import Profile
from greengrass_sandbox.recipe import Recipe, RecipeError, load_recipe
from greengrass_sandbox.versions import satisfies

Status = Literal["QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "CANCELED"]
Policy = Literal["ROLLBACK", "DO_NOTHING"]


class RequestError(ValueError):
    """A request for a local deployment that cannot be read."""


@dataclass(slots=True)
class LocalDeployment:
    """A local deployment and how far it is.

    Attributes:
        status: How far it is.
        error: Why it failed.
        created: When it was asked for, in seconds since 1970.
        id: Its id.
    """

    status: Status = "QUEUED"
    error: str = ""
    created: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def as_answer(self) -> dict[str, Any]:
        """Returns it as GetLocalDeploymentStatus does."""
        answer: dict[str, Any] = {
            "deploymentId": self.id,
            "status": self.status,
            "createdOn": str(int(self.created * 1000)),
        }
        if self.status == "SUCCEEDED":
            answer["deploymentStatusDetails"] = {"detailedDeploymentStatus": "SUCCESSFUL"}
        elif self.status == "FAILED":
            details = {"detailedDeploymentStatus": "FAILED_NO_STATE_CHANGE", "deploymentFailureCause": self.error}
            answer["deploymentStatusDetails"] = details
        return answer


@dataclass(frozen=True, slots=True)
class DeploymentRequest:
    """What a local deployment asks for.

    Attributes:
        add: The version of each component to deploy, by name.
        remove: Names of components to remove.
        configurations: `{"merge": {...}, "reset": [...]}` by component.
        recipes: A folder of recipes; None to look only at what was deployed before.
        artifacts: A folder with `NAME/VERSION/` below it.
        on_failure: What to do about a failure; None for what the runtime does.
    """

    add: Mapping[str, str]
    remove: tuple[str, ...]
    configurations: Mapping[str, Mapping[str, Any]]
    recipes: Path | None
    artifacts: Path | None
    on_failure: Policy | None


def read_request(body: Mapping[str, Any]) -> DeploymentRequest:
    """Reads the body of CreateLocalDeployment.

    Raises:
        RequestError: A field is not what it should be; the message names it.
    """
    add, configurations = body.get("rootComponentVersionsToAdd") or {}, body.get("componentToConfiguration") or {}
    remove = body.get("rootComponentsToRemove") or body.get("rootComponentVersionsToRemove") or []
    policy = body.get("failureHandlingPolicy")
    if not isinstance(add, Mapping) or not all(isinstance(version, str) for version in add.values()):
        raise RequestError("rootComponentVersionsToAdd must be a map of names to versions")
    if not isinstance(remove, list) or not all(isinstance(name, str) for name in remove):
        raise RequestError("rootComponentsToRemove must be a list of names")
    if not isinstance(configurations, Mapping):
        raise RequestError("componentToConfiguration must be a map")
    if policy not in (None, "ROLLBACK", "DO_NOTHING"):
        raise RequestError("failureHandlingPolicy must be ROLLBACK or DO_NOTHING")
    changes = {str(name): _change(value) for name, value in configurations.items()}
    folders = [_folder(body, key) for key in ("recipeDirectoryPath", "artifactsDirectoryPath")]
    return DeploymentRequest(dict(add), tuple(remove), changes, folders[0], folders[1], policy)


def _folder(body: Mapping[str, Any], key: str) -> Path | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{key} must be a path")
    if value and "\0" in value:
        raise RequestError(f"{key} must be a path")
    return Path(value) if value else None


def _change(value: Any) -> dict[str, Any]:
    """Returns `{"MERGE": ..., "RESET": ...}`, its parts or itself written as JSON text or not, with the keys in lower case."""
    given = _parsed(value)
    if not isinstance(given, Mapping):
        raise RequestError("Invalid componentToConfiguration value.")
    change = {str(key).lower(): _parsed(part) for key, part in given.items()}
    merge, reset = change.get("merge", {}), change.get("reset", [])
    if (
        not isinstance(merge, Mapping)
        or not isinstance(reset, list)
        or not all(isinstance(each, str) for each in reset)
    ):
        raise RequestError("Invalid componentToConfiguration value: MERGE is a map, RESET a list of pointers")
    return {"merge": merge, "reset": reset}


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise RequestError("Invalid componentToConfiguration value: no JSON") from None


def find_recipes(folder: Path | None, profile: Profile) -> dict[tuple[str, str], tuple[Path, Recipe]]:
    """Returns the recipes of a folder by name and version.

    Raises:
        RecipeError: One of them cannot be read.
    """
    paths = [] if folder is None else sorted(folder.glob("*"))
    loaded = [
        (path, load_recipe(path, profile, local=True)) for path in paths if path.suffix in (".yaml", ".yml", ".json")
    ]
    return {(recipe.name, recipe.version): (path, recipe) for path, recipe in loaded}


def in_order(
    add: Mapping[str, str], recipes: Mapping[tuple[str, str], tuple[Path, Recipe]], deployed: Mapping[str, str]
) -> Iterator[Path]:
    """Yields the recipes to deploy, each after what it depends on.

    Args:
        add: The versions asked for.
        recipes: What is there.
        deployed: The versions that are deployed.

    Raises:
        RecipeError: A component is nowhere to be found.
    """
    done: set[str] = set()

    def visit(name: str, requirement: str, *, wanted: bool) -> Iterator[Path]:
        if name in done or name.startswith("aws.greengrass."):
            return
        done.add(name)
        found = [version for known, version in recipes if known == name and satisfies(version, requirement)]
        if not found:
            if name in deployed and satisfies(deployed[name], requirement):
                return
            raise RecipeError(f"no recipe of {name} {requirement} was found")
        if not wanted and name in deployed and satisfies(deployed[name], requirement):
            return
        newest = max(
            found, key=lambda version: [int(number) for number in version.split("-")[0].split("+")[0].split(".")]
        )
        path, recipe = recipes[name, newest]
        for other, needed in recipe.dependencies.items():
            yield from visit(other, needed, wanted=False)
        yield path

    for name, version in add.items():
        yield from visit(name, version, wanted=True)
