"""How a consumer leaves its group: its subscription ends first, in ordinary polls, and then it is closed.

In every rebalance callback the client asks itself which protocol it follows. While a consumer closes, the thread that
answers may have ended; the question then fails, or waits for ever with the interpreter's lock in hand, and the whole
process stands still (librdkafka #4041, seen with 2.16 where members closed in the middle of a rebalance: a failure in
one of ten, a standstill in one of forty). A consumer whose subscription has ended has no callback left for its close.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from confluent_kafka import KafkaException

CLOSE_TIMEOUT_S = 10.0
QUIET_S = 0.02
"""A poll that has found nothing for so long: no callback is waiting."""
SHORTEST_CLOSE_S = 1.0
"""The least that closing may take, whatever came before."""


def leave_group(consumer: Any, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
    """Hear what is revoked, on this thread, and close. Records that come meanwhile are dropped, uncommitted.

    Args:
        consumer: a `confluent_kafka.Consumer` that subscribed, or has no partitions.
        timeout_s: how long both may take together, callbacks aside.

    Returns:
        Whether it was closed in time; a thread of its own goes on otherwise.
    """

    def close() -> None:
        with contextlib.suppress(KafkaException):
            consumer.close()

    closer = threading.Thread(target=close, name="consumer-close", daemon=True)
    deadline_s = time.monotonic() + timeout_s
    try:
        _end_subscription(consumer, deadline_s)
    finally:
        closer.start()
        closer.join(max(SHORTEST_CLOSE_S, deadline_s - time.monotonic()))
    return not closer.is_alive()


def _end_subscription(consumer: Any, deadline_s: float) -> None:
    left = False
    with contextlib.suppress(KafkaException):  # a client that is fatally ill can only be closed
        while not left and time.monotonic() < deadline_s:
            consumer.unsubscribe()  # every time: in the middle of a rebalance it is only noted down for later
            with contextlib.suppress(KafkaException):  # raised by a callback
                left = consumer.poll(QUIET_S) is None and not consumer.assignment()
