from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, get_ident

import pytest

from ml_inference.model import manifest
from ml_inference.model.bundle import Model, load_model
from ml_inference.model.location import artifact_model_directory
from ml_inference.model.manifest import ModelCheckDeferredError, ModelError
from ml_inference.serving.last_good import LastGood
from ml_inference.serving.rollout import (
    FIRST_RETRY,
    Loaded,
    ModelSlot,
    Source,
    fingerprint,
    load_checked,
    require_version,
)
from support.models import train_small

SECONDS = 120.0


class Slot:
    """A slot with a loader of its own, and what it was told."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1)
        self.told: list[Loaded] = []
        self.asked: list[tuple[Path, tuple[str, ...]]] = []
        self.threads: set[int] = set()
        self.moment = 0.0
        self.slot = ModelSlot(self.executor, self.told.append, self._load, lambda: self.moment)

    def _load(self, directory: Path, trusted_keys: Sequence[str]) -> Model:
        self.asked.append((directory, tuple(trusted_keys)))
        self.threads.add(get_ident())
        return load_model(directory, trusted_keys=trusted_keys)

    def look(self) -> list[str | None]:
        """Look, wait for what comes of it, and tell the versions loaded so far; None for a failure."""
        self.slot.look()
        return self.versions()

    def versions(self) -> list[str | None]:
        self.executor.submit(lambda: None).result(SECONDS)
        return [loaded.model.manifest.version if loaded.model else None for loaded in self.told]


@pytest.fixture
def slot() -> Iterator[Slot]:
    slot = Slot()
    yield slot
    slot.executor.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {version: train_small(root / version, version=version) for version in ("1.0.0", "2.0.0")}


def test_a_model_that_is_asked_for_is_loaded_once_on_the_loaders_thread(slot: Slot, models: dict[str, Path]) -> None:
    source = Source(models["1.0.0"])
    slot.slot.want(source)
    slot.slot.want(Source(models["1.0.0"]))
    assert slot.look() == ["1.0.0"]
    assert (slot.told[0].source, slot.told[0].problem) == (source, None)
    assert slot.threads.isdisjoint({get_ident()})


def test_another_source_is_loaded_and_none_is_not(slot: Slot, models: dict[str, Path]) -> None:
    slot.slot.want(Source(models["1.0.0"]))
    slot.slot.want(Source(models["2.0.0"]))
    slot.slot.want(None)
    assert slot.look() == ["1.0.0", "2.0.0"]
    assert slot.slot.source is None
    slot.slot.want(Source(models["2.0.0"]))
    assert slot.look() == ["1.0.0", "2.0.0", "2.0.0"]


def test_other_keys_are_another_source(slot: Slot, models: dict[str, Path]) -> None:
    slot.slot.want(Source(models["1.0.0"]))
    slot.slot.want(Source(models["1.0.0"], ("A" * 43 + "=",)))
    assert slot.versions() == ["1.0.0", None]
    assert slot.told[1].problem
    assert slot.told[1].problem.startswith("signature")
    assert slot.asked[1] == (models["1.0.0"], ("A" * 43 + "=",))


def test_a_link_that_turns_to_another_model_is_noticed(slot: Slot, models: dict[str, Path], tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(models["1.0.0"])
    slot.slot.want(Source(link))
    assert slot.look() == ["1.0.0"]
    turned = tmp_path / "turned"
    turned.symlink_to(models["2.0.0"])
    turned.replace(link)
    assert slot.look() == ["1.0.0", "2.0.0"]
    assert slot.look() == ["1.0.0", "2.0.0"]
    # What is loaded is what the link points to, in case that it turns again meanwhile.
    assert slot.asked[1][0] == models["2.0.0"]
    assert slot.told[1].source.directory == link


def test_a_manifest_that_is_written_again_is_another_model(slot: Slot, models: dict[str, Path], tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(models["1.0.0"], directory)
    slot.slot.want(Source(directory))
    assert slot.look() == ["1.0.0"]
    for file in models["2.0.0"].iterdir():
        shutil.copy(file, directory)
    assert slot.look() == ["1.0.0", "2.0.0"]


def test_a_model_that_is_missing_for_a_moment_is_not_asked_for_until_it_is_back(
    slot: Slot, models: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(models["1.0.0"], directory)
    slot.slot.want(Source(directory))
    slot.look()
    directory.rename(tmp_path / "away")
    assert slot.look() == ["1.0.0"]
    shutil.copytree(models["2.0.0"], directory)
    assert slot.look() == ["1.0.0", "2.0.0"]


def test_a_model_that_was_not_there_yet_is_loaded_when_it_comes(
    slot: Slot, models: dict[str, Path], tmp_path: Path
) -> None:
    slot.slot.want(Source(tmp_path / "later"))
    assert slot.versions() == [None]
    assert slot.told[0].problem
    assert "cannot read" in slot.told[0].problem
    assert slot.look() == [None]
    shutil.copytree(models["1.0.0"], tmp_path / "later")
    assert slot.look() == [None, "1.0.0"]


def test_a_refused_model_is_not_tried_again_until_it_changes(
    slot: Slot, models: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(models["1.0.0"], directory)
    good = (directory / "manifest.json").read_bytes()
    (directory / "manifest.json").write_bytes(good[:-30])
    slot.slot.want(Source(directory))
    assert slot.look() == [None]
    assert slot.look() == [None]
    (directory / "manifest.json").write_bytes(good)
    assert slot.look() == [None, "1.0.0"]


def test_a_model_that_the_machine_was_too_busy_to_check_is_tried_again_after_a_while(
    slot: Slot, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = slot.slot._load

    def too_busy(directory: Path, trusted_keys: Sequence[str]) -> Model:
        raise ModelCheckDeferredError("booster: checking it took longer than 120 seconds")

    monkeypatch.setattr(slot.slot, "_load", too_busy)
    slot.slot.want(Source(models["1.0.0"]))
    assert slot.versions() == [None]
    assert slot.told[0].problem == "booster: checking it took longer than 120 seconds; it is tried again"
    assert slot.told[0].deferred
    slot.moment = 0.4 * FIRST_RETRY
    assert slot.look() == [None]
    slot.moment = FIRST_RETRY
    assert slot.look() == [None, None]
    # The pauses grow.
    slot.moment += 0.9 * FIRST_RETRY
    assert slot.look() == [None, None]
    monkeypatch.setattr(slot.slot, "_load", load)
    slot.moment += 1.1 * FIRST_RETRY
    assert slot.look() == [None, None, "1.0.0"]
    slot.moment += 100 * FIRST_RETRY
    assert slot.look() == [None, None, "1.0.0"]


def test_an_error_of_ours_in_loading_is_a_reason_and_not_the_end(
    slot: Slot, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(directory: Path, trusted_keys: Sequence[str]) -> Model:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(slot.slot, "_load", mistaken)
    slot.slot.want(Source(models["1.0.0"]))
    assert slot.versions() == [None]
    assert slot.told[0].problem == "ZeroDivisionError: a mistake"
    assert "loading" in caplog.text


def test_one_load_runs_at_a_time_and_the_asking_thread_does_not_wait(models: dict[str, Path]) -> None:
    go_on, told = Event(), list[Loaded]()

    def slow(directory: Path, trusted_keys: Sequence[str]) -> Model:
        go_on.wait(SECONDS)
        return load_model(directory, trusted_keys=trusted_keys)

    with ThreadPoolExecutor(1) as executor:
        slots = [ModelSlot(executor, told.append, slow, time.monotonic) for _ in range(2)]
        for slot, path in zip(slots, models.values(), strict=True):
            slot.want(Source(path))
        assert told == []
        go_on.set()
    assert [loaded.source.directory for loaded in told] == list(models.values())


@pytest.mark.parametrize("path", ["/nowhere", "/dev/null", "/a\0b", "/" + "x" * 5_000])
def test_what_is_no_directory_has_no_fingerprint(path: str) -> None:
    assert fingerprint(Path(path)) is None


def test_a_loop_of_links_has_no_fingerprint(slot: Slot, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert fingerprint(tmp_path / "a") is None
    slot.slot.want(Source(tmp_path / "a"))
    assert slot.look() == [None]


def test_a_fingerprint_tells_a_replaced_manifest_of_the_same_size_and_time(
    models: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(models["1.0.0"], directory)
    manifest_file = directory / manifest.MANIFEST_FILE
    before, status = fingerprint(directory), manifest_file.stat()
    copy = directory / "copy"
    copy.write_bytes(manifest_file.read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(manifest_file)
    assert fingerprint(directory) != before


def test_the_models_directory_of_the_artifact_is_in_the_repository_or_in_the_package() -> None:
    assert artifact_model_directory() in (
        Path(__file__).parents[3] / "artifacts" / "model",
        Path(manifest.__file__).parents[1] / "_model",
    )


def test_a_model_from_elsewhere_is_first_opened_in_a_child_process(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[Path] = []

    def load_verified(directory: Path, *, trusted_keys: Sequence[str]) -> Model:
        verified.append(directory)
        return load_model(directory, trusted_keys=trusted_keys)

    monkeypatch.setattr("ml_inference.serving.rollout.load_verified", load_verified)
    assert load_checked(models["1.0.0"], ()).manifest.version == "1.0.0"
    assert verified == [models["1.0.0"]]
    monkeypatch.setattr("ml_inference.serving.rollout.artifact_model_directory", lambda: models["2.0.0"])
    assert load_checked(models["2.0.0"], ()).manifest.version == "2.0.0"
    assert verified == [models["1.0.0"]]
    with pytest.raises(ModelError):
        load_checked(models["2.0.0"].parent, ())


def test_what_was_last_good_stands_in_for_a_first_model_only(models: dict[str, Path], tmp_path: Path) -> None:
    last_good = LastGood(tmp_path / "last-good")
    last_good.keep_model(load_model(models["1.0.0"]))
    told: list[Loaded] = []
    with ThreadPoolExecutor(1) as executor:
        slot = ModelSlot(executor, told.append, lambda path, _: load_model(path), lambda: 0.0, last_good)
        slot.want(Source(models["2.0.0"]))
        slot.want(Source(tmp_path / "nothing"))
    assert [loaded.model.manifest.version if loaded.model else None for loaded in told] == ["2.0.0", None]


def test_a_model_older_than_the_configuration_allows_is_refused_wherever_it_lies(
    slot: Slot, models: dict[str, Path]
) -> None:
    slot.slot.want(Source(models["1.0.0"], minimum_version="1.1"))
    slot.slot.want(Source(models["2.0.0"], minimum_version="1.1"))
    assert slot.versions() == [None, "2.0.0"]
    assert slot.told[0].problem == "version: 1.0.0 is older than MinimumModelVersion 1.1"


@pytest.mark.parametrize(
    ("version", "minimum", "allowed"),
    [
        ("1.10.0", "1.9", True),
        ("1.9.9", "1.10", False),
        ("2.0", "2.0.0", True),
        ("1.0.0-rc1", "1.0.0", True),
        ("1", "", True),
    ],
)
def test_versions_compare_by_their_numbers(version: str, minimum: str, allowed: bool) -> None:
    if allowed:
        require_version(version, minimum)
    else:
        with pytest.raises(ModelError, match="is older than"):
            require_version(version, minimum)


def test_a_link_that_leads_nowhere_beside_the_model_does_not_stop_the_watch(slot: Slot, tmp_path: Path) -> None:
    directory = train_small(tmp_path / "model")
    (directory / "dangling").symlink_to(tmp_path / "nowhere")
    slot.slot.want(Source(directory))
    train_small(tmp_path / "next", version="2.0.0")
    for path in (tmp_path / "next").iterdir():
        path.replace(directory / path.name)
    assert slot.look() == ["1.0.0", "2.0.0"]
