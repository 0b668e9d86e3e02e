import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_inference.workbench.packaging import archives
from ml_inference.workbench.packaging.archives import read_booster
from ml_inference.workbench.packaging.errors import PackagingError

DATA = Path(__file__).parent / "data"
BOOSTER = (DATA / "sagemaker-3.0.5").read_bytes()


def packed(path: Path, *entries: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry, io.BytesIO(bytes(entry.size)))
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "model.tar.gz"


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("name", ["xgboost-model", "./xgboost-model", "model/booster.ubj"])
def test_the_booster_is_found_among_what_else_sagemaker_packs(archive: Path, name: str, mode: str) -> None:
    packed(
        archive,
        special(".", tarfile.DIRTYPE),
        ("code/inference.py", b"import json\n"),
        ("code/settings.json", b'{"port": 8080}'),
        ("empty", b""),
        (name, BOOSTER),
        mode=mode,
    )
    assert read_booster(archive) == (name.removeprefix("./"), BOOSTER)


def test_several_boosters_are_listed_and_one_is_asked_for(archive: Path) -> None:
    packed(archive, *((f"xgboost-model-{fold}", BOOSTER + bytes([fold])) for fold in range(3)))
    with pytest.raises(PackagingError) as refused:
        read_booster(archive)
    assert str(refused.value) == (
        "archive: holds 3 boosters, choose one with --member: xgboost-model-0, xgboost-model-1, xgboost-model-2"
    )
    assert read_booster(archive, "./xgboost-model-1") == ("xgboost-model-1", BOOSTER + b"\x01")


def test_an_archive_without_a_booster_says_what_it_holds(archive: Path) -> None:
    packed(archive, ("code/inference.py", b"pass"), ("tree.json", b'{"name": "oak"}'))
    with pytest.raises(PackagingError, match=r"holds no booster; it holds code/inference\.py, tree\.json$"):
        read_booster(archive)
    with pytest.raises(PackagingError, match=r"holds no 'xgboost-model'; it holds "):
        read_booster(archive, "xgboost-model")
    with pytest.raises(PackagingError, match=r"holds no booster; it holds no files$"):
        read_booster(packed(archive))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (("../xgboost-model", BOOSTER), "'../xgboost-model' leads out of the archive"),
        (("a/../../b", b""), "leads out of the archive"),
        (("/etc/passwd", b""), "'/etc/passwd' leads out of the archive"),
        (special("xgboost-model", tarfile.SYMTYPE, "/etc/passwd"), "'xgboost-model' is a link"),
        (special("xgboost-model", tarfile.LNKTYPE, "other"), "'xgboost-model' is a link"),
        (special("null", tarfile.CHRTYPE), "'null' is a device or another special file"),
        (special("disk", tarfile.BLKTYPE), "'disk' is a device"),
        (special("pipe", tarfile.FIFOTYPE), "'pipe' is a device"),
    ],
)
def test_an_archive_that_reaches_out_is_refused_as_a_whole(
    archive: Path, entry: tuple[str, bytes] | tarfile.TarInfo, reason: str
) -> None:
    packed(archive, ("xgboost-model-0", BOOSTER), entry)
    with pytest.raises(PackagingError, match=reason):
        read_booster(archive)


def test_an_archive_that_holds_a_name_twice_is_refused(archive: Path) -> None:
    packed(archive, ("xgboost-model", BOOSTER), ("./xgboost-model", b"{}"))
    with pytest.raises(PackagingError, match="holds 'xgboost-model' twice"):
        read_booster(archive)


def test_an_archive_that_explodes_is_refused_before_it_does(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 2_000_000)
    info = tarfile.TarInfo("zeros")
    info.size = 50_000_000
    packed(archive, info)
    assert archive.stat().st_size < 100_000
    with pytest.raises(PackagingError, match="unpacks to more than 2000000 bytes"):
        read_booster(archive)


def test_an_archive_of_too_many_files_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    packed(archive, *((f"file-{number}", b"") for number in range(21)))
    with pytest.raises(PackagingError, match="holds more than 20 files"):
        read_booster(archive)


def test_a_booster_that_is_too_large_is_refused_before_it_is_read(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BOOSTER_BYTES", 1_000)
    packed(archive, ("xgboost-model", BOOSTER))
    with pytest.raises(PackagingError, match="xgboost-model is larger than 1000 bytes"):
        read_booster(archive)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + bytes(50) + content[250:],
        lambda content: gzip.compress(b"no tar at all, but long enough to be taken for one" * 20, mtime=0),
        lambda content: b"\x1f\x8b" + bytes(100),
    ],
)
def test_a_damaged_archive_is_told_so(archive: Path, damage: Callable[[bytes], bytes]) -> None:
    packed(archive, ("xgboost-model", BOOSTER))
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(PackagingError, match=r"archive: model\.tar\.gz is damaged: "):
        read_booster(archive)
