import ctypes
import gc

import pytest

from ml_inference.serving import heap


def test_what_is_loaded_when_it_settles_is_no_longer_looked_through() -> None:
    try:
        heap.settle()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_another_c_library_than_glibc_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    heap.share()
    heap.trim()
