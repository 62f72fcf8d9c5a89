"""The broker and the cache of a demo: the real ones where they can be had, else stand-ins that say so.

Chooses, starts and ends them, and makes the topics. Real Kafka comes from `local_kafka`, real Redis from
`local_redis`; the stand-ins are librdkafka's mock cluster (`streamserve.kafka.embedded`), on which only
at-least-once is honest, and `streamserve.cache.memory_server`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from streamserve.cache.memory_server import MemoryServer
from streamserve.config.topic_documents import read_topics
from streamserve.demo.kafka_jars import default_jars_dir, ensure_jars, kafka_available, kafka_version
from streamserve.demo.local_kafka import LocalKafka
from streamserve.demo.local_process import LocalServiceError
from streamserve.demo.local_redis import LocalRedis, redis_available
from streamserve.kafka.embedded import EmbeddedKafka

WAKE_TIMEOUT_S = 10.0
Step = Callable[[str], AbstractContextManager[None]]
"""Shows what is being done while the block runs, and how long it took."""
Note = Callable[[str], None]
"""Shows one line."""


class BrokerChoice(StrEnum):
    """Which broker is wanted."""

    AUTO = "auto"
    KAFKA = "kafka"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """What runs.

    Attributes:
        broker, cache: their names for people.
        bootstrap, redis_url: their addresses.
        guarantee: what can be promised on this broker, as `delivery.guarantee` spells it.
    """

    broker: str
    bootstrap: str
    cache: str
    redis_url: str
    guarantee: str

    @property
    def exactly_once(self) -> bool:
        """Whether a duplicate would be a fault."""
        return self.guarantee == "exactly_once"


@contextlib.contextmanager
def backing(choice: BrokerChoice, topics: Path, step: Step, note: Note) -> Iterator[Backing]:
    """Start broker and cache and make the topics; ends them again.

    Args:
        choice: which broker.
        topics: folder of topic documents.
        step: shows what takes a while.
        note: shows what the user should know.

    Raises:
        LocalServiceError: real Kafka was asked for and cannot be had, or a service did not start.
    """
    with ExitStack() as stack:
        if _use_kafka(choice, step, note):
            broker, guarantee = f"Apache Kafka {kafka_version()}", "exactly_once"
            bootstrap = _start_kafka(stack, broker, topics, step)
        else:
            broker, guarantee = "embedded broker", "at_least_once"
            bootstrap = _start_embedded(stack, topics, step)
        cache, redis_url = _start_cache(stack, step, note)
        yield Backing(broker=broker, bootstrap=bootstrap, cache=cache, redis_url=redis_url, guarantee=guarantee)


def _use_kafka(choice: BrokerChoice, step: Step, note: Note) -> bool:
    """Whether it will be real Kafka; has its jars then."""
    if choice is BrokerChoice.EMBEDDED:
        return False
    reason = kafka_available()
    if reason is None:
        try:
            if not default_jars_dir().is_dir():
                with step(f"downloading Apache Kafka {kafka_version()} (43 MB, once)"):
                    ensure_jars()
            return True
        except LocalServiceError as error:
            reason = str(error)
    if choice is BrokerChoice.KAFKA:
        raise LocalServiceError(f"{reason}. Without it: --broker embedded")
    note(f"no real Kafka here: {reason}")
    note("so it is the embedded broker, a mock in a process of its own: at least once, and no admin commands")
    return False


def _start_kafka(stack: ExitStack, name: str, topics: Path, step: Step) -> str:
    from confluent_kafka.admin import AdminClient

    from streamserve.kafka.topics import apply, plan

    with step(f"starting {name}"):
        bootstrap = stack.enter_context(LocalKafka()).bootstrap
    wanted = read_topics(topics)
    with step(f"applying {len(wanted)} topics"):
        admin = AdminClient({"bootstrap.servers": bootstrap})
        apply(admin, plan(admin, wanted))
    threading.Thread(target=_wake_coordinators, args=(bootstrap,), name="wake", daemon=True).start()
    return bootstrap


def _wake_coordinators(bootstrap: str) -> None:
    """Have a fresh broker make its two internal topics, seconds of work, while the workers start."""
    from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

    from streamserve.kafka.reading import silent_logger

    client: dict[str, Any] = {"bootstrap.servers": bootstrap, "logger": silent_logger()}
    with contextlib.suppress(KafkaException):  # only a head start: who needs them asks again
        consumer = Consumer({**client, "group.id": "demo"})
        consumer.committed([TopicPartition("none", 0)], timeout=WAKE_TIMEOUT_S)
        consumer.close()
    with contextlib.suppress(KafkaException):
        Producer({**client, "transactional.id": "demo"}).init_transactions(WAKE_TIMEOUT_S)


def _start_embedded(stack: ExitStack, topics: Path, step: Step) -> str:
    wanted = read_topics(topics)
    with step(f"starting the embedded broker with {len(wanted)} topics"):
        kafka = stack.enter_context(EmbeddedKafka())
        for topic in wanted:
            kafka.create_topic(topic.name, topic.partitions or 1)
    return kafka.bootstrap


def _start_cache(stack: ExitStack, step: Step, note: Note) -> tuple[str, str]:
    reason = redis_available()
    if reason is None:
        with step("starting Redis"):
            return "Redis", stack.enter_context(LocalRedis()).url
    note(f"no real Redis here: {reason}; so it is a stand-in inside this process")
    return "in-process cache", stack.enter_context(MemoryServer()).url
