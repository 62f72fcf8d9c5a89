"""Whether a cluster keeps the promises that exactly once rests on, tried out and not believed.

`probe` makes two topics of its own, a group and some transactional ids, tries six things that a broker with real
transactions refuses or hides, and takes the topics away again. It needs the right to create topics and a few seconds
(the expiry check waits for a transaction of one second to be ended by the brokers, which sweep every ten seconds by
default). Brokers that are built into test tools accept the whole transactional API and fail several of these.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports these without saying so
    AdminClient,
    NewTopic,
)

from streamserve.errors import BrokerUnavailable
from streamserve.kafka.clients import Properties
from streamserve.kafka.errors import TAKEN_OVER, first_error

TIMEOUT_S = 20.0
EXPIRY_S = 25.0
"""Longest wait for the end of a transaction of one second."""
Protocol = Literal["classic", "consumer"]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: whether it is kept, and what was seen if not."""

    name: str
    kept: bool
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All promises of a cluster."""

    checks: tuple[Check, ...]

    @property
    def conforms(self) -> bool:
        """Whether exactly once may be claimed."""
        return not self.broken

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the promises that are not kept."""
        return tuple(check.name for check in self.checks if not check.kept)


def probe(properties: Properties, *, protocol: Protocol = "classic", expiry: bool = True) -> Report:
    """Try every promise.

    Args:
        properties: how to reach the cluster (`bootstrap.servers` and security).
        protocol: group protocol of the member whose generation goes stale.
        expiry: wait for the expiry of a transaction too; the slow one.

    Returns:
        One check a promise, named `aborted_hidden`, `open_hidden`, `second_init_fences`, `stale_generation_rejected`,
        `pending_offsets_wait` and, if asked for, `expiry`.

    Raises:
        BrokerUnavailable: nobody answers, or topics cannot be made.
    """
    with _Bench.open(properties, protocol) as bench:
        tries: list[Callable[[], str]] = [
            bench.aborted_hidden,
            bench.open_hidden,
            bench.second_init_fences,
            bench.stale_generation_rejected,
            bench.pending_offsets_wait,
        ]
        if expiry:
            tries.append(bench.expiry)
        return Report(tuple(_check(attempt) for attempt in tries))


def _check(attempt: Callable[[], str]) -> Check:
    """A promise is kept when the attempt has nothing to say."""
    try:
        seen = attempt()
    except KafkaException as exception:
        seen = f"failed: {first_error(exception).str()}"
    return Check(attempt.__name__, kept=not seen, seen=seen)


class _Bench:
    """Clients and topics of one probe. Every check answers what it saw, or nothing when the promise is kept."""

    def __init__(self, properties: Properties, protocol: Protocol) -> None:
        self._properties = properties
        self._protocol = protocol
        self._name = f"streamserve.conformance.{uuid.uuid4().hex[:12]}"
        self._topics: list[str] = []
        self._administered = True

    @classmethod
    @contextlib.contextmanager
    def open(cls, properties: Properties, protocol: Protocol) -> Iterator[_Bench]:
        bench = cls(properties, protocol)
        try:
            yield bench
        finally:
            bench.close()

    def close(self) -> None:
        """Take the topics away again."""
        if self._topics:
            admin = AdminClient(self._properties)  # a client that is gone forgets what it was asked for
            for deletion in admin.delete_topics(self._topics).values():
                with contextlib.suppress(KafkaException, TimeoutError):
                    deletion.result(TIMEOUT_S)

    def aborted_hidden(self) -> str:
        topic = self._topic("aborted")
        producer = self._producer("aborted")
        self._write(producer, topic, b"aborted")
        producer.abort_transaction(TIMEOUT_S)
        self._write(producer, topic, b"committed")
        producer.commit_transaction()
        found = self._read(topic, until=b"committed")
        return "" if found == [b"committed"] else f"a reader of committed records saw {found}"

    def open_hidden(self) -> str:
        topic = self._topic("open")
        producer = self._producer("open")
        self._write(producer, topic, b"open")
        found = self._read(topic, until=b"open", timeout_s=2)
        producer.abort_transaction(TIMEOUT_S)
        return f"a reader of committed records saw {found}" if found else ""

    def second_init_fences(self) -> str:
        topic = self._topic("fenced")
        first = self._producer("fenced")
        self._write(first, topic, b"zombie")
        second = self._producer("fenced")
        refused = _refusal(first.commit_transaction)
        second.begin_transaction()
        second.abort_transaction(TIMEOUT_S)
        if refused is None:
            return "the first producer committed after the second was initialised"
        return "" if refused.code() in TAKEN_OVER else f"the first producer got {refused.name()}"

    def stale_generation_rejected(self) -> str:
        topic = self._topic("generation")
        member = self._member("generation", topic)
        try:
            metadata = member.consumer_group_metadata()
        finally:
            member.close()  # the group is empty now: this member's generation is over
        producer = self._producer("generation")
        producer.begin_transaction()
        offsets = [TopicPartition(topic, 0, 1)]
        refused = _refusal(lambda: producer.send_offsets_to_transaction(offsets, metadata, TIMEOUT_S))
        producer.abort_transaction(TIMEOUT_S)
        return "offsets of a member that has left were taken" if refused is None else ""

    def pending_offsets_wait(self) -> str:
        """Whoever asks for the offsets of an open transaction has to wait for its end, then gets what holds."""
        topic = self._topic("pending")
        member = self._member("pending", topic)
        producer = self._producer("pending")
        try:
            self._write(producer, topic, b"v")
            offsets = [TopicPartition(topic, 0, 1)]
            producer.send_offsets_to_transaction(offsets, member.consumer_group_metadata(), TIMEOUT_S)
            asked = [TopicPartition(topic, 0)]
            waits = _refusal(lambda: member.committed(asked, timeout=1))
            producer.commit_transaction()
            (after,) = member.committed(asked, timeout=TIMEOUT_S)
        finally:
            member.close()
        if waits is None:
            return "offsets were given while a transaction with newer ones was open"
        return "" if after.offset == 1 else f"after the commit the offset was {after.offset}"

    def expiry(self) -> str:
        topic = self._topic("expiry")
        producer = self._producer("expiry", timeout_ms=1000)
        self._write(producer, topic, b"late")
        after = Producer({**self._properties, "linger.ms": 0})
        after.produce(topic, b"after", partition=0)
        after.flush(TIMEOUT_S)
        found = self._read(topic, until=b"after", timeout_s=EXPIRY_S)
        if found != [b"after"]:
            return f"{EXPIRY_S:.0f} s after a transaction of 1 s a reader of committed records saw {found}"
        refused = _refusal(producer.commit_transaction)
        return "a transaction was committed after its time" if refused is None else ""

    # ------------------------------------------------------------------------------------------------------------

    def _topic(self, purpose: str) -> str:
        name = f"{self._name}.{purpose}"
        admin = AdminClient(self._properties)
        if self._administered:
            self._administered = self._create(admin, name)
        if not self._administered:
            self._ask_for(admin, name)
        return name

    def _create(self, admin: AdminClient, name: str) -> bool:
        """Make a topic. Returns: whether this cluster does such things."""
        wanted = NewTopic(name, num_partitions=1, replication_factor=-1)
        try:
            admin.create_topics([wanted], request_timeout=TIMEOUT_S)[name].result(TIMEOUT_S)
        except (KafkaException, TimeoutError):
            return False
        self._topics.append(name)
        return True

    @staticmethod
    def _ask_for(admin: AdminClient, name: str) -> None:
        """A broker without topic administration makes a topic when it is first asked for."""
        try:
            found = admin.list_topics(name, timeout=TIMEOUT_S).topics[name]
        except KafkaException as exception:
            raise BrokerUnavailable(
                f"no Kafka broker answers the conformance probe: {first_error(exception).str()}"
            ) from exception
        if found.error is not None or not found.partitions:
            raise BrokerUnavailable(f"the conformance probe may not create topics such as {name}")

    def _producer(self, purpose: str, *, timeout_ms: int = 30_000) -> Any:
        producer = Producer(
            {
                **self._properties,
                "transactional.id": f"{self._name}.{purpose}",
                "transaction.timeout.ms": timeout_ms,
                "retry.backoff.ms": 10,
                "linger.ms": 0,
            }
        )
        producer.init_transactions(TIMEOUT_S)
        return producer

    @staticmethod
    def _write(producer: Any, topic: str, value: bytes) -> None:
        """Begin a transaction and have the brokers hold a record of it."""
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(TIMEOUT_S)

    def _member(self, purpose: str, topic: str) -> Any:
        protocol: Properties = {"group.protocol": "consumer"} if self._protocol == "consumer" else {}
        member = Consumer(
            {
                **self._properties,
                **protocol,
                "group.id": f"{self._name}.{purpose}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        member.subscribe([topic])
        until_s = time.monotonic() + TIMEOUT_S
        while not member.assignment() and time.monotonic() < until_s:
            member.poll(0.1)
        return member

    def _read(self, topic: str, *, until: bytes, timeout_s: float = TIMEOUT_S) -> list[bytes]:
        """What a reader of committed records sees, up to a value or the end of the time."""
        reader = Consumer(
            {
                **self._properties,
                "group.id": f"{self._name}.reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found: list[bytes] = []
        until_s = time.monotonic() + timeout_s
        while until not in found and time.monotonic() < until_s:
            message = reader.poll(0.1)
            if message is not None and message.error() is None:
                found.append(message.value() or b"")
        reader.close()
        return found


def _refusal(call: Callable[[], object]) -> KafkaError | None:
    """The error that a call ends with; None when it goes through."""
    try:
        call()
    except KafkaException as exception:
        return first_error(exception)
    return None
