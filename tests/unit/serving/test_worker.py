from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ml_inference.config import Configuration
from ml_inference.delivery.routing import Message, Router
from ml_inference.model.bundle import Model, load_model
from ml_inference.model.location import artifact_model_directory
from ml_inference.monitoring.drift import BLOCK_READINGS, DriftReport
from ml_inference.monitoring.watch import AlarmSettings
from ml_inference.scoring.judgement import Judgement
from ml_inference.scoring.outcomes import Outcome
from ml_inference.scoring.pipeline import Pipeline
from ml_inference.scoring.readings import Decoded
from ml_inference.serving import worker
from ml_inference.serving.control import Control
from ml_inference.serving.counters import Counters, Counts
from ml_inference.serving.intake import Intake
from ml_inference.serving.memory import Memory
from ml_inference.serving.worker import SLICE, SLICED_BYTES, TOGETHER, Worker
from support.clocks import until
from support.models import ABNORMAL, NORMAL, train_small

SECONDS = 120.0


class Bench:
    """A worker with everything around it, and what it handed on."""

    def __init__(self, model: Model, directory: Path, **settings: Any) -> None:
        self.counters = Counters()
        self.intake = Intake(1_000, self.counters)
        self.pipeline = Pipeline(model)
        configuration = Configuration(**settings)
        self.router = Router(configuration, "core", time.monotonic, iter(map(str, range(10_000))).__next__)
        self.local: list[Message] = []
        self.cloud: list[Message] = []
        self.unwanted = 0
        self.published = self.local.append
        self.worker = Worker(
            intake=self.intake,
            pipeline=self.pipeline,
            router=self.router,
            publish=self._publish,
            offer=self._offer,
            memory=Memory(directory, time.monotonic),
            control=Control(directory),
            monotonic=time.monotonic,
        )

    def _publish(self, message: Message) -> None:
        self.published(message)

    def _offer(self, messages: Sequence[Message], unwanted: int) -> None:
        # Called under the counters' lock: whoever reads both sees them of one moment.
        self.cloud += messages
        self.unwanted += unwanted

    def send(self, *documents: Any) -> None:
        for document in documents:
            self.intake.put(document if isinstance(document, bytes) else json.dumps(document).encode())

    def finish(self) -> list[dict[str, Any]]:
        """Work everything off and end; the local messages."""
        self.intake.close()
        assert self.worker.finish(SECONDS)
        return [json.loads(message.payload) for message in self.local]


def with_histograms_only() -> Model:
    """The shipped model without its reference for means over time, which is told in place of the histograms' index."""
    shipped = load_model(artifact_model_directory())
    features = [feature.model_copy(update={"means": None}) for feature in shipped.manifest.features]
    return replace(shipped, manifest=shipped.manifest.model_copy(update={"features": features}))


@pytest.fixture
def bench(model: Model, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(model, tmp_path)
    yield bench
    bench.intake.close()
    bench.worker.finish(SECONDS)


def test_results_leave_in_the_order_in_which_readings_came_and_everything_is_counted(bench: Bench) -> None:
    for number in range(100):
        bench.send((ABNORMAL if number % 2 else NORMAL) | {"correlation_id": number})
    bench.send(b"?", [NORMAL, {}, NORMAL])
    bench.worker.start()
    messages = bench.finish()
    assert [message["correlation_id"] for message in messages[:100]] == list(range(100))
    assert [message.topic for message in bench.local[100:]] == [
        "ml/inference/error",
        "ml/inference/result",
        "ml/inference/error",
    ]
    assert bench.counters.snapshot() == Counts(received=104, scored=102, rejected=2)
    assert sum(message.weight for message in bench.cloud) == 102


def test_messages_that_wait_together_become_what_they_would_have_become_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = load_model(artifact_model_directory())
    documents: list[Any] = [
        (ABNORMAL if number % 3 else NORMAL)
        | {
            "equipment_id": f"cylinder-{number % 5}",
            "timestamp": 1_790_000_000 + 60 * number,
            "wRMSCurrent": 80 + number,
        }
        for number in range(200)
    ]
    documents[50:50] = [b"?", {}, [*documents[:3], {}], b"[]"]
    payloads = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in documents]
    alone = Pipeline(shipped)
    expected = [alone.process(payload) for payload in payloads]
    bench = Bench(shipped, tmp_path)
    together: list[int] = []
    many = bench.pipeline.process_many

    def process_many(payloads: Sequence[bytes]) -> list[Outcome]:
        together.append(len(payloads))
        return many(payloads)

    monkeypatch.setattr(bench.pipeline, "process_many", process_many)
    monkeypatch.setattr(worker, "TOGETHER_SECONDS", SECONDS)
    bench.send(*documents)
    bench.worker.start()
    bench.finish()
    messages = [json.loads(message.payload) for message in bench.local if message.topic == "ml/inference/result"]
    assert max(together) == TOGETHER
    assert [item["score"] for message in messages for item in message.get("results", [message]) if "score" in item] == [
        result.score for outcome in expected for result in outcome.results
    ]
    assert [message["state"] for message in messages if "state" in message] == [
        outcome.results[0].state for outcome in expected if outcome.results and not outcome.batch
    ]
    assert [message.topic for message in bench.local].count("ml/inference/alarm") == sum(
        len(outcome.alarms) for outcome in expected
    )


def test_a_large_message_is_scored_alone_and_slow_ones_one_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    many = bench.pipeline.process_many

    def process_many(payloads: Sequence[bytes]) -> list[Outcome]:
        together.append(len(payloads))
        time.sleep(0.01 * len(payloads))
        return many(payloads)

    monkeypatch.setattr(bench.pipeline, "process_many", process_many)
    bench.send(NORMAL, NORMAL, [NORMAL] * 100, *[NORMAL] * 100)
    bench.worker.start()
    messages = bench.finish()
    results = [item for message in messages for item in message.get("results", [message])]
    assert (len(results), together[0]) == (202, 2)
    assert max(together[2:], default=0) < TOGETHER / 2


def test_what_the_cloud_does_not_want_is_told_with_what_it_wants(tmp_path: Path, model: Model) -> None:
    bench = Bench(model, tmp_path, cloud_publish="abnormal")
    bench.worker.start()
    bench.send(NORMAL, [NORMAL, ABNORMAL, {}], ABNORMAL)
    bench.finish()
    assert (len(bench.cloud), bench.unwanted) == (2, 2)
    assert bench.counters.snapshot().scored == 4


def test_the_books_of_worker_and_cloud_agree_at_every_moment(bench: Bench) -> None:
    bench.worker.start()
    for _ in range(150):
        bench.send([NORMAL, {}, NORMAL])
    while True:
        with bench.counters.lock:
            counts = bench.counters.snapshot()
            assert counts.scored == sum(message.weight for message in bench.cloud)
        assert counts.received == counts.scored + counts.rejected + counts.dropped + counts.queued
        if not counts.queued:
            break
    assert counts.received == 450


def test_an_error_of_ours_rejects_that_message_and_the_next_one_is_scored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode, wanted = bench.pipeline._decoder.decode, bench.router._wanted

    def decode_or_fail(payload: bytes) -> Decoded:
        if payload == b"in scoring":
            raise RuntimeError("a mistake")
        return decode(payload)

    def wanted_or_fail(result: Any) -> bool:
        if result.correlation_id == "in routing":
            raise RuntimeError("a mistake")
        return wanted(result)

    monkeypatch.setattr(bench.pipeline._decoder, "decode", decode_or_fail)
    monkeypatch.setattr(bench.router, "_wanted", wanted_or_fail)
    bench.worker.start()
    bench.send(b"in scoring", [NORMAL, NORMAL | {"correlation_id": "in routing"}], NORMAL)
    first, second, third = bench.finish()
    assert [message["errors"][0]["type"] for message in (first, second)] == ["internal_error"] * 2
    assert "score" in third
    assert bench.counters.snapshot() == Counts(received=3, scored=1, rejected=2)
    assert sum(message.weight for message in bench.cloud) == 1
    assert "2 messages met an internal error; the last" in caplog.text


def test_not_even_a_router_that_always_fails_ends_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def cloud(outcome: Outcome) -> tuple[list[Message], int]:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(bench.router, "cloud", cloud)
    bench.worker.start()
    bench.send(NORMAL, NORMAL)
    assert [message["errors"][0]["type"] for message in bench.finish()] == ["internal_error"] * 2
    assert bench.counters.snapshot() == Counts(received=2, rejected=2)


def test_it_tells_how_far_the_readings_are_from_the_training_data(tmp_path: Path) -> None:
    bench = Bench(with_histograms_only(), tmp_path)
    bench.worker.start()
    bench.send([NORMAL] * (BLOCK_READINGS - 1))
    bench.send(NORMAL)
    assert len(bench.finish()) > 1
    drift = bench.worker.as_message()["drift"]
    assert (drift["readings"], len(drift["largest"])) == (BLOCK_READINGS, 3)
    assert drift["largest"][0]["psi"] > 1  # the same reading each time is nothing like a line


def test_a_model_that_comes_in_while_the_health_message_is_written_takes_nothing_from_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([DriftReport(BLOCK_READINGS, (("a", 0.1),)), None])
    monkeypatch.setattr(Pipeline, "drift", property(lambda _: next(seen)))
    assert bench.worker.as_message()["drift"]["readings"] == BLOCK_READINGS
    assert "drift" not in bench.worker.as_message()


def test_a_challengers_readings_are_not_counted_a_second_time(bench: Bench) -> None:
    model = with_histograms_only()
    bench.pipeline.swap(model)
    bench.worker.challenge(model, Judgement())
    bench.worker.start()
    bench.send([NORMAL] * BLOCK_READINGS)
    bench.finish()
    assert bench.worker._challenger
    assert bench.worker.as_message()["challenger"]["compared"] == BLOCK_READINGS
    assert bench.pipeline.drift
    assert bench.worker._challenger[0].drift is None


def test_a_change_takes_effect_before_the_next_message_and_says_when(bench: Bench, tmp_path: Path) -> None:
    in_use = Event()
    bench.worker.start()
    bench.send(NORMAL)
    until(lambda: bench.local)
    bench.worker.swap(load_model(train_small(tmp_path / "next", version="2.0.0")), in_use.set)
    bench.worker.judge_by(Judgement(threshold=0.0), AlarmSettings())
    bench.send(NORMAL)
    first, second = bench.finish()
    assert in_use.is_set()
    assert (first["model"]["version"], first["abnormal"]) == ("1.0.0", False)
    assert (second["model"]["version"], second["abnormal"]) == ("2.0.0", True)


def test_a_change_is_made_though_no_message_comes(bench: Bench, model: Model) -> None:
    in_use = Event()
    bench.worker.start()
    bench.worker.swap(model, in_use.set)
    assert in_use.wait(SECONDS)


def test_a_change_that_fails_leaves_the_old_in_force_and_the_worker_alive(
    bench: Bench, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def swap(model: Model) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(bench.pipeline, "swap", swap)
    bench.worker.start()
    bench.worker.swap(model, lambda: None)
    bench.send(NORMAL)
    assert "score" in bench.finish()[0]
    assert "what was in force stays" in caplog.text


def test_it_ends_only_after_what_is_queued_and_says_if_that_took_too_long(bench: Bench) -> None:
    go_on = Event()

    def publish_slowly(message: Message) -> None:
        go_on.wait(SECONDS)
        bench.local.append(message)

    bench.published = publish_slowly
    bench.send(NORMAL, NORMAL)
    bench.worker.start()
    bench.intake.close()
    assert not bench.worker.finish(0.05)
    go_on.set()
    assert bench.worker.finish(SECONDS)
    assert len(bench.local) == 2


def test_a_worker_that_never_started_is_finished(bench: Bench) -> None:
    assert bench.worker.finish(0)


def test_health_tells_times_once_there_are_any(bench: Bench) -> None:
    assert bench.worker.as_message() == {"errors_suppressed": 0}
    bench.worker.start()
    bench.send(*[NORMAL] * 50)
    bench.finish()
    latency = bench.worker.as_message()["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] < SECONDS * 1000


def test_a_challenger_scores_in_silence_and_after_the_result_is_out(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = Pipeline.process

    def process(pipeline: Pipeline, payload: bytes) -> Outcome:
        if pipeline is not bench.pipeline:
            seen.append(len(bench.local))
        return original(pipeline, payload)

    monkeypatch.setattr(Pipeline, "process", process)
    bench.worker.challenge(load_model(train_small(tmp_path / "next", version="2.0.0", seed=1)), Judgement())
    bench.worker.start()
    bench.send(NORMAL, ABNORMAL, {}, [NORMAL, {}, ABNORMAL])
    messages = bench.finish()
    assert all(out >= own for out, own in zip(seen, [1, 2, 3, 5], strict=True))  # it may see the results of later ones
    assert {message["model"]["version"] for message in messages if "model" in message} == {"1.0.0"}
    challenger = bench.worker.as_message()["challenger"]
    assert (challenger["compared"], challenger["agreement"], challenger["refused"]) == (4, 1.0, 0)
    assert sum(message.weight for message in bench.cloud) == 4


def test_a_challenger_that_fails_is_switched_off_and_costs_nothing(
    bench: Bench, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = Pipeline.process

    def process(pipeline: Pipeline, payload: bytes) -> Outcome:
        if pipeline is not bench.pipeline:
            raise RuntimeError("a mistake")
        return original(pipeline, payload)

    monkeypatch.setattr(Pipeline, "process", process)
    bench.worker.challenge(model, Judgement())
    bench.worker.start()
    bench.send(NORMAL, NORMAL)
    assert len(bench.finish()) == 2
    assert bench.counters.snapshot() == Counts(received=2, scored=2)
    assert "challenger" not in bench.worker.as_message()
    assert caplog.text.count("is switched off") == 1


def test_the_challenger_is_judged_by_the_same_rules_and_can_be_dismissed(bench: Bench, model: Model) -> None:
    bench.worker.challenge(model, Judgement())
    bench.worker.judge_by(Judgement(threshold=0.0), AlarmSettings())
    bench.worker.start()
    bench.send(NORMAL)
    until(lambda: bench.worker.as_message().get("challenger", {}).get("compared"))
    assert bench.worker.as_message()["challenger"]["agreement"] == 1.0
    bench.worker.challenge(None, Judgement())
    until(lambda: "challenger" not in bench.worker.as_message())


def test_the_health_message_tells_the_median_and_the_99th_percentile_of_the_times(bench: Bench) -> None:
    bench.worker._latencies.extend(number / 1000 for number in range(200, 0, -1))
    assert bench.worker.as_message()["latency_ms"] == {"p50": 101.0, "p99": 199.0}


def test_while_too_much_waits_readings_are_scored_without_reasons_unless_these_are_asked_for(
    model: Model, tmp_path: Path
) -> None:
    bench = Bench(model, tmp_path)
    bench.intake.resize(40)
    bench.send(*[ABNORMAL] * 20, ABNORMAL | {"explain": True}, *[ABNORMAL] * 10)
    bench.worker.start()
    messages = bench.finish()
    explained = [place for place, message in enumerate(messages) if "explanation" in message]
    # From the 21st on no more than a quarter of the queue waits.
    assert set(range(21, 31)) <= set(explained)
    assert not set(range(15)) & set(explained)
    assert bench.counters.snapshot().scored == 31


def test_a_large_batch_gives_way_to_single_readings_of_others_and_not_of_its_own_machines(
    model: Model, tmp_path: Path
) -> None:
    bench = Bench(model, tmp_path)
    count = 10 * SLICE
    batch = [NORMAL | {"equipment_id": "large", "correlation_id": number} for number in range(count)]
    assert len(json.dumps(batch)) > SLICED_BYTES
    bench.send(
        batch, *(NORMAL | {"equipment_id": name, "correlation_id": name} for name in ("other", "large", "third"))
    )
    bench.worker.start()
    messages = bench.finish()
    marks = [message["correlation_id"] for message in messages]
    assert marks[:2] == ["other", "third"]
    assert marks[-1] == "large"
    items = [item for message in messages if "results" in message for item in message["results"]]
    assert [(item["index"], item["correlation_id"]) for item in items] == [(n, n) for n in range(count)]
    assert bench.counters.snapshot() == Counts(received=count + 3, scored=count + 3)


def test_a_challengers_pass_over_a_large_batch_gives_way_to_others(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model, tmp_path)
    count = 4 * SLICE
    batch = [NORMAL | {"equipment_id": "large", "correlation_id": number} for number in range(count)]
    slices: list[int] = []
    original = Pipeline.score_many

    def score_many(pipeline: Pipeline, messages: Sequence[Decoded]) -> list[Outcome]:
        if pipeline is not bench.pipeline and len(messages[0].items) == SLICE:
            slices.append(len(bench.local))
            if len(slices) == 1:  # it comes while the challenger is at work
                bench.send(NORMAL | {"equipment_id": "other", "correlation_id": "other"})
        return original(pipeline, messages)

    monkeypatch.setattr(Pipeline, "score_many", score_many)
    bench.worker.challenge(model, Judgement())
    bench.send(batch)
    bench.worker.start()
    until(lambda: bench.worker.as_message().get("challenger", {}).get("compared") == count + 1)
    bench.finish()
    assert len(slices) == 4
    assert slices[1] == slices[0] + 1
    assert json.loads(bench.local[slices[0]].payload)["correlation_id"] == "other"
