"""Exactly once: transactional producers in rotation (port `Sink`).

Owns the producers of a slot, ids `{pipeline}.{slot}.{n}`, stable so that a restart aborts its own dangling
transactions at once. While transaction k commits, k+1 is produced and flushed by the next producer: a single producer
would have to wait for the markers of its last transaction (20 ms steps). Flushing before the offsets are sent cuts
the commit to a fifth. librdkafka has no transactions v2 (KIP-890), so a delayed request could touch a later
transaction; every sign of trouble makes a producer *tainted*, and a tainted one is replaced by a new client with the
same id, whose initialisation fences what the old one left on the way. The coordinator's plain refusal of offsets, as in
every rebalance, is no trouble: where every request was answered, a producer aborts and goes on. See docs/delivery.md.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as ClientPartition

from streamserve import failpoints
from streamserve.batch import OutboundBatch, Positions
from streamserve.clock import Clock, Deadline
from streamserve.errors import BrokerUnavailable, SinkError
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.errors import MOVED_ON, UNREACHABLE, first_error, sink_error
from streamserve.kafka.producing import PartitionCounts, produce_all
from streamserve.telemetry.logs import Log

INIT_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 30.0
OFFSETS_TIMEOUT_S = 15.0
"""Well below transaction.timeout.ms, whose end would be fatal for the producer."""
SLOW_COMMIT_S = 2.0
MAX_AGE_S = 86_400.0
CLOSE_TIMEOUT_S = 5.0
ABORT_FLUSH_S = 1.0
"""How long an abort in place waits for the answers to what was produced."""


class TransactionalSink:
    """Hands out transactions, one a producer, in rotation.

    Args:
        properties: makes the client properties for a transactional id.
        ids: the transactional ids in rotation.
        orphans: ids of an earlier life that are no longer used; initialised once, to end what they left open.
        on_recycle: called with the reason whenever a producer is replaced.
    """

    def __init__(
        self,
        properties: Callable[[str], Properties],
        ids: list[str],
        clock: Clock,
        log: Log,
        *,
        orphans: list[str] | None = None,
        on_recycle: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._properties = properties
        self._ids = ids
        self._orphans = orphans or []
        self._clock = clock
        self._log = log
        self._on_recycle = on_recycle
        self._lock = threading.Condition()
        self._slots: list[ProducerSlot] = []
        self._free: deque[ProducerSlot] = deque()
        self._partitions = PartitionCounts()

    def open(self) -> None:
        if self._slots:
            return
        self._slots = [ProducerSlot(self._properties, name, self._clock, self._log) for name in self._ids]
        orphans = [ProducerSlot(self._properties, name, self._clock, self._log) for name in self._orphans]
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="init") as pool:
            for _ in pool.map(ProducerSlot.renew, [*self._slots, *orphans]):
                pass
        for orphan in orphans:
            orphan.discard()
        self._free.extend(self._slots)

    def begin(self, timeout_s: float) -> KafkaTransaction | None:
        deadline = Deadline.after(timeout_s, self._clock)
        with self._lock:
            while not self._free:
                if deadline.expired():
                    return None
                self._lock.wait(deadline.remaining_s())
            slot = self._free.popleft()
        slot.listen()
        reason = slot.taint or ("age" if slot.age_s() > MAX_AGE_S else "")
        if reason:
            if timeout_s <= 0:
                with self._lock:
                    self._free.appendleft(slot)
                return None
            self._recycle(slot, reason)
        slot.begin()
        return KafkaTransaction(slot, self._partitions, self._release)

    def recover(self) -> bool:
        """Abort what every producer left open; one that could not tell what became of it is replaced.

        Initialising an id aborts as well, but takes half a second where the producer itself takes milliseconds.
        """
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="recover") as pool:
            aborted = all([*pool.map(self._end, self._slots)])
        with self._lock:
            self._free.clear()
            self._free.extend(self._slots)
            self._lock.notify_all()
        return aborted

    def close(self) -> None:
        for slot in self._slots:
            slot.discard()
        self._slots = []

    def _end(self, slot: ProducerSlot) -> bool:
        aborted = slot.abort()
        if not aborted:
            self._recycle(slot, slot.taint or "abort")
        return aborted

    def _release(self, slot: ProducerSlot) -> None:
        with self._lock:
            self._free.append(slot)
            self._lock.notify_all()

    def _recycle(self, slot: ProducerSlot, reason: str) -> None:
        slot.discard()
        slot.renew()
        self._on_recycle(reason)
        self._log.info("producer_recycled", transactional_id=slot.name, reason=reason)


class ProducerSlot:
    """One transactional id and its current client."""

    def __init__(self, properties: Callable[[str], Properties], name: str, clock: Clock, log: Log) -> None:
        self.name = name
        self.taint = ""
        self.producer: Any = None
        self._properties = properties
        self._clock = clock
        self._log = log
        self._born_s = clock.monotonic_s()
        self._open = False
        self._aside: Aside | None = None

    def renew(self) -> None:
        """A new client; fences every earlier one of this id and aborts what it left open."""
        properties = with_callbacks(
            self._properties(self.name), error=self._on_error, logger=self._log.as_logger("kafka.producer")
        )
        self.producer = Producer(properties)
        self.taint = ""
        self._open = False
        self._born_s = self._clock.monotonic_s()
        try:
            self.call("init_transactions", INIT_TIMEOUT_S)
        except SinkError as exception:
            cause = exception.__cause__
            if isinstance(cause, KafkaException) and first_error(cause).code() in UNREACHABLE:
                raise BrokerUnavailable(str(exception), retryable=True) from cause
            raise
        self.taint = ""

    def discard(self) -> None:
        """Let the client go in a thread of its own: closing can hang when brokers are away."""
        producer, self.producer = self.producer, None
        if self._aside is not None:
            self._aside.end()
            self._aside = None
        if producer is None:
            return

        def close() -> None:
            with contextlib.suppress(KafkaException):  # a fenced client refuses to flush
                producer.purge()
                producer.flush(CLOSE_TIMEOUT_S)

        threading.Thread(target=close, name="producer-close", daemon=True).start()

    def age_s(self) -> float:
        return self._clock.monotonic_s() - self._born_s

    def begin(self) -> None:
        """Open a transaction."""
        self._open = True
        self.call("begin_transaction")

    def commit(self) -> None:
        """Commit the open transaction.

        Without a timeout: a finite one can part from the broker's state, and a watchdog stands by.
        """
        self.call("commit_transaction")
        self._open = False

    def abort(self) -> bool:
        """End the open transaction, if nothing of it can still be on its way to the brokers.

        Returns: whether nothing of it took effect and the client may be used again; False leaves it to a new one to
            abort.
        """
        if self.producer is None or self.taint:
            return False
        began_s = self._clock.monotonic_s()
        if self._open:
            try:
                if self.producer.flush(ABORT_FLUSH_S):
                    return False
                self.call("abort_transaction", CALL_TIMEOUT_S)
            except (KafkaException, SinkError):
                return False
            self._open = False
        self.listen()
        return not self.taint and self._clock.monotonic_s() - began_s < SLOW_COMMIT_S

    def listen(self) -> None:
        """Have the client report what it met: a request that it sent twice may arrive twice (KIP-890)."""
        self.producer.poll(0)

    def send_offsets(self, offsets: list[ClientPartition], metadata: object) -> None:
        """Add offsets to the transaction, within `OFFSETS_TIMEOUT_S` whatever the client does.

        librdkafka ignores the call's own timeout (its issue 5456) and can wait for ever for a group coordinator that
        left the metadata (5511), as one does that is killed. So the call is made in a thread of its own, which is
        left behind when time is up: nobody commits that transaction any more, and the next client of this id aborts it.
        """
        if self._aside is None:
            self._aside = Aside(f"offsets-{self.name}")
        arguments = ("send_offsets_to_transaction", offsets, metadata, OFFSETS_TIMEOUT_S)
        try:
            self._aside.run(lambda: self.call(*arguments), OFFSETS_TIMEOUT_S)
        except FutureTimeout:
            self.taint = "offsets timeout"
            raise SinkError(
                f"{self.name}: the group coordinator did not take the offsets within {OFFSETS_TIMEOUT_S:.0f} s",
                retryable=True,
            ) from None

    def call(self, operation: str, *arguments: Any) -> None:
        """A call of the transactional API, repeated while the error is retriable, at most `CALL_TIMEOUT_S`."""
        deadline = Deadline.after(CALL_TIMEOUT_S, self._clock)
        producer = self.producer  # the same to the end, even when this call was given up and a new client made
        while True:
            began_s = self._clock.monotonic_s()
            try:
                getattr(producer, operation)(*arguments)
            except KafkaException as exception:
                error = first_error(exception)
                if producer is self.producer and error.code() not in MOVED_ON:
                    self.taint = self.taint or error.name()
                if error.retriable() and not error.txn_requires_abort() and not deadline.expired():
                    time.sleep(0.05)
                    continue
                raise sink_error(exception, f"{operation} ({self.name})") from exception
            finally:
                took_s = self._clock.monotonic_s() - began_s
                if took_s > SLOW_COMMIT_S:
                    self._log.warning(
                        "slow_transaction_call", operation=operation, transactional_id=self.name, seconds=took_s
                    )
            return

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in UNREACHABLE:
            self.taint = self.taint or error.name()


class Aside:
    """A thread for calls that may never return."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def run(self, call: Callable[[], None], timeout_s: float) -> None:
        """Make `call`. Raises: what it raises; the futures' TimeoutError when it has not returned in time."""
        future: Future[None] = Future()
        self._calls.put((call, future))
        future.result(timeout_s)

    def end(self) -> None:
        """Let the thread go as soon as it is free."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            del item, call, future  # an idle thread keeps nothing of the last call alive


class KafkaTransaction:
    """An open transaction of one producer (port `Transaction`)."""

    def __init__(
        self, slot: ProducerSlot, partitions: PartitionCounts, release: Callable[[ProducerSlot], None]
    ) -> None:
        self._slot = slot
        self._partitions = partitions
        self._release = release

    def add(self, outbound: OutboundBatch) -> None:
        produce_all(self._slot.producer, outbound, self._partitions)

    def flush(self) -> None:
        remaining = self._slot.producer.flush(CALL_TIMEOUT_S)
        if remaining:
            self._slot.taint = "flush timeout"
            raise SinkError(f"{remaining} records were not delivered within {CALL_TIMEOUT_S:.0f} s", retryable=True)

    def commit(self, positions: Positions, metadata: object) -> None:
        slot = self._slot
        offsets = [ClientPartition(*tp, position) for tp, position in positions.items()]
        started_s = time.monotonic()
        if offsets:
            slot.send_offsets(offsets, metadata)
        failpoints.reach("after_send_offsets")
        slot.commit()
        if time.monotonic() - started_s > SLOW_COMMIT_S:
            slot.taint = slot.taint or "slow commit"
        self._release(slot)
