"""The messages that the component sends, as types: the one source of `ml-inference schema`.

Types only, without a cost at run time: what is sent is built where it is known, and a test holds every message of a running
component to these. Additions are welcome; what stands here keeps its name and meaning.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

MAX_RECEIVED_CHARACTERS = 512
"""Of the input that an error message repeats."""

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Correlation = Annotated[str | int | None, Field(description="echoed unchanged")]
Index = Annotated[int, Field(description="position in the batch")]


class ModelName(TypedDict):
    """Which model said it."""

    name: str
    version: str


class FieldError(TypedDict):
    """One broken rule: where, which, and in words."""

    loc: list[str | int]
    type: str
    msg: str


class Reason(TypedDict):
    """What one feature contributed."""

    feature: str
    value: float | str | None
    unit: str
    contribution: Annotated[float, Field(description="in the booster's margin, such as log-odds")]


class Result(TypedDict):
    """A scored reading."""

    correlation_id: Correlation
    equipment_id: str
    timestamp: Time
    score: float | list[float]
    threshold: float | None
    abnormal: bool | None
    state: Literal["normal", "abnormal", "off"] | None
    model: ModelName
    explanation: NotRequired[list[Reason]]
    explanation_age_seconds: NotRequired[
        Annotated[float, Field(description="the explanation is of an earlier reading, of the same machine and state")]
    ]
    smoothed_score: NotRequired[Share]
    sensors: NotRequired[
        Annotated[
            dict[str, Literal["stuck", "saturated", "missing", "inconsistent"]],
            Field(description="faulty sensors, and what is wrong with them"),
        ]
    ]
    missing: NotRequired[Annotated[list[str], Field(description="features that the model did without")]]
    forecast_hours: NotRequired[
        Annotated[float, Field(description="the score is of being or becoming abnormal within that time")]
    ]
    index: NotRequired[Index]


class RejectedItem(TypedDict):
    """The place of a rejected reading in its batch's results."""

    index: Index
    correlation_id: Correlation
    equipment_id: str
    error: Annotated[list[FieldError], Field(min_length=1)]


class TooLarge(TypedDict):
    """In place of a single result that no message could hold."""

    correlation_id: Correlation
    equipment_id: str
    error: Annotated[list[FieldError], Field(min_length=1)]
    index: NotRequired[Index]


class Rejected(TypedDict):
    """Of a batch with many rejected readings: how many there are, and how many of them are listed."""

    count: Annotated[int, Field(ge=1)]
    listed: Count


class Batch(TypedDict):
    """The results of a batch, in input order; one part of them where they do not fit one message."""

    correlation_id: Correlation
    results: list[Result | RejectedItem]
    rejected: NotRequired[Rejected]
    part: NotRequired[Annotated[int, Field(ge=1)]]
    parts: NotRequired[Annotated[int, Field(ge=2)]]


class ToCloud(TypedDict):
    """What a result has beside, on its way to AWS IoT Core."""

    thing_name: str
    id: Annotated[str, Field(description="the same in a repeat, by which a consumer can drop it")]
    sequence: NotRequired[
        Annotated[int, Field(ge=1, description="goes on over restarts: a number that never comes was lost")]
    ]


class Probe(TypedDict):
    """What tells, on the classic nucleus, whether the cloud can be reached."""

    thing_name: str
    probe: Literal[True]


class Error(TypedDict):
    """A reading, or a whole message, that was rejected."""

    correlation_id: Correlation
    equipment_id: str
    errors: Annotated[list[FieldError], Field(min_length=1)]
    received: Annotated[str, Field(max_length=MAX_RECEIVED_CHARACTERS)]
    index: NotRequired[Index]


class Alarm(TypedDict):
    """An event of an alarm; `id` joins the events of one alarm, `sequence` counts them. They come at least once."""

    id: str
    sequence: Annotated[int, Field(ge=1)]
    event: Literal["opened", "updated", "closed"]
    kind: Literal["equipment", "sensor", "silence", "drift"]
    equipment_id: str
    sensor: str | None
    opened: Time
    closed: Time | None
    duration_seconds: Annotated[float, Field(ge=0)]
    readings: Count
    score: float | None
    peak_score: float | None
    explanation: list[Reason]
    model: ModelName | None
    reason: NotRequired[Annotated[str, Field(description="what is wrong with a sensor, or how unusual a drift is")]]
    acknowledged: NotRequired[bool]
    thing_name: NotRequired[str]


class HealthModel(TypedDict):
    """The model that scores."""

    name: str
    version: str
    directory: str
    threshold: float | None


class Counters(TypedDict):
    """Readings: received = scored + rejected + dropped + queued."""

    received: Count
    scored: Count
    rejected: Count
    dropped: Count
    queued: Count


class Cloud(TypedDict):
    """Scored readings: scored + carried_over = delivered + waiting + expired + unwanted."""

    delivered: Count
    waiting: Count
    expired: Count
    unwanted: Count
    carried_over: Count
    offline: bool
    lost: NotRequired[
        Annotated[int, Field(ge=1, description="readings that the process before held when it was killed, at most")]
    ]


class Local(TypedDict):
    """Local messages."""

    published: Count
    failed: Count


class Latency(TypedDict):
    """Milliseconds from arrival to publish, of the latest messages."""

    p50: float
    p99: float


class FeatureDrift(TypedDict):
    """How far one feature has moved; which figures there are depends on what the manifest says is usual."""

    feature: str
    psi: NotRequired[Annotated[float, Field(ge=0, description="population stability index")]]
    deviations: NotRequired[Annotated[float, Field(description="from what is usual for the line's mean")]]
    limit: NotRequired[Annotated[float, Field(description="from which that is unusual")]]
    window_seconds: NotRequired[float]


class Drift(TypedDict):
    """The latest readings against the training data: the features that moved the most."""

    readings: NotRequired[Count]
    largest: list[FeatureDrift]


class ChallengerLatency(TypedDict):
    """Milliseconds a message."""

    champion: float | None
    challenger: float | None


class Challenger(TypedDict):
    """What a second model would have said of the same readings."""

    model: ModelName
    compared: Count
    agreement: Share | None
    mean_score_difference: Annotated[float, Field(ge=0)] | None
    refused: Count
    latency_ms: ChallengerLatency


class Alarms(TypedDict):
    """What is known over time."""

    open: Annotated[dict[str, Count], Field(description="open alarms by kind")]
    machines: Annotated[Count, Field(description="that are remembered")]
    silent: Count
    said_false: Annotated[Count, Field(description="alarms that somebody called false")]


class Tally(TypedDict):
    """Alarms against the line's own label."""

    episodes: Count
    noticed: Count
    false_alarms: Count
    machine_weeks: Annotated[float, Field(ge=0)]


class Truth(Tally):
    """The same of the whole line, and of the worst machines by name."""

    worst: dict[str, Tally]


class FeatureRange(TypedDict):
    """A feature of the model: what its sensor can report, and where the training data mostly lay."""

    name: str
    unit: str
    minimum: Annotated[float | None, Field(description="lowest value that is physically possible")]
    maximum: Annotated[float | None, Field(description="highest such value")]
    low: Annotated[float | None, Field(description="below it lay a twentieth of the training data")]
    high: Annotated[float | None, Field(description="above it lay a twentieth of the training data")]


class Health(TypedDict):
    """What the component is doing, with which model, and an accounting that adds up."""

    state: Literal["starting", "running", "stopping"]
    timestamp: Time
    thing_name: str
    component_version: str
    uptime_seconds: float
    model: HealthModel | None
    counters: Counters
    cloud: Cloud | None
    local: Local
    problems: Annotated[dict[str, str], Field(description="a sentence for each; empty when all is well")]
    errors_suppressed: NotRequired[Count]
    explanations_skipped: NotRequired[
        Annotated[Count, Field(description="abnormal results without an explanation, since too much came in")]
    ]
    latency_ms: NotRequired[Latency]
    drift: NotRequired[Drift]
    challenger: NotRequired[Challenger]
    alarms: NotRequired[Alarms]
    truth: NotRequired[Truth]
    features: NotRequired[
        Annotated[
            list[FeatureRange], Field(description="with each model and now and then, in parts if they do not fit")
        ]
    ]
    part: NotRequired[Annotated[int, Field(ge=1, description="of the features")]]
    parts: NotRequired[Annotated[int, Field(ge=1)]]
