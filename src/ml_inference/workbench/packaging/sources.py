"""Brings a source to this machine's disk: a local path, or an object in Amazon S3. It never looks inside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ml_inference.workbench.packaging.archives import MAX_UNPACKED_BYTES
from ml_inference.workbench.packaging.errors import PackagingError

MAX_SOURCE_BYTES = MAX_UNPACKED_BYTES
_CHUNK_BYTES = 1024 * 1024


@contextmanager
def local_file(source: str) -> Iterator[Path]:
    """A source as a local file, for as long as the context lasts.

    Args:
        source: A path, or `s3://bucket/key`.

    Raises:
        PackagingError: It cannot be had, or is larger than `MAX_SOURCE_BYTES`.
    """
    if not source.startswith("s3://"):
        path = Path(source)
        if not path.is_file():
            raise PackagingError(f"{source}: {'is not a file' if path.exists() else 'does not exist'}")
        _refuse_large(source, path.stat().st_size)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ml-inference-") as directory:
        path = Path(directory) / "source"
        _fetch(source, path)
        yield path


def _fetch(source: str, path: Path) -> None:
    try:
        import boto3  # noqa: PLC0415 - only this source needs it
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise PackagingError(
            f"{source}: needs {error.name}: pip install '.[aws]' in a checkout of the repository"
        ) from error
    parts = urlsplit(source, allow_fragments=False)
    bucket, key = parts.netloc, source.removeprefix(f"s3://{parts.netloc}/")
    if not bucket or not key or key == source:
        raise PackagingError(f"{source}: expected s3://bucket/key")
    try:
        answer = boto3.client("s3").get_object(Bucket=bucket, Key=key)
        _refuse_large(source, answer["ContentLength"])
        with path.open("wb") as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                file.write(chunk)
    except (BotoCoreError, ClientError) as error:
        raise PackagingError(f"{source}: cannot be fetched: {' '.join(str(error).split())}") from error


def _refuse_large(source: str, size: int) -> None:
    if size > MAX_SOURCE_BYTES:
        raise PackagingError(f"{source}: is larger than {MAX_SOURCE_BYTES} bytes")
