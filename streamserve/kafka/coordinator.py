"""Requests that a group's or a transaction's coordinator answers: asked again while there is none yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from streamserve.kafka.errors import first_error
from streamserve.kafka.reading import ANSWER_TIMEOUT_S

T = TypeVar("T")
COORDINATOR_MOVES = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
"""Errors that pass by themselves, whatever their flag says."""


def insist(call: Callable[[], T]) -> T:
    """Call again while the error is a passing one, such as a coordinator that is just being made, for ten seconds.

    Raises:
        KafkaException: another error, or still one of these.
    """
    until_s = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            return call()
        except KafkaException as exception:
            error = first_error(exception)
            passing = error.retriable() or error.code() in COORDINATOR_MOVES
            if not passing or error.txn_requires_abort() or time.monotonic() > until_s:
                raise
            time.sleep(0.1)
