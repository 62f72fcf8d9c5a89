"""What a worker must know of its topics before it starts: that they exist, partition counts, size limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports these without saying so
    AdminClient,
    ConfigResource,
    ResourceType,
)

from streamserve.config.drift_topics import drift_topics
from streamserve.config.rollout_topics import rollout_topics
from streamserve.config.settings import PipelineSettings
from streamserve.errors import ContractError
from streamserve.kafka.admin import quiet_admin
from streamserve.kafka.clients import producer_properties
from streamserve.kafka.errors import no_broker

TIMEOUT_S = 10.0
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's default of `max.message.bytes`, taken where the broker does not tell."""
MOCK_CLUSTER = "mockCluster"
"""How librdkafka's mock cluster begins its id; it never answers a question about configuration."""
RECORD_OVERHEAD_BYTES = 512
"""More than what a record batch of one record adds to key, value and headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """Facts of the pipeline's topics.

    Attributes:
        partitions: partition count per topic.
        max_bytes: most bytes of key, value and headers of one record, per output topic: what the topic and our own
            producer take.
    """

    partitions: dict[str, int]
    max_bytes: dict[str, int]


def topic_facts(settings: PipelineSettings) -> TopicFacts:
    """Ask the brokers.

    Raises:
        BrokerUnavailable: nobody answers.
        ContractError: a topic is missing, or has no partition.
    """
    admin = quiet_admin(settings)
    outputs = [settings.output.topic, settings.dead_letter.topic]
    keys = "input.topics, output.topic or dead_letter.topic"
    if settings.drift is not None:
        outputs.append(drift_topics(settings).samples)
        keys += " or drift.samples_topic"
    if settings.rollout is not None:
        rollout = rollout_topics(settings)
        outputs += [rollout.control, rollout.shadow]
        keys += " or the names in the rollout block"
    wanted = [*settings.input.topics, *outputs]
    try:
        cluster = admin.list_topics(timeout=TIMEOUT_S)
    except KafkaException as exception:
        raise no_broker(settings.kafka.get("bootstrap.servers", ""), exception) from exception
    found: Any = cluster.topics
    missing = [topic for topic in wanted if topic not in found or not found[topic].partitions]
    if missing:
        raise ContractError(
            f"topic {', '.join(missing)} does not exist; create it with `streamserve topics apply`, or mend {keys}",
            topic=missing[0],
        )
    limits = message_limits(admin, cluster, outputs)
    ours = int(producer_properties(settings)["message.max.bytes"])
    return TopicFacts(
        partitions={topic: len(found[topic].partitions) for topic in wanted},
        max_bytes={topic: min(limit, ours) - RECORD_OVERHEAD_BYTES for topic, limit in limits.items()},
    )


def message_limits(admin: AdminClient, cluster: Any, topics: list[str]) -> dict[str, int]:
    """`max.message.bytes` per topic; the default where we may not ask.

    Args:
        admin: asks.
        cluster: what it said of the cluster's metadata.
        topics: which exist.
    """
    configs = topic_configs(admin, cluster, topics)
    return {name: int(configs[name].get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES)) for name in topics}


def topic_configs(admin: AdminClient, cluster: Any, topics: list[str]) -> dict[str, dict[str, str]]:
    """The configuration per topic, values as text; empty where we may not ask.

    Args:
        admin: asks.
        cluster: what it said of the cluster's metadata.
        topics: which exist.
    """
    configs: dict[str, dict[str, str]] = {topic: {} for topic in topics}
    if str(cluster.cluster_id or "").startswith(MOCK_CLUSTER):
        return configs
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT_S).items():
        try:
            configs[resource.name] = {key: str(entry.value) for key, entry in future.result().items()}
        except KafkaException:
            continue
    return configs
