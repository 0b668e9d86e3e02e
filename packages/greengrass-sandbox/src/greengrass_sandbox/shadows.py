"""Named and unnamed shadows of things, as the shadow manager keeps them on the device: documents with versions, merged and compared.

They live in memory and are synchronised with no cloud. Errors are of this module; how a component hears of them is the operations' business.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from typing import Any, Final

MAX_DOCUMENT_BYTES: Final = 8 * 1024
"""The default size limit of a shadow document."""


class ShadowError(Exception):
    """A shadow document that cannot be taken: no JSON, no object, a wrong version, too large."""


class ShadowConflictError(ShadowError):
    """The version given is not that of the shadow."""


class Shadows:
    """The shadows of all things on one device; "" names a thing's unnamed shadow."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, str], dict[str, Any]] = {}
        self._versions: dict[tuple[str, str], int] = {}  # survive a deletion, as versions do

    def get(self, thing: str, shadow: str) -> dict[str, Any]:
        """Returns a document with its version; KeyError if there is none."""
        return self._answer((thing, shadow))

    def update(self, thing: str, shadow: str, payload: bytes) -> dict[str, Any]:
        """Merges `{"state": {"desired": ..., "reported": ...}, "version": ...}`; null deletes a key.

        Returns:
            The accepted part, with the new version.

        Raises:
            ShadowConflictError: The document has another version.
            ShadowError: It is no such document.
        """
        key, request = (thing, shadow), _parse(payload)
        state = request.get("state")
        if not isinstance(state, Mapping) or not set(state) <= {"desired", "reported"}:
            raise ShadowError("Invalid JSON: state must be an object with desired or reported")
        version, wanted = self._versions.get(key, 0), request.get("version")
        if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int)):
            raise ShadowError("Invalid version")
        if wanted is not None and wanted != version:
            raise ShadowConflictError("Version conflict")
        merged = copy.deepcopy(self._documents.get(key, {}))
        for part, change in state.items():
            value = _merge(merged.get(part, {}), change)
            if value:
                merged[part] = value
            else:
                merged.pop(part, None)
        if len(json.dumps(merged).encode()) > MAX_DOCUMENT_BYTES:
            raise ShadowError("The payload exceeds the maximum size")
        self._documents[key] = merged
        self._versions[key] = version + 1
        token = {"clientToken": request["clientToken"]} if isinstance(request.get("clientToken"), str) else {}
        return {"state": dict(state), "version": version + 1, "timestamp": int(time.time())} | token

    def delete(self, thing: str, shadow: str) -> dict[str, Any]:
        """Deletes a document and returns its version; KeyError if there is none."""
        key = (thing, shadow)
        del self._documents[key]
        self._versions[key] += 1
        return {"version": self._versions[key] - 1, "timestamp": int(time.time())}

    def names(self, thing: str) -> list[str]:
        """Returns the names of a thing's named shadows, sorted."""
        return sorted(shadow for owner, shadow in self._documents if owner == thing and shadow)

    def _answer(self, key: tuple[str, str]) -> dict[str, Any]:
        state = copy.deepcopy(self._documents[key])
        desired, reported = state.get("desired"), state.get("reported")
        if desired is not None and reported is not None and (delta := _delta(desired, reported)):
            state["delta"] = delta
        return {"state": state, "version": self._versions[key], "timestamp": int(time.time())}


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        request = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ShadowError("Invalid JSON") from error
    if not isinstance(request, dict):
        raise ShadowError("Invalid JSON: not an object")
    return request


def _merge(old: Any, change: Any) -> Any:
    if not isinstance(change, Mapping):
        return change
    merged = dict(old) if isinstance(old, Mapping) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _delta(desired: Any, reported: Any) -> Any:
    """Returns what is desired and not reported so."""
    if not isinstance(desired, Mapping) or not isinstance(reported, Mapping):
        return None if desired == reported else desired
    found = {key: _delta(value, reported[key]) if key in reported else value for key, value in desired.items()}
    return {key: value for key, value in found.items() if value is not None} or None
