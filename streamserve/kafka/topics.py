"""Topics as code against a cluster: what differs from the documents, and making it so.

`plan` only reads, `apply` does what a plan says: creates, grows partitions, alters the configuration keys
that a document names. Nothing is ever shrunk. A topic is deleted under two conditions together: its
document says `streamserve.io/state: absent`, and the caller passes `delete`; topics without a document are
never touched.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # imported there, never listed
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from streamserve.config.topic_documents import TopicDocument, read_topics
from streamserve.config.wording import did_you_mean
from streamserve.errors import BrokerUnavailable, StreamServeError

__all__ = ["Change", "Plan", "TopicDocument", "apply", "plan", "read_topics"]

TIMEOUT_S = 15.0
Action = Literal["create", "grow", "alter", "delete", "impossible"]
T = TypeVar("T")
_UNREACHABLE = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001  (the client's public name for it)
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
    }
)
_REMEDIES = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the user needs Create, Alter and DescribeConfigs on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the user needs Create on the cluster",
    KafkaError.INVALID_REPLICATION_FACTOR: "spec.replicas must not exceed the number of brokers",
    KafkaError.INVALID_CONFIG: "see the key named in spec.config",
    KafkaError.POLICY_VIOLATION: "the cluster's policy forbids it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between a document and the cluster.

    Attributes:
        topic: the topic.
        action: what `apply` does about it; `impossible` is only reported.
        detail: the difference in words, `partitions 3 -> 6`.
        config: key -> wanted value (`alter`, `create`).
        partitions: wanted count (`create`, `grow`); -1 the broker's default.
        replicas: wanted count (`create`); -1 the broker's default.
    """

    topic: str
    action: Action
    detail: str
    config: Mapping[str, str] = field(default_factory=dict)
    partitions: int = -1
    replicas: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every difference, in the order of topics; empty when the cluster is as the documents want it."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A topic as it is on the cluster."""

    partitions: int
    replicas: int
    config: Mapping[str, str]


def plan(admin: AdminClient, wanted: Sequence[TopicDocument]) -> Plan:
    """Compare the documents with the cluster. Changes nothing.

    Raises:
        BrokerUnavailable: no broker answers within 15 s.
        StreamServeError: the cluster refuses to answer.
    """
    found = _describe(admin, [topic.name for topic in wanted])
    changes: list[Change] = []
    for topic in wanted:
        current = found.get(topic.name)
        if topic.absent:
            if current is not None:
                changes.append(Change(topic=topic.name, action="delete", detail="marked as absent"))
        elif current is None:
            changes.append(_create(topic))
        else:
            changes += _compare(topic, current)
    return Plan(changes=tuple(changes))


def apply(admin: AdminClient, wanted: Plan, *, delete: bool = False) -> tuple[Change, ...]:
    """Do what the plan says, in its order, and stop at the first refusal.

    Args:
        admin: a client with the rights to create and alter topics.
        wanted: from `plan`.
        delete: also delete the topics whose document says `state: absent`.

    Returns:
        What was done.

    Raises:
        BrokerUnavailable, StreamServeError: with the topic; what came before it is done.
    """
    actions: dict[Action, Callable[[AdminClient, Change], None]] = {
        "create": _do_create,
        "grow": _do_grow,
        "alter": _do_alter,
    }
    if delete:
        actions["delete"] = _do_delete
    done = []
    for change in wanted.changes:
        if change.action in actions:
            actions[change.action](admin, change)
            done.append(change)
    return tuple(done)


def _create(topic: TopicDocument) -> Change:
    partitions, replicas = topic.partitions or -1, topic.replicas or -1
    counts = f"{_or_default(topic.partitions)} partitions, {_or_default(topic.replicas)} replicas"
    config = "".join(f", {key}={value}" for key, value in topic.config.items())
    return Change(
        topic=topic.name,
        action="create",
        detail=counts + config,
        config=topic.config,
        partitions=partitions,
        replicas=replicas,
    )


def _or_default(count: int | None) -> str:
    return "default" if count is None else str(count)


def _compare(topic: TopicDocument, current: _Found) -> Iterable[Change]:
    if topic.partitions is not None and topic.partitions != current.partitions:
        detail = f"partitions {current.partitions} -> {topic.partitions}"
        if topic.partitions > current.partitions:
            yield Change(topic=topic.name, action="grow", detail=detail, partitions=topic.partitions)
        else:
            yield Change(topic=topic.name, action="impossible", detail=f"{detail}: partitions never shrink")
    if topic.replicas is not None and topic.replicas != current.replicas:
        detail = f"replicas {current.replicas} -> {topic.replicas}: needs a reassignment by an operator"
        yield Change(topic=topic.name, action="impossible", detail=detail)
    differing = {}
    for key, value in topic.config.items():
        if key not in current.config:
            hint = did_you_mean(key, list(current.config))
            detail = f"no configuration key {key}" + (f" ({hint})" if "?" in hint else "")
            yield Change(topic=topic.name, action="impossible", detail=detail)
        elif not _same(current.config[key], value):
            differing[key] = value
    if differing:
        detail = ", ".join(f"{key} {current.config[key]} -> {value}" for key, value in differing.items())
        yield Change(topic=topic.name, action="alter", detail=detail, config=differing)


def _same(current: str, wanted: str) -> bool:
    if "," in wanted or "," in current:
        return sorted(part.strip() for part in wanted.split(",")) == sorted(current.split(","))
    try:
        return current == wanted or float(current) == float(wanted)
    except ValueError:
        return False


def _describe(admin: AdminClient, names: Sequence[str]) -> dict[str, _Found]:
    if not names:
        return {}
    counts: dict[str, tuple[int, int]] = {}
    described = _call(lambda: admin.describe_topics(TopicCollection(list(names)), request_timeout=TIMEOUT_S))
    for name, future in described.items():
        try:
            description = future.result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise _mapped(error, name, "describing it") from error
        except concurrent.futures.TimeoutError as error:
            raise _unavailable("no answer in time") from error
        partitions = description.partitions
        counts[name] = (len(partitions), min((len(part.replicas) for part in partitions), default=0))
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in counts]
    if not resources:
        return {}
    configs = _call(lambda: admin.describe_configs(resources, request_timeout=TIMEOUT_S))
    found = {}
    for resource, future in configs.items():
        entries = _wait(future, resource.name, "reading its configuration")
        values = {key: str(entry.value or "") for key, entry in entries.items()}
        partition_count, replicas = counts[resource.name]
        found[resource.name] = _Found(partitions=partition_count, replicas=replicas, config=values)
    return found


def _do_create(admin: AdminClient, change: Change) -> None:
    topic = NewTopic(
        change.topic,
        num_partitions=change.partitions,
        replication_factor=change.replicas,
        config=dict(change.config),
    )
    futures = _call(lambda: admin.create_topics([topic], operation_timeout=TIMEOUT_S))
    _wait(futures[change.topic], change.topic, "creating it")


def _do_grow(admin: AdminClient, change: Change) -> None:
    wanted = [NewPartitions(change.topic, change.partitions)]
    futures = _call(lambda: admin.create_partitions(wanted, operation_timeout=TIMEOUT_S))
    _wait(futures[change.topic], change.topic, "adding partitions")


def _do_alter(admin: AdminClient, change: Change) -> None:
    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in change.config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, change.topic, incremental_configs=entries)
    futures = _call(lambda: admin.incremental_alter_configs([resource], request_timeout=TIMEOUT_S))
    for future in futures.values():
        _wait(future, change.topic, "altering its configuration")


def _do_delete(admin: AdminClient, change: Change) -> None:
    futures = _call(lambda: admin.delete_topics([change.topic], operation_timeout=TIMEOUT_S))
    _wait(futures[change.topic], change.topic, "deleting it")


def _call(request: Callable[[], T]) -> T:
    try:
        return request()
    except KafkaException as error:
        raise _mapped(error, None, "asking the cluster") from error


def _wait(future: concurrent.futures.Future[T], topic: str, doing: str) -> T:
    try:
        return future.result(2 * TIMEOUT_S)
    except KafkaException as error:
        raise _mapped(error, topic, doing) from error
    except concurrent.futures.TimeoutError as error:
        raise _unavailable(f"no answer in time while {doing}") from error


def _mapped(error: KafkaException, topic: str | None, doing: str) -> StreamServeError:
    reason = error.args[0]
    if reason.code() in _UNREACHABLE:
        return _unavailable(reason.str())
    remedy = _REMEDIES.get(reason.code(), "")
    where = f"topic {topic}: " if topic else ""
    message = f"{where}{doing} failed: {reason.str()}" + (f" ({remedy})" if remedy else "")
    return StreamServeError(message, topic=topic, retryable=bool(reason.retriable()))


def _unavailable(why: str) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"no broker answers: {why.rstrip('.')} (is kafka.bootstrap.servers right, and security.protocol?)",
        retryable=True,
    )
