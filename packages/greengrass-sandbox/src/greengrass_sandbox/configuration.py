"""A component's configuration: a tree of maps whose leaves know when they were written.

It merges, resets and compares as the runtimes do, and it knows no component, no stream and no clock: times come from the caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greengrass_sandbox.profiles import Profile

KeyPath = tuple[str, ...]


class ConfigurationError(Exception):
    """A value that this runtime cannot store or read."""


class StaleTimestampError(ConfigurationError):
    """A leaf was written later than the change that should replace it."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    value: Any
    time: float


_Node = dict[str, Any]  # values are _Node or _Leaf


class Configuration:
    """The configuration of one component.

    Args:
        profile: Decides what can be stored and how defaults meet older values.
    """

    __slots__ = ("_profile", "_tree")

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._tree: _Node = {}

    def copy(self) -> Configuration:
        """Returns an independent copy, to try a change on or to go back to."""
        twin = Configuration(self._profile)
        twin._tree = _copy(self._tree)
        return twin

    def has(self, path: Sequence[str]) -> bool:
        """Whether there is a value at this path."""
        try:
            self._find(path)
        except KeyError:
            return False
        return True

    def read(self, path: Sequence[str] = ()) -> Any:
        """Returns the value at this path: a map for an inner node.

        Raises:
            KeyError: There is nothing.
            ConfigurationError: There is more than the runtime can read at once.
        """
        value = _plain(self._find(path))
        if self._profile.object_limit is not None and _count(value) > self._profile.object_limit:
            raise ConfigurationError(f"more than {self._profile.object_limit} keys and items")
        return value

    def merge(self, path: Sequence[str], value: Any, time: float) -> list[KeyPath]:
        """Merges a value in: maps key by key, everything else as a whole.

        A leaf that was written later than `time` (seconds) stays as it is.

        Returns:
            The path of every leaf that changed.

        Raises:
            ConfigurationError: The runtime cannot store it. On lite, what came before it in the value is stored.
        """
        changed: list[KeyPath] = []
        self._merge(tuple(path), value, time, changed)
        return changed

    def apply_defaults(self, defaults: Mapping[str, Any]) -> list[KeyPath]:
        """Merges a recipe's DefaultConfiguration, which never replaces what a deployment or the component wrote.

        Returns:
            The path of every leaf that changed.
        """
        if self._profile.defaults_refresh:
            return self.merge((), defaults, 0)
        changed: list[KeyPath] = []
        for path, value in _leaves(defaults):
            if not self.has(path) and not self._blocked(path):
                self._merge(path, value, 0, changed)
        return changed

    def reset(self, pointer: str) -> list[KeyPath]:
        """Removes what a JSON pointer names ("" is everything), so that the recipe's default comes back.

        Returns:
            The path of every leaf that went.

        Raises:
            ValueError: It is no JSON pointer.
        """
        path = parse_pointer(pointer)
        try:
            found = self._find(path)
        except KeyError:
            return []
        gone = [(*path, *below) for below, _ in _leaves(_plain(found))] if isinstance(found, dict) else [path]
        if path:
            parent = self._find(path[:-1])
            del parent[path[-1]]
        else:
            self._tree = {}
        return gone

    def time_of(self, path: Sequence[str]) -> float | None:
        """Returns when the leaf at this path was written; None for a map or nothing."""
        try:
            node = self._find(path)
        except KeyError:
            return None
        return node.time if isinstance(node, _Leaf) else None

    def _find(self, path: Sequence[str]) -> Any:
        node: Any = self._tree
        for key in path:
            if not isinstance(node, dict):
                raise KeyError(key)
            node = node[key]
        return node

    def _blocked(self, path: KeyPath) -> bool:
        """Whether a leaf stands where this path needs a map."""
        return any(self.time_of(path[:length]) is not None for length in range(1, len(path)))

    def _merge(self, path: KeyPath, value: Any, time: float, changed: list[KeyPath]) -> None:
        if isinstance(value, Mapping) and value:
            for key, item in value.items():
                self._merge((*path, str(key)), item, time, changed)
            return
        if not path:
            if value != {}:
                raise ConfigurationError("a whole configuration must be a map")
            return
        parent = self._parent(path)
        old = parent.get(path[-1])
        if isinstance(value, Mapping):
            self._store_empty_map(parent, path, old, changed)
            return
        self._check_leaf(path, value, old)
        if isinstance(old, _Leaf) and old.time > time:
            return
        parent[path[-1]] = _Leaf(value, time)
        if not isinstance(old, _Leaf) or json.dumps(old.value) != json.dumps(value):
            changed.append(path)

    def _parent(self, path: KeyPath) -> _Node:
        node = self._tree
        for depth, key in enumerate(path[:-1], start=1):
            below = node.get(key)
            if not isinstance(below, dict):
                if below is not None and self._profile.leaf_limit is not None:
                    raise ConfigurationError(f"{'/'.join(path[:depth])} is a value, so it cannot hold keys")
                below = node[key] = {}
            node = below
        return node

    def _store_empty_map(self, parent: _Node, path: KeyPath, old: Any, changed: list[KeyPath]) -> None:
        if isinstance(old, dict):
            return
        if old is not None and self._profile.leaf_limit is not None:
            raise ConfigurationError(f"{'/'.join(path)} is a value, so it cannot become a map")
        parent[path[-1]] = {}
        changed.append(path)

    def _check_leaf(self, path: KeyPath, value: Any, old: Any) -> None:
        if self._profile.leaf_limit is None:
            return
        if isinstance(old, dict):
            raise ConfigurationError(f"{'/'.join(path)} is a map, so it cannot become a value")
        if len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > self._profile.leaf_limit:
            raise ConfigurationError(f"{'/'.join(path)} is over {self._profile.leaf_limit} bytes of JSON")


def parse_pointer(pointer: str) -> KeyPath:
    """Returns the keys of a JSON pointer (RFC 6901).

    Raises:
        ValueError: It neither is empty nor begins with a slash.
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise ValueError(f"a JSON pointer begins with a slash: {pointer!r}")
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in pointer[1:].split("/"))


def _leaves(value: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, (*path, str(key)))
        else:
            yield (*path, str(key)), item


def _plain(node: Any) -> Any:
    return {key: _plain(below) for key, below in node.items()} if isinstance(node, dict) else node.value


def _copy(node: _Node) -> _Node:
    return {key: _copy(below) if isinstance(below, dict) else below for key, below in node.items()}


def _count(value: Any) -> int:
    if isinstance(value, Mapping):
        return len(value) + sum(map(_count, value.values()))
    return len(value) + sum(map(_count, value)) if isinstance(value, list) else 0
