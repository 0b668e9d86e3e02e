"""The line's figures for Prometheus, by its official client.

What the inference component counts is taken from its health messages; what this page heard itself has `dashboard` in its name. No
figure bears a machine's name but the open alarms, whose number is bounded by nature: a name comes from whoever may publish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from inference_dashboard.line import LATENCY_BUCKETS, Line
from inference_dashboard.messages import number

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_KINDS = ("equipment", "sensor", "silence", "drift")


class Exposition(Collector):
    """Collects at each scrape.

    Args:
        line: What is known.
        own: Figures of this process by name.
        clock: Seconds since 1970.
    """

    def __init__(self, line: Line, own: Callable[[], dict[str, float]], clock: Callable[[], float]) -> None:
        self._line = line
        self._own = own
        self._clock = clock
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: the figures depend on what was heard."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All figures."""
        yield from self._component()
        yield from self._heard()
        yield from self._machines()
        for name, value in self._own().items():
            yield GaugeMetricFamily(f"ml_inference_dashboard_{name}", f"Of the dashboard's process: {name}", value)

    def _component(self) -> Iterator[Metric]:
        health = self._line.health
        up = GaugeMetricFamily("ml_inference_up", "Whether the inference component says that it runs")
        up.add_metric([], float(health is not None and health.state == "running"))
        yield up
        if health is None:
            return
        age = GaugeMetricFamily("ml_inference_health_age_seconds", "Since the last health message")
        age.add_metric([], max(0.0, self._clock() - self._line.health_at))
        yield age
        raw = health.raw
        model = _mapping(raw.get("model"))
        info = InfoMetricFamily("ml_inference_model", "The model in use")
        info.add_metric([], {key: str(model.get(key, "")) for key in ("name", "version")})
        yield info
        version = InfoMetricFamily("ml_inference_component", "The inference component")
        version.add_metric([], {"version": str(raw.get("component_version", "")), "thing_name": health.thing})
        yield version
        counters, cloud, local = (_mapping(raw.get(key)) for key in ("counters", "cloud", "local"))
        for key, text in {
            "received": "Readings that the inference component received",
            "scored": "Readings that it scored",
            "rejected": "Readings that it rejected",
            "dropped": "Readings that it dropped for want of room",
        }.items():
            yield from _counter(f"ml_inference_readings_{key}", text, counters.get(key))
        yield from _gauge("ml_inference_readings_queued", "Readings that wait to be scored", counters.get("queued"))
        for key, text in {
            "delivered": "Results that the nucleus took for the cloud",
            "expired": "Results given up because the outbox was full",
            "unwanted": "Results that CloudPublish keeps local",
        }.items():
            yield from _counter(f"ml_inference_cloud_{key}", text, cloud.get(key))
        yield from _gauge("ml_inference_outbox_waiting", "Results that wait in the outbox", cloud.get("waiting"))
        if isinstance(cloud.get("offline"), bool):
            yield from _gauge(
                "ml_inference_cloud_offline", "Whether the cloud is out of reach", float(cloud["offline"])
            )
        yield from _counter("ml_inference_local_published", "Messages to local topics", local.get("published"))
        yield from _counter("ml_inference_local_failed", "Messages to local topics that failed", local.get("failed"))
        problems = GaugeMetricFamily("ml_inference_problem", "1 for each topic with a problem", labels=["topic"])
        for topic in _mapping(raw.get("problems")):
            problems.add_metric([topic], 1.0)
        yield problems
        latency = GaugeMetricFamily(
            "ml_inference_scoring_latency_seconds", "Latency that the component measured itself", labels=["quantile"]
        )
        for key, quantile in (("p50", "0.5"), ("p99", "0.99")):
            value = number(_mapping(raw.get("latency_ms")).get(key))
            if value is not None:
                latency.add_metric([quantile], value / 1000)
        yield latency
        drift = GaugeMetricFamily("ml_inference_drift_psi", "Population stability index", labels=["feature"])
        largest = _mapping(raw.get("drift")).get("largest")
        for item in largest if isinstance(largest, list) else []:
            value = number(_mapping(item).get("psi"))
            if value is not None:
                drift.add_metric([str(item.get("feature", ""))], value)
        yield drift

    def _heard(self) -> Iterator[Metric]:
        counts = self._line.counts
        received = CounterMetricFamily(
            "ml_inference_dashboard_messages", "Messages that the dashboard heard", labels=["topic"]
        )
        for kind, count in sorted(counts.messages.items()):
            received.add_metric([kind], count)
        yield received
        for name, text, value in (
            ("readings", "Readings that the dashboard heard", counts.readings),
            ("results", "Results that the dashboard heard", counts.results),
            ("abnormal_results", "Results with abnormal true", counts.abnormal),
            ("rejections", "Rejections that the dashboard heard", counts.rejections),
            ("unreadable", "Messages that the dashboard could not read", counts.unreadable),
        ):
            yield from _counter(f"ml_inference_dashboard_{name}", text, value)
        for event, counter in (("opened", counts.opened), ("closed", counts.closed)):
            family = CounterMetricFamily(f"ml_inference_alarms_{event}", f"Alarms {event}", labels=["kind"])
            for kind in dict.fromkeys((*_KINDS, *counter)):
                family.add_metric([kind], counter[kind])
            yield family
        histogram = HistogramMetricFamily(
            "ml_inference_latency_seconds",
            "From a reading on the input topic to its result, as the dashboard heard them",
        )
        total, buckets = 0, []
        for bound, count in zip((*map(str, LATENCY_BUCKETS), "+Inf"), counts.latency, strict=True):
            total += count
            buckets.append((bound, float(total)))
        histogram.add_metric([], buckets, counts.latency_total)
        yield histogram

    def _machines(self) -> Iterator[Metric]:
        moods = Counter(machine.mood for machine in self._line.machines.values())
        machines = GaugeMetricFamily("ml_inference_machines", "Machines by what they show", labels=["state"])
        for mood in dict.fromkeys(("normal", "abnormal", "sensor", "silent", "off", *moods)):
            machines.add_metric([mood], moods[mood])
        yield machines
        alarms = self._line.open_alarms()
        kinds = Counter(alarm.kind for alarm in alarms)
        opened = GaugeMetricFamily("ml_inference_alarms_open", "Open alarms", labels=["kind"])
        for kind in dict.fromkeys((*_KINDS, *kinds)):
            opened.add_metric([kind], kinds[kind])
        yield opened
        since = GaugeMetricFamily(
            "ml_inference_alarm_opened_timestamp_seconds",
            "When an open alarm was opened",
            labels=["equipment_id", "kind", "sensor"],
        )
        seen = set()
        for alarm in alarms:
            labels = (alarm.machine, alarm.kind, alarm.sensor)
            if labels not in seen:  # two alarms of one machine and kind would be one series twice
                seen.add(labels)
                since.add_metric(labels, alarm.opened)
        yield since


def _counter(name: str, text: str, value: Any) -> Iterator[Metric]:
    known = number(value)
    if known is not None:
        yield CounterMetricFamily(name, text, known)


def _gauge(name: str, text: str, value: Any) -> Iterator[Metric]:
    known = number(value)
    if known is not None:
        yield GaugeMetricFamily(name, text, known)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
