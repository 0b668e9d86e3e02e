"""Signatures of model directories: who vouches for a model, checked on the device.

`manifest.sig` beside the manifest holds an Ed25519 signature (RFC 8032) over the exact bytes of `manifest.json`. The
manifest holds the booster's SHA-256, so the signature covers both. No curve arithmetic is done here: PyNaCl (libsodium)
does it. Of what speaks Ed25519, awscrt 0.36 makes keys but does not verify, and `cryptography` is three times the download.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_inference.logs import escaped
from ml_inference.model.manifest import ModelError, read_file

SIGNATURE_FILE = "manifest.sig"
MAX_SIGNATURE_BYTES = 4_096

_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


class Signature(BaseModel):
    """Content of `manifest.sig`.

    Attributes:
        format: Version of this schema.
        algorithm: Always `ed25519`.
        key_id: `key_id` of the public key, to tell an unknown signer from an altered manifest.
        signature: 64 bytes in base64.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    signature: str


def decode_public_key(text: str) -> bytes:
    """An Ed25519 public key as `TrustedKeys` lists it.

    Args:
        text: Its 32 bytes in base64.

    Raises:
        ValueError: It is something else.
    """
    raw = _decode(text, _KEY_BYTES)
    if raw is None:
        raise ValueError(f"not an Ed25519 public key ({_KEY_BYTES} bytes in base64): {text[:64]!r}")
    return raw


def key_id(public_key: bytes) -> str:
    """Short name of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def check_signature(directory: Path, manifest: bytes, trusted_keys: Sequence[str]) -> str:
    """Check that a trusted key signed a manifest.

    Args:
        directory: Holds `manifest.sig`.
        manifest: The exact bytes of its `manifest.json`.
        trusted_keys: Ed25519 public keys, as for `decode_public_key`.

    Returns:
        The id of the key that signed it.

    Raises:
        ModelError: There is no signature, nobody who is trusted made it, or the manifest was altered since.
    """
    try:
        trusted = {key_id(key): key for key in map(decode_public_key, trusted_keys)}
    except ValueError as error:
        raise ModelError(f"signature: TrustedKeys: {error}") from error
    path = directory / SIGNATURE_FILE
    if not path.exists():
        raise ModelError(f"signature: the model is not signed (no {SIGNATURE_FILE}), and TrustedKeys asks for it")
    try:
        held = Signature.model_validate_json(read_file(path, MAX_SIGNATURE_BYTES, "signature"))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(escaped(part) for part in problem["loc"])
        raise ModelError(f"signature: {SIGNATURE_FILE} cannot be read: {where} {problem['msg']}") from error
    signature = _decode(held.signature, _SIGNATURE_BYTES)
    if signature is None:
        raise ModelError(f"signature: {SIGNATURE_FILE} does not hold {_SIGNATURE_BYTES} bytes in base64")
    if held.key_id not in trusted:
        raise ModelError(
            f"signature: made by key {held.key_id}, which is not one of TrustedKeys ({', '.join(trusted)})"
        )
    if not _verifies(trusted[held.key_id], signature, manifest):
        raise ModelError(f"signature: the manifest was altered after key {held.key_id} signed it")
    return held.key_id


def _verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    # Only a device that trusts keys needs the library, or its 3 MiB of memory.
    try:
        from nacl.exceptions import BadSignatureError  # noqa: PLC0415
        from nacl.signing import VerifyKey  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModelError(f"signature: cannot be checked, {error.name} is not installed") from error
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def _decode(text: str, size: int) -> bytes | None:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == size else None
