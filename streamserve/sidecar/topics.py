"""That the topics around drift exist, and how many partitions they have."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamserve.config.drift_topics import DriftTopics
from streamserve.config.settings import PipelineSettings
from streamserve.errors import ContractError
from streamserve.kafka.clients import admin_properties
from streamserve.kafka.errors import no_broker
from streamserve.kafka.facts import TIMEOUT_S


def partition_counts(settings: PipelineSettings, topics: DriftTopics) -> Mapping[str, int]:
    """Partitions per topic.

    Raises:
        BrokerUnavailable: nobody answers.
        ContractError: a topic is missing.
    """
    wanted = [topics.samples, topics.reports, topics.alerts, *([topics.labels] if topics.labels else [])]
    try:
        found = AdminClient(admin_properties(settings)).list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as exception:
        raise no_broker(settings.kafka.get("bootstrap.servers", ""), exception) from exception
    missing = [topic for topic in wanted if topic not in found or not found[topic].partitions]
    if missing:
        raise ContractError(
            f"topic {', '.join(missing)} does not exist; create it with `streamserve topics apply`, or mend the names"
            " in the drift block",
            topic=missing[0],
        )
    return {topic: len(found[topic].partitions) for topic in wanted}
