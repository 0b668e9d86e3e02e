"""A model of the six sensors alone, without history or alarms: what a plain XGBoost classifier is compared with.

It must never be compared with the shipped model, which looks at 24 hours.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import xgboost

from sensor_simulator import SENSORS
from speed.readings import Line

READINGS = 4_000
TREES = 100


def make(directory: Path) -> Path:
    """Train it and make its model directory.

    Args:
        directory: For everything that is written.

    Returns:
        The model directory; its booster is a file that any XGBoost reads.
    """
    readings = list(Line().rows(READINGS))
    matrix = np.array([[row[name] for name in SENSORS] for row in readings], dtype=np.float32)
    # Rare, and by all sensors: readings of machines that are well are to be normal, and trees to look at all columns.
    unusual = ((matrix - matrix.mean(axis=0)) / matrix.std(axis=0)).sum(axis=1)
    unusual += np.random.default_rng(0).normal(size=len(unusual))
    labels = unusual >= np.quantile(unusual, 0.98)
    data = xgboost.DMatrix(matrix, label=labels, feature_names=list(SENSORS))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 4, "eta": 0.05}, data, TREES)
    booster.save_model(directory / "plain.ubj")
    model = directory / "plain"
    command = [sys.executable, "-m", "ml_inference", "package", str(directory / "plain.ubj"), "--out", str(model)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return model
