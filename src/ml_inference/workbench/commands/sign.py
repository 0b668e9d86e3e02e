"""`ml-inference sign`: vouch for a model directory, or make the key pair to do so; on a developer's machine.

The private key is a PKCS#8 PEM file that `openssl` reads, too; it never goes to a device. The public key goes into the
component's `TrustedKeys`.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ml_inference.model.manifest import ModelError, read_manifest_bytes
from ml_inference.model.trust import SIGNATURE_FILE, Signature, check_signature, key_id
from ml_inference.model.verification import verify_in_child

KEYGEN = "keygen"
PRIVATE_KEY_FILE = "model-signing.pem"
PUBLIC_KEY_FILE = "model-signing.pub"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "target", metavar="DIR|keygen", help="the model directory to sign; or the word keygen, to make a key pair"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="the private key to sign with")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where keygen writes the key pair")


def run(arguments: argparse.Namespace) -> int:
    """Sign, or make a key pair; 0 when it is done, else 1 with the reason."""
    try:
        if arguments.target == KEYGEN:
            _make_keys(arguments.out)
        else:
            _sign(Path(arguments.target), arguments.key)
    except ModelError as error:
        print(f"ml-inference sign: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ml-inference sign: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _make_keys(out: Path | None) -> None:
    if out is None:
        raise ModelError("keygen needs --out DIR")
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    public = base64.b64encode(raw).decode("ascii")
    out.mkdir(parents=True, exist_ok=True)
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Nobody else may read it, not even for the moment before a chmod; and a key that exists is never overwritten.
    with os.fdopen(os.open(out / PRIVATE_KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    (out / PUBLIC_KEY_FILE).write_text(public + "\n", encoding="ascii")
    print(f"{out / PRIVATE_KEY_FILE}: private key {key_id(raw)}; keep it secret, and keep it")
    print(f"{out / PUBLIC_KEY_FILE}: its public key; in the component's configuration:")
    print(json.dumps({"TrustedKeys": [public]}))


def _sign(directory: Path, key: Path | None) -> None:
    if key is None:
        raise ModelError(f"{directory}: needs --key FILE (make one with: ml-inference sign keygen --out DIR)")
    private = _private_key(key)
    # A signature says that a device may trust the model: what a device would refuse is not signed.
    verified = read_manifest_bytes(directory)
    verify_in_child(directory)
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = Signature(key_id=key_id(raw), signature=base64.b64encode(private.sign(verified)).decode("ascii"))
    fresh = directory / f".{SIGNATURE_FILE}.new"
    fresh.write_text(signature.model_dump_json() + "\n", encoding="ascii")
    fresh.replace(directory / SIGNATURE_FILE)
    check_signature(directory, read_manifest_bytes(directory), [base64.b64encode(raw).decode("ascii")])
    print(f"{directory}: signed by key {key_id(raw)}")


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ModelError(f"{path}: is not an unencrypted private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(f"{path}: is not an Ed25519 key")
    return key
