"""What a reading costs from bytes to bytes, beside what users copy from samples, compared in one run.

    python benchmarks/pipeline.py [--model DIR] [--rounds 2] [--seconds 2] [--pace 100]

Every contestant gets the JSON of a reading (or a batch) and gives the JSON of its score, with the same booster; their scores are
compared first. Ours also validates, debounces and encodes the whole result message. The samples' way is `json.loads`, a
matrix and a prediction, as it stands there with XGBoost's default threads, and with one for comparison. Each runs in a
process of its own, because OpenMP decides on its threads once; the rounds go through all of them in turn, and the best
median of the rounds is shown. The last table is the one that counts on a gateway: messages at a sensor's pace, with the
share of one core that the process takes, and caches that others have used meanwhile. Default threads wait by spinning:
what they cost depends on what else the cores have to do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCHES = (1, 8, 32, 128, 1024)
HOT_SECONDS = 0.5
WARM_UP = 50
DEFAULT_THREADS = ", default threads"

Handler = Callable[[bytes], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="model directory (default: the one that is shipped)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contestant at a sensor's pace")
    parser.add_argument("--pace", type=float, default=100.0, help="messages per second of that")
    parser.add_argument("--contestant", choices=sorted(CONTESTANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        print(json.dumps(run(arguments)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.rounds):
        for name, results in rounds.items():
            results.append(in_a_process(name))
    show(rounds, arguments.pace)


# In the parent.


def in_a_process(contestant: str) -> dict[str, Any]:
    """Run one contestant with the threads that it would have."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    if not contestant.endswith(DEFAULT_THREADS):
        environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, __file__, *sys.argv[1:], "--contestant", contestant]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def show(rounds: dict[str, list[dict[str, Any]]], pace: float) -> None:
    def best(name: str, *path: str) -> dict[str, float]:
        held = []
        for result in rounds[name]:
            for key in path:
                result = result[key]  # noqa: PLW2901 - one step down
            held.append(result)
        return min(held, key=lambda figures: figures["median"])

    scores = [result["score"] for results in rounds.values() for result in results]
    assert max(scores) - min(scores) < 1e-5, scores  # they are contestants in the same race
    first = rounds["ours"][0]
    print(f"model {first['model']}, xgboost {first['xgboost']}, {os.cpu_count()} cores; times in microseconds")

    ours = best("ours", "hot", "1")["median"]
    print(f"\n{'one reading after another':52} {'median':>8} {'p99':>8}   times ours")
    for name in CONTESTANTS:
        figures = best(name, "hot", "1")
        print(f"{name:52} {figures['median']:8.0f} {figures['p99']:8.0f} {figures['median'] / ours:12.2f}")

    print(f"\n{'ours, in batches of':52} {'median':>8} {'each':>8}   readings per second")
    for batch in BATCHES:
        median = best("ours", "hot", str(batch))["median"]
        print(f"{batch:52} {median:8.0f} {median / batch:8.1f} {1e6 * batch / median:21,.0f}")

    ours = best("ours", "paced")["median"]
    print(f"\n{f'at {pace:g} readings per second':52} {'median':>8} {'p99':>8}   times ours   share of a core")
    for name in CONTESTANTS:
        figures = best(name, "paced")
        print(
            f"{name:52} {figures['median']:8.0f} {figures['p99']:8.0f} {figures['median'] / ours:12.2f}"
            f" {figures['core']:16.0%}"
        )


# In a contestant's process.


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    import xgboost  # noqa: PLC0415 - only in the child, whose environment says how many threads

    from ml_inference.model.bundle import load_model  # noqa: PLC0415
    from ml_inference.model.location import artifact_model_directory  # noqa: PLC0415

    model = load_model(arguments.model or artifact_model_directory())
    # The one that looks most like normal operation: an alarm is explained, too, which is a work of its own.
    golden = min(model.manifest.golden, key=lambda golden: float(golden.score))  # type: ignore[arg-type]
    reading = golden.reading | {"equipment_id": "cylinder-7", "timestamp": "2026-11-22T03:15:00.120Z"}
    handle = CONTESTANTS[arguments.contestant](model)
    payload = json.dumps(reading).encode()
    batches = BATCHES if arguments.contestant == "ours" else BATCHES[:1]
    return {
        "model": f"{model.manifest.name} {model.manifest.version}",
        "xgboost": xgboost.__version__,
        "score": json.loads(handle(payload))["score"],
        "hot": {
            str(batch): hot(handle, payload if batch == 1 else json.dumps([reading] * batch).encode())
            for batch in batches
        },
        "paced": paced(handle, payload, arguments.pace, arguments.seconds),
    }


def hot(handle: Handler, payload: bytes) -> dict[str, float]:
    """Times of calls one after another, in microseconds."""
    for _ in range(WARM_UP):
        handle(payload)
    times = []
    end = time.perf_counter() + HOT_SECONDS
    while (began := time.perf_counter()) < end:
        handle(payload)
        times.append(time.perf_counter() - began)
    return figures_of(times)


def paced(handle: Handler, payload: bytes, pace: float, seconds: float) -> dict[str, float]:
    """Times of calls at a pace, in microseconds, and the share of one core that the process takes with them."""
    times = []
    began, used = time.perf_counter(), time.process_time()
    for number in range(int(pace * seconds)):
        time.sleep(max(0.0, began + number / pace - time.perf_counter()))
        start = time.perf_counter()
        handle(payload)
        times.append(time.perf_counter() - start)
    return figures_of(times) | {"core": (time.process_time() - used) / (time.perf_counter() - began)}


def figures_of(times: list[float]) -> dict[str, float]:
    times.sort()
    return {"median": 1e6 * statistics.median(times), "p99": 1e6 * times[len(times) * 99 // 100]}


def ours(model: Any) -> Handler:
    """The component's way: everything between the IPC callback and the publish."""
    from ml_inference.config import Configuration  # noqa: PLC0415
    from ml_inference.delivery.routing import Router  # noqa: PLC0415
    from ml_inference.scoring.pipeline import Pipeline  # noqa: PLC0415

    pipeline = Pipeline(model)
    router = Router(Configuration(), "core", time.monotonic, str)

    def handle(payload: bytes) -> bytes:
        return b"".join(message.payload for message in router.results(pipeline.process(payload)))

    return handle


def ours_with_default_threads(model: Any) -> Handler:
    """The same without `nthread=1`."""
    handle = ours(model)
    model.scorer._booster.set_param({"nthread": 0})  # noqa: SLF001 - undoes what the scorer did
    return handle


def matrix(model: Any) -> Handler:
    import numpy as np  # noqa: PLC0415
    import xgboost  # noqa: PLC0415

    booster = xgboost.Booster(model_file=booster_file(model))
    names = list(model.manifest.feature_names)

    def handle(payload: bytes) -> bytes:
        reading = json.loads(payload)
        row = np.array([[reading[name] for name in names]])
        score = booster.predict(xgboost.DMatrix(row, feature_names=booster.feature_names))[0]
        return json.dumps({"score": float(score)}).encode()

    return handle


def classifier(model: Any) -> Handler:
    import numpy as np  # noqa: PLC0415
    import xgboost  # noqa: PLC0415

    learner = xgboost.XGBClassifier()
    learner.load_model(booster_file(model))
    names = list(model.manifest.feature_names)

    def handle(payload: bytes) -> bytes:
        reading = json.loads(payload)
        row = np.array([[reading[name] for name in names]])
        return json.dumps({"score": float(learner.predict_proba(row)[0, 1])}).encode()

    return handle


def booster_file(model: Any) -> Path:
    path: Path = model.directory / model.manifest.booster.file
    return path


CONTESTANTS: dict[str, Callable[[Any], Handler]] = {
    "ours": ours,
    f"ours{DEFAULT_THREADS}": ours_with_default_threads,
    "json, DMatrix, predict": matrix,
    f"json, DMatrix, predict{DEFAULT_THREADS}": matrix,
    "json, XGBClassifier.predict_proba": classifier,
    f"json, XGBClassifier.predict_proba{DEFAULT_THREADS}": classifier,
}


if __name__ == "__main__":
    main()
