"""A small real model for the six sensors, trained in a moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from ml_inference.model.history import Plan
from ml_inference.model.manifest import MANIFEST_FILE, Feature, dump_manifest, read_manifest
from ml_inference.model.over_time import Alarm, Condition, Usual
from ml_inference.workbench.training.history import choose_sequences, default_plan, history_table
from ml_inference.workbench.writer import write_model

SIX = (
    Feature(name="rVibration_Temp", unit="degC", minimum=-40.0, maximum=150.0),
    Feature(name="rVibration_Z_RMS_Velocity", unit="mm/s", minimum=0.0, maximum=500.0),
    Feature(name="rVibration_X_RMS_Velocity", unit="mm/s", minimum=0.0, maximum=500.0),
    Feature(name="wRMSCurrent", unit="A", minimum=0.0, maximum=1000.0),
    Feature(name="wCurrentLoad", unit="%", minimum=0.0, maximum=400.0),
    Feature(name="wEncoderVelocity", unit="RPM"),
)
NORMAL = {
    "rVibration_Temp": 60.0,
    "rVibration_Z_RMS_Velocity": 80.0,
    "rVibration_X_RMS_Velocity": 50.0,
    "wRMSCurrent": 100.0,
    "wCurrentLoad": 100.0,
    "wEncoderVelocity": 25.0,
}
ABNORMAL = NORMAL | {"rVibration_Temp": 110.0, "wRMSCurrent": 180.0, "wCurrentLoad": 180.0}


def train_small(
    directory: Path,
    *,
    name: str = "small",
    version: str = "1.0.0",
    seed: int = 0,
    objective: str = "binary:logistic",
    classes: int | None = None,
    threshold: float | None = 0.5,
    parameters: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model directory whose model knows hot, heavily loaded cylinders from the others."""
    random = np.random.default_rng(seed)
    rows = np.array([list(NORMAL.values())]) * random.uniform(0.6, 1.6, (600, 6))
    heat = rows[:, 0] / 60 + rows[:, 3] / 100 + rows[:, 4] / 100
    label: Any = heat if objective.startswith("reg") else heat > 3.6
    if classes:
        label = np.digitize(heat, np.quantile(heat, [0.5, 0.9])[: classes - 1])
    data = xgboost.DMatrix(rows, label=label, feature_names=[feature.name for feature in SIX])
    settings = {"objective": objective, "max_depth": 3, "nthread": 1, "seed": seed, **(parameters or {})}
    if classes:
        settings["num_class"] = classes
    booster = xgboost.train(settings, data, 12)
    write_model(
        directory,
        booster=bytes(booster.save_raw("ubj")),
        name=name,
        version=version,
        features=SIX,
        rows=rows.astype(np.float32),
        threshold=threshold,
        classes=[f"class-{number}" for number in range(classes)] if classes else None,
        normal_class=0 if classes else None,
    )
    return directory


DAY = 86_400.0
RUNNING = Condition(feature="wRMSCurrent", operator=">", value=20.0)


def machines_with_a_past(machines: int = 4, readings: int = 600, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Readings every ten minutes, some late, some of a machine that stands still; abnormal is one louder than it was.

    Returns:
        Shape (n, 6) values, n numbers of machines, n moments and n labels; by time.
    """
    random = np.random.default_rng(seed)
    usual = random.uniform(0.7, 1.3, machines)
    number = np.tile(np.arange(machines), readings)
    seconds = (
        1.75e9 + np.repeat(600.0 * np.arange(readings), machines) + random.uniform(0.0, 300.0, machines * readings)
    )
    seconds[random.random(len(seconds)) < 0.02] -= 5_000.0
    values = np.array([list(NORMAL.values())]) * random.normal(1.0, 0.03, (len(number), 6))
    age = np.repeat(np.arange(readings) / readings, machines)
    loud = np.where(number % 2 == 0, np.clip((age - 0.6) * 1.5, 0.0, None), 0.0)
    values[:, 1] *= usual[number] * (1.0 + loud)
    values[random.random(len(number)) < 0.1] *= [0.5, 0.03, 0.03, 0.03, 0.02, 0.0]
    return values.round(2), number, seconds, loud > 0.1


def train_with_history(directory: Path, *, name: str = "past", version: str = "1.0.0") -> Path:
    """Write a model directory whose model compares a machine with its own past."""
    values, number, seconds, label = machines_with_a_past()
    names = [feature.name for feature in SIX]
    plan = Plan.of(default_plan(names, [3_600.0 * 4, DAY]), names)
    past = history_table(values, number, seconds, plan, running=values[:, 3] > RUNNING.value)
    columns = [*names, *(one.name for one in plan.derived)]
    data = xgboost.DMatrix(np.hstack([values, past]), label=label, feature_names=columns)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 12)
    machines = np.array([f"cylinder-{one}" for one in number])
    write_model(
        directory,
        booster=bytes(booster.save_raw("ubj")),
        name=name,
        version=version,
        features=SIX,
        rows=values.astype(np.float32),
        threshold=0.5,
        running=[RUNNING],
        derived=plan.derived,
        sequences=choose_sequences(values.astype(np.float32), machines, seconds, label.astype(float), plan),
    )
    return directory


def over_time(directory: Path, *, usual: bool = True, **fields: Any) -> Path:
    """Turn a small model into one that knows of time: an alarm, withholdable sensors, and what is usual for them."""
    manifest = read_manifest(directory)
    features = [
        feature.model_copy(
            update={
                "withholdable": True,
                "usual": Usual(
                    interval_seconds=1.0, lowest=0.0, highest=NORMAL[feature.name] * 2, shares=[0.01], repeat_share=0.01
                )
                if usual
                else None,
            }
        )
        for feature in manifest.features
    ]
    alarm = Alarm(smoothing_seconds=60.0, open_score=0.5, close_score=0.2)
    changed = manifest.model_copy(update={"format": 2, "features": features, "alarm": alarm, **fields})
    (directory / MANIFEST_FILE).write_text(dump_manifest(changed))
    return directory
