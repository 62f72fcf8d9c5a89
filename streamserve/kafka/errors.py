"""Kafka's errors, mapped once to streamserve's (delivery.md: the order in which the flags are tested matters).

`fatal` ends the client, `txn_requires_abort` ends the transaction, `retriable` invites the same call again; an error
with none of the three counts as fatal. Codes add what flags do not say: that no broker answers, that we may not, or
that somebody took our transactional id.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from streamserve.errors import BrokerUnavailable, Fenced, SinkError, SourceError, StreamServeError

UNREACHABLE = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
"""No broker answers, or not in time."""

FORBIDDEN = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._SSL,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
    }
)
"""The brokers know us not, or do not let us."""

TAKEN_OVER = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
    }
)
"""Another producer has our transactional id, or our transaction outlived its timeout."""

MOVED_ON = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001
    }
)
"""The group has rebalanced since, and its coordinator took no offsets: their next owner scores the records again."""

UNREADABLE = frozenset(
    {
        KafkaError._BAD_COMPRESSION,  # noqa: SLF001
        KafkaError._BAD_MSG,  # noqa: SLF001
        KafkaError.INVALID_MSG,
        KafkaError.MSG_SIZE_TOO_LARGE,
    }
)
"""The broker has a record batch that this client cannot read, and would hand out again for ever."""


def first_error(exception: KafkaException) -> KafkaError:
    """The KafkaError inside an exception of the client."""
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(error))  # noqa: SLF001


def sink_error(exception: KafkaException, operation: str) -> SinkError:
    """What a failed producer call means: `retryable` when aborting and starting over can mend it."""
    error = first_error(exception)
    what = f"{operation}: {error.name()}: {error.str()}"
    if error.code() in TAKEN_OVER:
        return Fenced(
            f"{what}. Another worker runs with this slot's name, or the transaction was open for longer than"
            " transaction.timeout.ms; give every live worker a slot name of its own (--slot)"
        )
    if error.fatal():
        return SinkError(what)
    if error.txn_requires_abort():
        return SinkError(f"{what}{_remedy(error)}", retryable=True)
    return SinkError(f"{what}{_remedy(error)}", retryable=error.retriable())


def source_error(error: KafkaError, operation: str) -> StreamServeError:
    """What a failed consumer or admin call means."""
    what = f"{operation}: {error.name()}: {error.str()}{_reader_remedy(error)}"
    if error.code() in UNREACHABLE:
        return BrokerUnavailable(what, retryable=True)
    return SourceError(what, retryable=error.code() in MOVED_ON or error.retriable())


def no_broker(servers: object, exception: KafkaException) -> BrokerUnavailable:
    """The first request of a client went unanswered."""
    return BrokerUnavailable(
        f"no Kafka broker answers at {servers} ({first_error(exception).str()});"
        " check kafka.bootstrap.servers and that the brokers run"
    )


def _remedy(error: KafkaError) -> str:
    if error.code() in FORBIDDEN:
        return "; check the credentials in the kafka: block and the access control lists (docs/delivery.md)"
    if error.code() in UNREACHABLE:
        return "; check kafka.bootstrap.servers and that the brokers run"
    return ""


def _reader_remedy(error: KafkaError) -> str:
    if error.code() in UNREADABLE:
        return "; move the group past it with `kafka-consumer-groups --reset-offsets` once you know what it was"
    return _remedy(error)
