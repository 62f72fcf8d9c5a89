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

QUIET_S = 0.02
"""A poll that has found nothing for so long: no callback is waiting."""


def leave_group(consumer: Any, timeout_s: float = 10.0) -> bool:
    """Hear what is revoked, on this thread, and close. Records that come meanwhile are dropped, uncommitted.

    Args:
        consumer: a `confluent_kafka.Consumer`, subscribed or not.
        timeout_s: how long each of the two may take.

    Returns:
        Whether it was closed in time; a thread of its own goes on otherwise.
    """

    def close() -> None:
        with contextlib.suppress(KafkaException):
            consumer.close()

    closer = threading.Thread(target=close, name="consumer-close", daemon=True)
    try:
        _end_subscription(consumer, timeout_s)
    finally:
        closer.start()
        closer.join(timeout_s)
    return not closer.is_alive()


def _end_subscription(consumer: Any, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    with contextlib.suppress(KafkaException):
        consumer.unsubscribe()
        while time.monotonic() < deadline_s:
            if consumer.poll(QUIET_S) is None and not consumer.assignment():
                return
