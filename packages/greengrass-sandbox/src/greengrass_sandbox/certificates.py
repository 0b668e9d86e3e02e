"""A server certificate for components that ask for one, made by OpenSSL's command on this machine: self-signed, for tests only."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


class CertificateError(Exception):
    """No certificate could be made."""


async def make_certificate(name: str) -> dict[str, Any]:
    """Makes a key pair and a certificate, in PEM, as the event of a certificate update has them.

    Args:
        name: The certificate's common name.

    Raises:
        CertificateError: There is no `openssl` on this machine, or it failed.
    """
    with tempfile.TemporaryDirectory(prefix="greengrass-") as folder:
        key = Path(folder) / "key.pem"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        subject = "/CN=" + re.sub(r"[^\w.-]", "-", name)[:64]
        text = await _openssl("req", "-x509", *curve, "-days", "7", "-subj", subject, "-keyout", str(key), "-out", "-")
        public = await _openssl("pkey", "-in", str(key), "-pubout")
        found = _CERTIFICATE.search(text)
        if found is None:
            raise CertificateError("openssl wrote no certificate")
        return {
            "privateKey": key.read_text(),
            "publicKey": public,
            "certificate": found[0],
            "caCertificates": [found[0]],
        }


async def _openssl(*arguments: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            "openssl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise CertificateError(f"certificates are made by openssl, which is not on PATH: {error}") from error
    output, errors = await process.communicate()
    if process.returncode:
        raise CertificateError(errors.decode(errors="replace").strip())
    return output.decode()
