"""What XGBoost imports and nobody uses stays out, and whoever uses it never notices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Union

import pytest

from ml_inference.lean import hidden, postponed

SERVED = """
import json, sys
from pathlib import Path
from ml_inference.lean import keep_xgboost_lean

keep_xgboost_lean()
from ml_inference.model.bundle import load_model

model = load_model(Path(sys.argv[1]))
rows = [[1.0] * len(model.manifest.column_names)] * 20
model.scorer.score(rows)
model.scorer.score(rows[:1])
model.scorer.contributions(rows)
loaded = [name for name in ("scipy._lib", "scipy.sparse._csr", "scipy.special._ufuncs", "numpy.random.mtrand", "sklearn")
          if name in sys.modules]

import numpy as np
import scipy.sparse
import xgboost

named = scipy.sparse.csr_matrix
table = named(np.eye(3, len(model.manifest.column_names), dtype=np.float32))
print(json.dumps({
    "loaded": loaded,
    "sparse": xgboost.DMatrix(table).num_row(),
    "instance": isinstance(table, named) and isinstance(table, xgboost.compat.scipy_csr),
    "softmax": xgboost.sklearn.softmax(np.zeros(2)).tolist(),
    "random": np.random.default_rng(0).integers(10, size=3).tolist(),
    "tree": __import__("sklearn.tree").tree.DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]).predict([[1.0]]).tolist(),
}))
"""


def test_scoring_and_explaining_load_no_scipy_and_it_is_there_for_whoever_uses_it(model_directory: Path) -> None:
    """In a process of its own; this one has imported all of it."""
    done = subprocess.run(
        [sys.executable, "-c", SERVED, str(model_directory)], check=True, capture_output=True, text=True, timeout=120
    )
    said = json.loads(done.stdout)
    assert said == {
        "loaded": [],
        "sparse": 3,
        "instance": True,
        "softmax": [0.5, 0.5],
        "random": [8, 6, 5],
        "tree": [1],
    }


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that counts how often it is loaded, with a module that needs it."""
    folder = tmp_path / "heavy"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import builtins\nbuiltins.loads = getattr(builtins, 'loads', 0) + 1\n"
        "class Table(list): pass\nclass Other: pass\ndef function(x): return x + 1\nfrom heavy.part import VALUE\n"
    )
    (folder / "part.py").write_text("import heavy\nVALUE = heavy.function(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "heavy"
    for name in [name for name in sys.modules if name.split(".")[0] == "heavy"]:
        del sys.modules[name]
    if hasattr(__builtins__, "loads"):  # as a module, or as its dictionary
        del __builtins__.loads


@pytest.fixture
def heavy(package: str) -> Any:
    with postponed({package: frozenset({"Table", "function"})}):
        import heavy  # type: ignore[import-not-found] # noqa: PLC0415
    return heavy


def is_loaded(module: Any) -> bool:
    return "Other" in vars(module)


def test_names_that_are_only_imported_and_asked_about_load_nothing(heavy: Any) -> None:
    from heavy import Table, function  # noqa: PLC0415

    assert Optional[Union[Table, int]] is not None  # noqa: UP007, UP045 - as XGBoost's annotations do
    assert not isinstance([], Table)
    assert not issubclass(list, Table)
    assert function is not None
    assert not is_loaded(heavy)


@pytest.mark.parametrize(
    ("use", "result"),
    [
        ("heavy.function(1)", 2),
        ("heavy.Other.__name__", "Other"),
        ("heavy.Table.__name__", "Table"),
        ("type('Own', heavy.Table.__mro_entries__(()), {})().count(1)", 0),
        ("isinstance(heavy.Table(), heavy.Table)", True),
        ("heavy.VALUE", 2),
        ("__import__('heavy.part').part.VALUE", 2),
        ("int | heavy.Table == heavy.Table | int", True),
        ("heavy.Table[int].__origin__ is heavy.Table", True),
    ],
)
def test_any_use_loads_the_module_once_and_gives_what_it_would_have_given(heavy: Any, use: str, result: object) -> None:
    assert eval(use, {"heavy": heavy}) == result
    assert is_loaded(heavy)
    assert type(heavy) is type(sys)
    from heavy import Table  # noqa: PLC0415

    assert Table is vars(heavy)["Table"]


def test_a_name_that_was_kept_from_before_stands_for_the_real_one(heavy: Any) -> None:
    kept = heavy.Table
    table = kept()
    assert is_loaded(heavy)
    assert isinstance(table, kept)
    assert issubclass(heavy.Table, kept)
    assert not isinstance([], kept)


def test_a_name_that_does_not_exist_is_an_attribute_error_as_ever(heavy: Any) -> None:
    with pytest.raises(AttributeError, match="no attribute 'wrong'"):
        _ = heavy.wrong
    with pytest.raises(ImportError):
        exec("from heavy import wrong")


def test_a_module_that_fails_to_load_fails_whenever_it_is_used(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "__init__.py").write_text("raise OSError('no memory')\n")
    with postponed({package: frozenset({"Table"})}):
        import heavy  # noqa: PLC0415
    for _ in range(2):
        with pytest.raises(OSError, match="no memory"):
            heavy.Table()


def test_a_module_that_is_not_installed_is_an_import_error_as_ever() -> None:
    with postponed({"no_such_module": frozenset()}), pytest.raises(ModuleNotFoundError):
        __import__("no_such_module")


def test_a_hidden_package_is_hidden_for_that_time_only(package: str) -> None:
    with hidden(package), pytest.raises(ModuleNotFoundError):
        __import__(package)
    with hidden("json"):  # imported already
        assert __import__("json") is json
    assert is_loaded(__import__(package))
