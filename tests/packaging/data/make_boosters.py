"""How the boosters in this directory were made: `python make_boosters.py`, once with each old xgboost.

They are files that today's xgboost cannot write, so they are kept. Run with Python 3.9 and xgboost 1.6.2 or 1.7.6 with
numpy 1.23, or with Python 3.11 and xgboost 3.0.5; each run writes the files that carry its version.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import xgboost

NAMES = [
    "Air temperature",
    "Process temperature",
    "Rotational speed",
    "Torque Nm",
    "Tool wear min",
    "Inlet pressure",
    "Outlet pressure",
    "Oil level",
    "Flow rate",
    "Vibration X RMS",
    "Vibration Z RMS",
    "Motor current",
    "Load percent",
]


def main(target: Path) -> None:
    version = xgboost.__version__
    random = np.random.RandomState(7)
    rows = random.normal(50.0, 15.0, (600, 13)).round(2).astype(np.float32)
    other = random.normal(50.0, 15.0, (200, 13)).round(2).astype(np.float32)
    wear = ((rows - 50.0) @ np.linspace(2.0, -3.0, 13) + 200.0).astype(np.float32)
    fails = (wear + random.normal(0.0, 80.0, 600) > 200.0).astype(np.float32)
    chance = (random.rand(200) > 0.5).astype(np.float32)

    named = xgboost.DMatrix(rows, label=wear, feature_names=NAMES)
    regression = xgboost.train({"objective": "reg:squarederror", "max_depth": 3, "eta": 0.4}, named, 15)
    if version.startswith("1.6"):
        regression.save_model(str(target / f"regression-{version}.json"))
        with (target / f"regression-{version}.csv").open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([*NAMES, "Remaining life"])
            for row, score in zip(rows[:100], regression.predict(named)[:100]):  # noqa: B905 - new in 3.10
                table.writerow([*map(str, row), str(score)])
        # Evaluated on noise, it stops getting better at once and keeps the rounds that it was patient for.
        stopped = xgboost.train(
            {"objective": "binary:logistic", "max_depth": 3, "seed": 1},
            xgboost.DMatrix(rows, label=fails),
            40,
            evals=[(xgboost.DMatrix(other, label=chance), "noise")],
            early_stopping_rounds=8,
            verbose_eval=False,
        )
        stopped.save_model(str(target / f"stopped-early-{version}.json"))
    if version.startswith("1.7"):
        # What SageMaker's container 1.7-1 writes: the old binary format.
        regression.save_model(str(target / f"sagemaker-{version}"))
        regression.save_model(str(target / f"regression-{version}.ubj"))
    if version.startswith("3.0"):
        # What SageMaker's container 3.0-5 writes: UBJSON, without names and without an extension.
        plain = xgboost.DMatrix(rows, label=wear)
        container = xgboost.train({"objective": "reg:squarederror", "max_depth": 3, "eta": 0.4}, plain, 15)
        (target / f"sagemaker-{version}").write_bytes(bytes(container.save_raw("ubj")))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
