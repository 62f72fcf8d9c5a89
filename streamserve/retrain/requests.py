"""Who asks for a new model: requests on the alerts topic, and a schedule.

A consumer of the group `<pipeline>.retrain`, so that one of several runners gets a request. It is committed when it was
dealt with; a runner that dies before leaves it to the next one. While a model is trained the consumer is paused and
polled, because training takes longer than a group waits for a silent member. Of requests that wait together the newest
counts: the others asked for the same. One older than `drift.retrain.at_most_every_s` is passed over: where its reason
lasts, the monitor has asked again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException

from streamserve.config.drift_settings import DriftSettings
from streamserve.config.drift_topics import drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.drift.events import RetrainRequest
from streamserve.errors import SourceError
from streamserve.kafka.clients import consumer_properties, with_callbacks
from streamserve.kafka.errors import first_error, source_error
from streamserve.kafka.leaving import leave_group
from streamserve.kafka.reading import partitions_of, silent_logger

POLL_S = 0.2
SETTLE_S = 1.0
"""So long further requests are waited for after one has come."""


class _Kind(msgspec.Struct, frozen=True):
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Train anew.

    Attributes:
        reason: a sentence.
        at_ms: event time of the request, or the wall clock for a schedule.
        version: the version that is to be replaced, as far as the request knows.
        document: the request as it stands on the topic.
    """

    reason: str
    at_ms: int
    version: str = ""
    document: bytes = b"{}"


class Requests:
    """Reads requests; a context manager. For one thread.

    Args:
        settings: the pipeline.
    """

    def __init__(self, settings: PipelineSettings) -> None:
        self._pipeline = settings.pipeline
        self._topic = drift_topics(settings).alerts
        self._oldest_s = (settings.drift or DriftSettings()).retrain.at_most_every_s
        self._properties = {
            **consumer_properties(settings),
            "group.id": f"{settings.pipeline}.retrain",
            "client.id": f"{settings.pipeline}.retrain",
            "auto.offset.reset": "earliest",  # a request may be older than its first runner
        }
        self._consumer: Any = None

    def __enter__(self) -> Self:
        """Join. Raises: BrokerUnavailable, SourceError: the topic does not exist."""
        self._consumer = Consumer(with_callbacks(self._properties, error=lambda _: None, logger=silent_logger()))
        try:
            partitions_of(self._consumer, self._topic)
            self._consumer.subscribe([self._topic])
        except BaseException:
            self._consumer.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        leave_group(self._consumer)

    def next(self, stop: Callable[[], bool], timeout_s: float) -> Request | None:
        """The newest of the requests that have come; None after a time without any. Raises: SourceError."""
        found: Request | None = None
        deadline = time.monotonic() + timeout_s
        while not stop() and time.monotonic() < deadline:
            request = self._poll()
            if request is not None:
                found, deadline = request, time.monotonic() + SETTLE_S
        return found

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Stay in the group while something long is done elsewhere in this thread."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(POLL_S):
                with contextlib.suppress(KafkaException):  # partitions that left meanwhile
                    self._consumer.pause(self._consumer.assignment())
                    self._consumer.poll(0)

        keeper = threading.Thread(target=keep, name="retrain-member", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            self._consumer.resume(self._consumer.assignment())

    def settled(self) -> None:
        """What was read so far is dealt with. Raises: SourceError."""
        try:
            self._consumer.commit(offsets=self._consumer.position(self._consumer.assignment()), asynchronous=False)
        except KafkaException as exception:
            error = first_error(exception)
            if error.code() not in {KafkaError._NO_OFFSET, KafkaError.REBALANCE_IN_PROGRESS}:  # noqa: SLF001
                raise source_error(error, f"committing requests of {self._topic}") from exception

    def _poll(self) -> Request | None:
        message = self._consumer.poll(POLL_S)
        if message is None:
            return None
        if message.error() is not None:
            error = source_error(message.error(), f"reading {self._topic}")
            if isinstance(error, SourceError) and not error.retryable:
                raise error
            return None
        if message.timestamp()[1] < (time.time() - self._oldest_s) * 1000:
            return None
        return request_of(message.value(), self._pipeline)


def request_of(value: bytes | None, pipeline: str) -> Request | None:
    """The request in a record of the alerts topic; None for other records and other pipelines."""
    try:
        if value is None or msgspec.json.decode(value, type=_Kind).kind != RetrainRequest.kind:
            return None
        found = msgspec.json.decode(value, type=RetrainRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if found.pipeline != pipeline:
        return None
    return Request(reason=found.reason, at_ms=found.at_ms, version=found.version, document=value)
