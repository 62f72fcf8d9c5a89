"""How far behind: chunks that wait for us, and records that wait for the workers. Asked of the brokers, now and then.

Owns its clients; blocking, for a thread of its own. An answer is a value; that no broker answers is an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports these without saying so
    AdminClient,
    OffsetSpec,
)

from streamserve.config.settings import PipelineSettings
from streamserve.kafka.clients import Properties, admin_properties, reader_properties
from streamserve.kafka.errors import first_error, source_error
from streamserve.kafka.reading import TopicReader, partitions_of

TIMEOUT_S = 10.0
SMALL_FETCH: Properties = {
    "queued.min.messages": 1,
    "queued.max.messages.kbytes": 1024,
    "fetch.message.max.bytes": 65_536,
}
"""One record is wanted, not what stands behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Chunks that nobody has merged.

    Attributes:
        positions: what was asked about.
        partitions: of the samples topic in which some wait.
        oldest_ms: stamp of the oldest of them; None when none waits or it has no stamp.
    """

    positions: Mapping[int, int]
    partitions: frozenset[int]
    oldest_ms: int | None


@dataclass(slots=True)
class _Known:
    """Positions up to which a partition is known to hold no record for us: markers of transactions take offsets too."""

    empty_to: dict[int, int] = field(default_factory=dict)


class Backlog:
    """Asks how far behind things are.

    Args:
        settings: the pipeline.
        samples: the samples topic.
        group: the sidecars' group.
    """

    def __init__(self, settings: PipelineSettings, samples: str, group: str) -> None:
        self._settings = settings
        self._samples = samples
        self._group = group
        self._known = _Known()
        self._admin: Any = None
        self._inputs: list[ClientPartition] = []

    def chunks(self, positions: Mapping[int, int]) -> Waiting:
        """Whether committed chunks wait.

        Args:
            positions: what is merged, by owned partition. With none the group's committed positions are taken, of all
                partitions: then somebody else should merge them.

        Raises:
            BrokerUnavailable, SourceError
        """
        properties = {**reader_properties(self._settings, group=f"{self._group}.reader"), **SMALL_FETCH}
        with TopicReader(properties, self._samples) as reader:
            extents = reader.extents()
            at = dict(positions) or self._committed(list(extents))
            waiting, stamps = set[int](), list[int]()
            for partition, position in at.items():
                extent = extents[partition]
                begin = max(position, extent.low, self._known.empty_to.get(partition, 0))
                record = next(reader.read({partition: begin}, {partition: extent.high}), None)
                if record is None:
                    self._known.empty_to[partition] = extent.high
                    continue
                waiting.add(partition)
                if record.timestamp_ms >= 0:
                    stamps.append(record.timestamp_ms)
        return Waiting(positions=at, partitions=frozenset(waiting), oldest_ms=min(stamps, default=None))

    def lag(self) -> int | None:
        """Records of the input topics that no worker has committed; None while none has committed anything.

        Raises:
            BrokerUnavailable, SourceError
        """
        try:
            client = self._client()
            if not self._inputs:
                topics = self._settings.input.topics
                self._inputs = [ClientPartition(t, p) for t in topics for p in partitions_of(client, t)]
            committed = self._offsets(self._settings.pipeline, self._inputs)
            ends = self._ends(list(committed))
        except KafkaException as exception:
            raise source_error(first_error(exception), "asking for the workers' lag") from exception
        if not committed:
            return None
        return sum(max(0, ends[place] - position) for place, position in committed.items())

    def _committed(self, partitions: list[int]) -> dict[int, int]:
        try:
            self._client()
            found = self._offsets(self._group, [ClientPartition(self._samples, p) for p in partitions])
        except KafkaException as exception:
            raise source_error(first_error(exception), f"asking for the offsets of {self._group}") from exception
        return {partition: found.get((self._samples, partition), 0) for partition in partitions}

    def _client(self) -> Any:
        if self._admin is None:
            self._admin = AdminClient(admin_properties(self._settings))
        return self._admin

    def _offsets(self, group: str, places: list[ClientPartition]) -> dict[tuple[str, int], int]:
        request = [ConsumerGroupTopicPartitions(group, places)]
        answer = self._admin.list_consumer_group_offsets(request, request_timeout=TIMEOUT_S)
        found = answer[group].result(TIMEOUT_S).topic_partitions
        return {(tp.topic, tp.partition): tp.offset for tp in found if tp.error is None and tp.offset >= 0}

    def _ends(self, places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        if not places:
            return {}
        asked = {ClientPartition(*place): OffsetSpec.latest() for place in places}  # type: ignore[no-untyped-call]  # no types there
        level = IsolationLevel.READ_COMMITTED
        answer = self._admin.list_offsets(asked, isolation_level=level, request_timeout=TIMEOUT_S)
        return {(tp.topic, tp.partition): future.result(TIMEOUT_S).offset for tp, future in answer.items()}
