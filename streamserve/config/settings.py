"""The shape of `streamserve.yaml`: every key, its type, bounds, default and meaning, once.

The JSON Schema, the configuration reference and the linter are made from these models. They hold plain
values: no file is read and no client is made here (`loading` reads files, `lint` checks what a single model
cannot see).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from streamserve.config.base import Dtype, Name, Scalar, Settings, TopicName
from streamserve.config.drift_settings import DriftSettings
from streamserve.config.engine_settings import EngineSettings, HooksSettings, ModelSettings, PaddingSettings
from streamserve.config.rollout_settings import RetrainLoopSettings, RolloutSettings


class InputSettings(Settings):
    """What is read."""

    topics: list[TopicName] = Field(min_length=1)
    """Topics with the events."""
    format: Literal["json", "msgpack", "raw"] = "json"
    """How a record's value is encoded; `raw` is the packed little-endian tensor of the features."""
    id: str | None = None
    """Field with the event id; default `topic-partition-offset`."""
    key: str | None = None
    """Field with the entity key; default the record's key."""
    event_time: str | None = None
    """Field with epoch milliseconds; default the record's timestamp."""
    start: str = "beginning"
    """Where partitions without a committed offset start: `beginning`, `end`, or a time (ISO, epoch ms)."""
    max_record_bytes: int = Field(default=1_048_576, ge=1, le=1 << 30)
    """A larger value is rejected as `too_large`."""


class SequenceSettings(PaddingSettings):
    """A feature that is a list of values, of another length in every event."""

    min_length: int = Field(default=0, ge=0)
    """A shorter one is rejected as `out_of_range`."""
    too_long: Literal["reject", "keep_first", "keep_last"] = "reject"
    """A longer one than `max_length`: rejected as `out_of_range`, or cut."""
    missing: Literal["reject", "empty"] = "reject"
    """A missing one: rejected as `missing_feature`, or an empty sequence."""


class FeatureSettings(Settings):
    """One feature: a field of the event and what it may hold."""

    name: str = Field(min_length=1)
    """Field of the event."""
    dtype: Dtype = "float32"
    """Type in the model; a field of another type is rejected as `schema`."""
    min: float | None = None
    """Smaller values are rejected as `out_of_range`."""
    max: float | None = None
    """Larger values are rejected as `out_of_range`."""
    default: Scalar | None = None
    """Stands in for a missing value; without one, missing is rejected as `missing_feature`."""
    categories: list[str] | None = None
    """The values a string may take. A model input of a number type gets the position in this list."""
    unknown: Literal["reject", "other"] = "reject"
    """A value outside `categories`: rejected as `schema`, or passed as `other` (position: their count)."""
    input: str | None = None
    """The model input it fills; default the model's only input, or the one of its name."""
    sequence: SequenceSettings | None = None
    """Makes it a sequence: the field is an array, and fills a model input of shape [-1, -1] by itself."""


class VectorSettings(Settings):
    """All features in one array field of the event."""

    field: str
    """Field of the event that holds the numbers."""
    size: int = Field(ge=1, le=1 << 20)
    """How many numbers it holds."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type in the model."""
    min: float | None = None
    """Smaller values are rejected as `out_of_range`."""
    max: float | None = None
    """Larger values are rejected as `out_of_range`."""
    input: str | None = None
    """The model input it fills; default the model's only input."""


def features_kind(value: object) -> str:
    """Which of the two shapes of `features` a value has; mistakes are then told for that shape alone."""
    return "vector" if isinstance(value, (dict, VectorSettings)) else "list"


Features = Annotated[
    Annotated[list[FeatureSettings], Field(min_length=1), Tag("list")] | Annotated[VectorSettings, Tag("vector")],
    Discriminator(features_kind),
]


class ThresholdSettings(Settings):
    """A yes-or-no output made from a number."""

    at: float
    """True when the output is at least this."""
    name: str | None = Field(default=None, alias="as")
    """Name of the boolean output; default `<output>_decision`."""


class SoftmaxStep(Settings):
    """Scores to probabilities along the last axis."""

    kind: Literal["softmax"]
    of: str
    """The output it is made from."""


class ArgmaxStep(Settings):
    """The position of the largest value along the last axis, or its label."""

    kind: Literal["argmax"]
    of: str
    """The output it is made from."""
    labels: list[str] | None = None
    """A name per position; default the position itself."""


class TopKStep(Settings):
    """The k largest values of the last axis, the largest first: positions or labels, and the values."""

    kind: Literal["top_k"]
    of: str
    """The output it is made from."""
    k: int = Field(ge=1, le=10_000)
    """How many."""
    labels: list[str] | None = None
    """A name per position; default the position itself."""
    values: str | None = None
    """Name of a further output with the values; default they are left out."""


PostStep = Annotated[SoftmaxStep | ArgmaxStep | TopKStep, Field(discriminator="kind")]


class OutputSettings(Settings):
    """What is written for every event."""

    topic: TopicName
    """Topic of the predictions."""
    format: Literal["json"] = "json"
    """How a prediction is encoded."""
    post: dict[str, PostStep] = Field(default_factory=dict)
    """New outputs made from the model's, in this order: name -> step. A step may build on the one before."""
    outputs: dict[str, str] | None = None
    """Name in the prediction -> output of the model or of `post`; default all under their own names."""
    threshold: dict[str, float | ThresholdSettings] = Field(default_factory=dict)
    """Name in the prediction -> threshold at which its boolean turns true."""

    @property
    def decisions(self) -> dict[str, float]:
        """Output of the model (or of `post`) -> value from which on it means yes."""
        sources = self.outputs or {}
        return {
            sources.get(name, name): threshold if isinstance(threshold, int | float) else threshold.at
            for name, threshold in self.threshold.items()
        }


class DeadLetterSettings(Settings):
    """Where bad records go, and when there are too many of them."""

    topic: TopicName
    """Topic of the dead letters."""
    max_ratio: float = Field(default=0.5, gt=0, le=1)
    """A larger share of rejects stops the worker: a bad deployment must not drain a topic into this one."""
    ratio_window: int = Field(default=1000, ge=1)
    """Records over which the share is taken."""


class DeliverySettings(Settings):
    """What is promised, and how often it is committed."""

    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """`exactly_once`: outputs and offsets in one Kafka transaction."""
    commit_interval_ms: float = Field(default=100, ge=1, le=60_000)
    """Longest time between two commits while there is work."""
    commit_min_interval_ms: float | None = Field(default=None, ge=0, le=60_000)
    """Shortest time between two commits; unset: 5, and 50 for `at_least_once` without `engine.slo_ms`, where a commit
    holds up the reading and readers see predictions before it."""
    producers: int = Field(default=3, ge=1, le=8)
    """Transactional producers in rotation."""
    drain_timeout_s: float = Field(default=25, gt=0, le=3600)
    """How long a stop may take to finish what is in flight."""
    stall_s: float = Field(default=60, gt=0)
    """No progress for so long, with lag and reachable brokers, fails liveness."""

    def min_interval_ms(self, *, goal: bool) -> float:
        """The shortest time between two commits; `goal`: whether one for latency counts to the commit."""
        if self.commit_min_interval_ms is not None:
            return self.commit_min_interval_ms
        hurried = goal or self.guarantee == "exactly_once"
        return min(5.0 if hurried else 50.0, self.commit_interval_ms)


class CacheSettings(Settings):
    """The prediction cache in Redis (or Valkey)."""

    url: str = "redis://localhost:6379/0"
    """Where it is; `rediss://` for TLS, `redis+cluster://` for a cluster."""
    username: str | None = None
    """User of the access control list."""
    password_file: str | None = None
    """File with the password."""
    ttl_s: int = Field(default=86_400, ge=1)
    """Entries vanish so long after their last write."""
    order: Literal["offset", "event_time"] = "offset"
    """What makes a prediction newer than another of its key."""
    timeout_ms: float = Field(default=100, gt=0, le=60_000)
    """Socket timeout."""
    queue_size: int = Field(default=100_000, ge=1)
    """Most entries that wait for a cache that is away; newer ones of a key replace older ones."""


class HttpSettings(Settings):
    """Health, metadata and metrics."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port of slot 0; slot i takes the i-th after it. 0 takes any free one."""


class PipelineSettings(Settings):
    """The whole of `streamserve.yaml`."""

    version: Literal[1] = 1
    """Version of this format."""
    pipeline: Name
    """Names the consumer group, transactional ids, cache keys and the metric label."""
    kafka: dict[str, str | int | float | bool]
    """librdkafka properties, verbatim, against an allow-list; `consumer.` or `producer.` before: one side."""
    kafka_insecure_tls: bool = False
    """Allow TLS to the brokers without verifying who they are. For tests."""
    input: InputSettings
    features: Features
    """The model's inputs: a list of features in the order of its columns, or one vector field."""
    model: ModelSettings
    engine: EngineSettings = EngineSettings()
    hooks: HooksSettings = HooksSettings()
    output: OutputSettings
    dead_letter: DeadLetterSettings
    delivery: DeliverySettings = DeliverySettings()
    cache: CacheSettings | None = None
    """Absent: no cache."""
    drift: DriftSettings | None = None
    """Absent: nothing is sampled, and there is nothing for a sidecar to do."""
    rollout: RolloutSettings | None = None
    """Absent: the model is the one of `model.version` for a worker's life, and is not changed while it runs."""
    retrain: RetrainLoopSettings | None = None
    """Absent: nobody trains; requests to do so still stand on the alerts topic."""
    http: HttpSettings = HttpSettings()
    workers: int = Field(default=1, ge=1, le=256)
    """Worker processes on this machine."""
    state_dir: str | None = None
    """Folder for crash journals; default a folder of this pipeline under the system's temporary one."""
