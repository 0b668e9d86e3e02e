"""The booster's columns: a machine's own past, and sensors that a model learns to do without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ml_inference.model.history import History
from ml_inference.workbench.training import TrainingError
from ml_inference.workbench.training.data import load_data
from ml_inference.workbench.training.inputs import WITHHELD_PAST, WITHHELD_SENSOR, Inputs, parse_history, prepare
from ml_inference.workbench.training.operation import operate
from ml_inference.workbench.training.request import Request
from support.tables import wearing, write_csv


def prepared(path: Path, history: str | Sequence[float], **options: object) -> Inputs:
    fixed = {"group": "equipment_id", "time": "timestamp", "features": ("vibration", "current"), "exclude": ()}
    request = Request(path, "faulty", **{**fixed, "history": history, **options})  # type: ignore[arg-type]  # each test names its own
    data = load_data(request, lambda _: None)
    return prepare(request, data, operate(request, data, lambda _: None), lambda _: None)


def test_history_is_windows_of_time_or_a_word() -> None:
    assert parse_history("6h,90s,1h,5min,2d") == (90.0, 300.0, 3_600.0, 21_600.0, 172_800.0)
    assert parse_history("20, 5") == (5.0, 20.0)
    assert (parse_history("auto"), parse_history("none")) == ("auto", "none")
    for text in ("", "1h,,2h", "yes", "0h", "-1h"):
        with pytest.raises(TrainingError, match="neither auto, none nor windows"):
            parse_history(text)


def test_the_past_of_a_table_is_what_a_device_computes_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    columns = wearing(count=3, days=3.0)
    order = np.random.default_rng(0).permutation(len(columns["faulty"]))
    shuffled = write_csv(tmp_path / "shuffled.csv", {name: values[order] for name, values in columns.items()})
    inputs = prepared(shuffled, (3_600.0, 43_200.0))
    assert inputs.plan is not None
    history = History(inputs.plan)
    expected = np.array(
        [
            history.update(str(machine), float(moment), [float(vibration), float(current)])
            for machine, moment, vibration, current in zip(
                *(columns[name] for name in ("equipment_id", "timestamp", "vibration", "current")), strict=True
            )
        ]
    )
    np.testing.assert_allclose(inputs.values[:, 2:], expected[order].astype(np.float32), rtol=1e-5, atol=1e-5)
    assert inputs.names[:2] == ("vibration", "current")
    assert inputs.names[2:] == tuple(one.name for one in inputs.derived)


def test_a_share_of_the_training_rows_lacks_one_sensor_with_its_past_or_the_whole_past(tmp_path: Path) -> None:
    inputs = prepared(write_csv(tmp_path / "a.csv", wearing(count=6)), (3_600.0, 21_600.0), withholdable=("all",))
    rows = np.flatnonzero(np.isfinite(inputs.values).all(axis=1))
    values = inputs.withheld(rows, seed=1)
    assert np.isfinite(inputs.values[rows]).all()
    past = np.array([derived.source == "vibration" for derived in inputs.derived])
    no_past = np.isnan(values[:, 2:]).all(axis=1)
    for column, own in ((0, past), (1, ~past)):
        lacking = np.isnan(values[:, column])
        assert lacking.mean() == pytest.approx(WITHHELD_SENSOR / 2, abs=0.02)
        assert np.isnan(values[lacking][:, 2:][:, own]).all()
        assert np.isfinite(values[lacking & ~no_past][:, 2:][:, ~own]).all()
    assert not np.isnan(values[:, :2]).all(axis=1).any()
    assert no_past.mean() == pytest.approx(WITHHELD_PAST, abs=0.02)
    np.testing.assert_array_equal(inputs.withheld(rows, seed=1), values)


def test_without_machines_or_times_there_is_no_past(tmp_path: Path) -> None:
    columns = wearing(count=2, days=3.0)
    del columns["equipment_id"]
    path = write_csv(tmp_path / "a.csv", columns)
    with pytest.raises(TrainingError, match="--history needs machines and times"):
        prepared(path, (3_600.0,), group=None)
    assert prepared(path, "auto", group=None).derived == ()
    with pytest.raises(TrainingError, match="--withholdable: 'speed' is not among the features"):
        prepared(path, "none", group=None, withholdable=("speed",))
