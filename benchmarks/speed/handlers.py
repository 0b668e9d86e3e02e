"""From the bytes of a message to the bytes of its result, without IPC: a process for each way, which measures itself on demand.

    python -m speed.handlers WAY MODEL

For each line on its standard input, a number of readings in a message, it handles messages of that size for a while and answers
with the medians in microseconds as JSON. Imports nothing that its way does not need.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

SECONDS = 0.4
Handler: TypeAlias = Callable[[bytes], object]


def main() -> None:
    """Run the program."""
    way, model = sys.argv[1], Path(sys.argv[2])
    handle, of = WAYS[way](model)
    from speed.readings import KNOWN_SECONDS, MACHINES, Line  # noqa: PLC0415 - numpy is imported with the number of threads that the way sets

    line = Line()
    if way == "ours":
        for batch in line.batches(KNOWN_SECONDS * MACHINES // 20, 20):
            handle(of(batch))
    print("ready", flush=True)
    for size in map(int, sys.stdin):
        messages = line.messages(200) if size == 1 else line.batches(40, size)
        work = [of(message) for message in messages]
        took, used, count = [], time.process_time(), 0
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            for one in work:
                began = time.perf_counter()
                handle(one)
                took.append(time.perf_counter() - began)
                count += 1
            paused = time.process_time()
            work = [of(message) for message in (line.messages(200) if size == 1 else line.batches(40, size))]
            used += time.process_time() - paused
        cpu = (time.process_time() - used) / count
        print(json.dumps({"median": 1e6 * statistics.median(took), "cpu": 1e6 * cpu}), flush=True)


def bare(directory: Path) -> tuple[Callable[[Any], object], Callable[[bytes], Any]]:
    """Nothing but XGBoost's prediction of an array that is there already."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import numpy as np  # noqa: PLC0415

    from ml_inference.model.bundle import load_model, parse_booster  # noqa: PLC0415

    manifest = load_model(directory).manifest
    booster = parse_booster((directory / manifest.booster.file).read_bytes())
    booster.set_param({"nthread": 1})
    columns = len(manifest.column_names)

    def of(message: bytes) -> Any:
        document = json.loads(message)
        rows = document if isinstance(document, list) else [document]
        matrix = np.full((len(rows), columns), np.nan, dtype=np.float32)
        matrix[:, : len(manifest.feature_names)] = [[row[name] for name in manifest.feature_names] for row in rows]
        return matrix

    return booster.inplace_predict, of


def ours(directory: Path) -> tuple[Handler, Callable[[bytes], bytes]]:
    """The component's way: everything between the IPC callback and the publish."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from ml_inference.lean import keep_xgboost_lean  # noqa: PLC0415

    keep_xgboost_lean()
    from ml_inference.config import Configuration  # noqa: PLC0415
    from ml_inference.delivery.routing import Router  # noqa: PLC0415
    from ml_inference.model.bundle import load_model  # noqa: PLC0415
    from ml_inference.scoring.pipeline import Pipeline  # noqa: PLC0415

    pipeline = Pipeline(load_model(directory))
    router = Router(Configuration(), "core", time.monotonic, str)
    return lambda payload: [message.payload for message in router.results(pipeline.process(payload))], bytes


def usual(directory: Path) -> tuple[Handler, Callable[[bytes], bytes]]:
    """What is usual on a server: a pandas table and scikit-learn's interface, with its defaults."""
    import pandas as pd  # type: ignore[import-untyped] # noqa: PLC0415
    import xgboost  # noqa: PLC0415

    learner = xgboost.XGBClassifier()
    learner.load_model(next(directory.glob("booster.*")))
    names = learner.get_booster().feature_names

    def handle(payload: bytes) -> bytes:
        document = json.loads(payload)
        readings: Sequence[dict[str, Any]] = document if isinstance(document, list) else [document]
        scores = learner.predict_proba(pd.DataFrame(readings)[names])[:, 1]
        results = [
            reading | {"score": float(score), "abnormal": bool(score >= 0.5)}
            for reading, score in zip(readings, scores, strict=True)
        ]
        return json.dumps(results).encode()

    return handle, bytes


WAYS: dict[str, Callable[[Path], tuple[Callable[[Any], object], Callable[[bytes], Any]]]] = {
    "bare": bare,
    "ours": ours,
    "usual": usual,
}


if __name__ == "__main__":
    main()
