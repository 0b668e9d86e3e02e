"""Takes one booster out of a tar archive that anybody may have made.

Nothing is ever written to disk under a name from the archive, and an archive that tries (paths upwards, links, devices) or
that unpacks without end is refused as a whole: what else it holds is then not worth guessing.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from ml_inference.model.bundle import MAX_BOOSTER_BYTES
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.formats import HEAD_BYTES, looks_like_booster

MAX_MEMBERS = 10_000
MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
"""A SageMaker archive holds a booster of some megabytes and perhaps a script; a bomb of 1 MB unpacks to this."""

_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    head: bytes


def read_booster(archive: Path, wanted: str | None = None) -> tuple[str, bytes]:
    """Read the booster of an archive.

    Args:
        archive: A tar file, compressed with gzip or not.
        wanted: Path of the booster within it; None where there is only one.

    Returns:
        The booster's path in the archive, and its content.

    Raises:
        PackagingError: There is none, or there are several; or the archive is damaged, unsafe or explodes.
    """
    members = [_Member(_clean(info.name), info.size, file.read(HEAD_BYTES)) for info, file in _members(archive)]
    chosen = _choose(members, wanted)
    if chosen.size > MAX_BOOSTER_BYTES:
        raise PackagingError(f"archive: {chosen.name} is larger than {MAX_BOOSTER_BYTES} bytes")
    for info, file in _members(archive):
        if _clean(info.name) == chosen.name:
            return chosen.name, file.read()
    raise PackagingError(f"archive: {archive} changed while it was read")


def _choose(members: list[_Member], wanted: str | None) -> _Member:
    names = [member.name for member in members]
    if wanted is not None:
        named = [member for member in members if member.name == _clean(wanted)]
        if not named:
            raise PackagingError(f"archive: holds no {wanted!r}; it holds {_list(names)}")
        return named[0]
    boosters = [member for member in members if looks_like_booster(member.name, member.head)]
    if not boosters:
        raise PackagingError(f"archive: holds no booster; it holds {_list(names)}")
    if len(boosters) > 1:
        found = _list([member.name for member in boosters])
        raise PackagingError(f"archive: holds {len(boosters)} boosters, choose one with --member: {found}")
    return boosters[0]


def _members(archive: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The files of an archive, each to be read before the next is asked for."""
    seen: set[str] = set()
    try:
        with _opened(archive) as tar:
            for info in tar:
                _refuse_unsafe(info)
                if not info.isfile():
                    continue
                name = _clean(info.name)
                if name in seen:
                    raise PackagingError(f"archive: holds {name!r} twice")
                seen.add(name)
                if len(seen) > MAX_MEMBERS:
                    raise PackagingError(f"archive: holds more than {MAX_MEMBERS} files")
                file = tar.extractfile(info)
                if file is not None:
                    yield info, file
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise PackagingError(f"archive: {archive.name} is damaged: {error}") from error


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        plain = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
        # A stream cannot be sought, so that every byte passes the limit.
        with tarfile.open(fileobj=_Limited(plain), mode="r|") as tar:  # type: ignore[call-overload]
            yield tar


class _Limited:
    """A stream that ends in an error where an honest archive would long have ended."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._room = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._room -= len(data)
        if self._room < 0:
            raise PackagingError(f"archive: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        return data


def _refuse_unsafe(info: tarfile.TarInfo) -> None:
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts:
        raise PackagingError(f"archive: {info.name!r} leads out of the archive")
    if info.issym() or info.islnk():
        raise PackagingError(f"archive: {info.name!r} is a link")
    if not (info.isreg() or info.isdir()) or info.issparse():
        raise PackagingError(f"archive: {info.name!r} is a device or another special file")


def _clean(name: str) -> str:
    return str(PurePosixPath(name))


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(sorted(names)[:_NAMES_SHOWN]) or "no files") + more
