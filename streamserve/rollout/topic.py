"""The rollout topic as its readers and writers see it: a log of one partition, read in order, never skipped.

The ports of the control plane. `streamserve.kafka.rollout_topic` has the adapters, `streamserve.testing.rollout` their
twins in memory; tests/contract/test_rollout_topic.py holds for both.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from streamserve.rollout.records import AnyRecord


class TopicEntry(NamedTuple):
    """What lies at an offset; a value of None is a tombstone."""

    offset: int
    key: bytes | None
    value: bytes | None


class RecordReader(Protocol):
    """Reads the topic from its beginning, only what is committed. For one thread at a time."""

    def open(self) -> None:
        """Connect. Raises: BrokerUnavailable; ContractError when the topic is missing or not fit for rollouts."""
        ...

    def read_to_end(self, timeout_s: float) -> list[TopicEntry]:
        """Everything after what was handed out before, up to the end that the topic has at this moment.

        Raises:
            BrokerUnavailable: the end was not reached within `timeout_s`. What was read is not lost: the next call
                hands it out.
            SourceError: the topic cannot be read.
        """
        ...

    def poll(self, timeout_s: float) -> list[TopicEntry]:
        """What is new; waits for it at most `timeout_s`. While the brokers are away there is nothing.

        Raises:
            SourceError: the topic cannot be read, and will not be.
        """
        ...

    def close(self) -> None:
        """Let go; bounded. Again does nothing."""
        ...


class RecordWriter(Protocol):
    """Writes records, each acknowledged before the call returns. For one thread at a time."""

    def open(self) -> None:
        """Connect. Raises: BrokerUnavailable; ContractError when the topic is missing."""
        ...

    def publish(self, record: AnyRecord) -> int:
        """Write a record; its offset. A command's offset is the revision that it makes.

        Raises:
            BrokerUnavailable: no acknowledgement in time; whether it was written, the topic knows.
            ContractError: the topic is gone.
            SinkError: the brokers refuse it.
            RecordError: it breaks the records' own rules.
        """
        ...

    def tombstone(self, slot: str) -> int:
        """Say that a slot has left: its acknowledgement goes. Raises: as `publish`."""
        ...

    def close(self) -> None:
        """Let go; bounded. Again does nothing."""
        ...
