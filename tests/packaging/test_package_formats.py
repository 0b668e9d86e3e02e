import pickle
from pathlib import Path

import numpy as np
import pytest
import xgboost

from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.formats import Kind, kind_of, require_loadable

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    rows = np.arange(40.0).reshape(20, 2)
    return xgboost.train({"max_depth": 1}, xgboost.DMatrix(rows, label=rows[:, 0]), 1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("regression-1.6.2.json", Kind.JSON),
        ("regression-1.7.6.ubj", Kind.UBJSON),
        ("sagemaker-1.7.6", Kind.LEGACY),
        ("sagemaker-3.0.5", Kind.UBJSON),
        ("regression-1.6.2.csv", Kind.UNKNOWN),
    ],
)
def test_files_are_known_by_their_content(name: str, kind: Kind) -> None:
    assert kind_of((DATA / name).read_bytes()) is kind


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol_is_known_without_being_read(booster: xgboost.Booster, protocol: int) -> None:
    head = pickle.dumps(booster, protocol=protocol)
    assert kind_of(head) is Kind.PICKLE
    with pytest.raises(PackagingError, match=r"^model\.pkl: is a Python pickle, which can run anything .*save_model"):
        require_loadable(head, "model.pkl")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "is empty; expected one saved with"),
        (b"PK\x03\x04rest", "is a zip archive; unpack it"),
        (
            b"binf\x00\x00\x00?",
            r"old binary format, which xgboost no longer reads since 3\.1; convert it with xgboost 3\.0\.5",
        ),
        (b"\x00\x00\x00?\x0d\x00", "old binary format"),
        (b'[{"nodeid": 0}]', "is a text dump of trees, for people; save the booster with save_model"),
        (b"booster[0]:\n0:[f0<1]", "is a text dump of trees"),
        (b"<?xml version='1.0'?><Error/>", "is no booster; expected one saved with"),
        (b"\x89HDF\r\n", "is no booster"),
    ],
)
def test_what_xgboost_does_not_load_is_told_apart_and_how_to_convert_it(head: bytes, reason: str) -> None:
    with pytest.raises(PackagingError, match=f"^xgboost-model: .*{reason}") as refused:
        require_loadable(head, "xgboost-model")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_what_xgboost_loads_passes(booster: xgboost.Booster, suffix: str) -> None:
    assert require_loadable(bytes(booster.save_raw(suffix)), "x") is (Kind.JSON if suffix == "json" else Kind.UBJSON)
