"""What librdkafka's statistics say of a worker: whether brokers are up, and how far behind each partition is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from streamserve.batch import TopicPartition
from streamserve.pipeline.assignment import Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaStatistics:
    """What a worker wants of librdkafka's statistics.

    Attributes:
        brokers_up: whether any broker connection is up.
        lag: records between our committed position and the last stable offset, per owned partition; None when
            nothing new is known.
    """

    brokers_up: bool
    lag: dict[TopicPartition, int] | None

    @classmethod
    def parse(cls, text: str, assignment: Assignment) -> KafkaStatistics:
        """Read the client's JSON. The client's own lag knows only commits of the consumer, so ours is computed."""
        statistics = orjson.loads(text)
        lag = {}
        for topic, description in statistics.get("topics", {}).items():
            for number, partition in description.get("partitions", {}).items():
                tp = TopicPartition(topic, int(number))
                behind = _behind(tp, partition, assignment)
                if behind is not None:
                    lag[tp] = behind
        up = any(broker.get("state") == "UP" for broker in statistics.get("brokers", {}).values())
        return cls(brokers_up=up, lag=lag)


def _behind(tp: TopicPartition, statistics: Mapping[str, Any], assignment: Assignment) -> int | None:
    """Records behind the last stable offset, None where it is not known or the partition not ours.

    Offsets that no record has (transaction markers) are no lag: who has fetched to the end and committed all that was
    handed out is at the end.
    """
    end, fetched = statistics.get("ls_offset", -1), statistics.get("next_offset", -1)
    if tp not in assignment.epochs or end < 0:
        return None
    position = assignment.position(tp)
    if fetched >= end and not statistics.get("fetchq_cnt") and not assignment.in_flight([tp]):
        return 0
    if position is None:
        return max(0, end - fetched) if fetched >= 0 else None
    return max(0, int(end - position))
