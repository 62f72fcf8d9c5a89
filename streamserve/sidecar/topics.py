"""That the topics around drift exist, how many partitions they have, and how large a record each takes."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamserve.config.drift_topics import DriftTopics
from streamserve.config.settings import PipelineSettings
from streamserve.errors import ContractError
from streamserve.kafka.clients import admin_properties
from streamserve.kafka.errors import no_broker
from streamserve.kafka.facts import RECORD_OVERHEAD_BYTES, TIMEOUT_S, TopicFacts, message_limits


def drift_facts(settings: PipelineSettings, topics: DriftTopics) -> TopicFacts:
    """Ask the brokers. The sizes are what the topics take: the sidecar's producer takes as much.

    Raises:
        BrokerUnavailable: nobody answers.
        ContractError: a topic is missing.
    """
    wanted = [topics.samples, topics.reports, topics.alerts, *([topics.labels] if topics.labels else [])]
    try:
        admin = AdminClient(admin_properties(settings))
        cluster = admin.list_topics(timeout=TIMEOUT_S)
    except KafkaException as exception:
        raise no_broker(settings.kafka.get("bootstrap.servers", ""), exception) from exception
    found = cluster.topics
    missing = [topic for topic in wanted if topic not in found or not found[topic].partitions]
    if missing:
        raise ContractError(
            f"topic {', '.join(missing)} does not exist; create it with `streamserve topics apply`, or mend the names"
            " in the drift block",
            topic=missing[0],
        )
    limits = message_limits(admin, cluster, [topics.samples, topics.reports, topics.alerts])
    return TopicFacts(
        partitions={topic: len(found[topic].partitions) for topic in wanted},
        max_bytes={topic: limit - RECORD_OVERHEAD_BYTES for topic, limit in limits.items()},
    )
