"""The data is neither too easy nor hopeless: a booster on machines and episodes that training never saw."""

import numpy as np
import pytest
import xgboost as xgb
from sklearn.metrics import average_precision_score, roc_auc_score

from sensor_simulator import LABEL, SENSORS, Fleet

PUBLISHED = [69.71, 89.42, 50.58, 106.94, 107.94, 25.88]


@pytest.mark.slow
def test_a_booster_is_good_but_not_perfect_on_unseen_machines() -> None:
    rows = list(Fleet(machines=60, seed=7).rows(seconds=21 * 86_400, step=1_800))
    features = np.array([[row[sensor] for sensor in SENSORS] for row in rows], dtype=np.float32)
    labels = np.array([row[LABEL] for row in rows], dtype=np.float32)
    unseen = np.array([int(str(row["equipment_id"]).split("-")[1]) % 4 == 0 for row in rows])
    booster = xgb.train(
        {"objective": "binary:logistic", "max_depth": 5, "eta": 0.1, "min_child_weight": 5, "nthread": 2, "seed": 1},
        xgb.DMatrix(features[~unseen], labels[~unseen]),
        150,
    )
    scores = booster.inplace_predict(features[unseen])
    assert 0.93 < roc_auc_score(labels[unseen], scores) < 0.985
    assert 0.65 < average_precision_score(labels[unseen], scores) < 0.95
    assert booster.inplace_predict(np.array([PUBLISHED], dtype=np.float32))[0] < 0.05
    # No single sensor tells it: the distance from its median is a poor score.
    for column in features[unseen].T:
        assert roc_auc_score(labels[unseen], abs(column - np.median(column))) < 0.8
