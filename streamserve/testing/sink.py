"""The in-memory twin of the transactional sink."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from streamserve.batch import OutboundBatch, Positions
from streamserve.errors import ContractError, Fenced, SinkError
from streamserve.testing.broker import MemoryBroker
from streamserve.testing.faults import FaultPlan


class MemorySink:
    """Port `Sink` over a `MemoryBroker`: transactions in rotation, visible when committed.

    Args:
        broker: where records go.
        ids: transactional ids, as many as transactions may be open at once.
        max_bytes: a larger record (key and value) is refused.

    Attributes:
        faults: what is to fail.
        recoveries: how often `recover` was called.
        in_doubt: whether a commit took effect and failed all the same, since the last `recover`.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        ids: Sequence[str] = ("memory.0", "memory.1", "memory.2"),
        *,
        max_bytes: int = 1 << 20,
    ) -> None:
        self.broker = broker
        self.max_bytes = max_bytes
        self.faults = FaultPlan()
        self.recoveries = 0
        self.in_doubt = False
        self._ids = list(ids)
        self._lock = threading.Condition()
        self._epochs: dict[str, int] = {}
        self._free: deque[str] = deque()

    def open(self) -> None:
        if self._epochs:
            return
        with self.faults.around("open"):
            self._initialise()

    def begin(self, timeout_s: float) -> MemoryTransaction | None:
        with self.faults.around("begin"), self._lock:
            if not self._lock.wait_for(lambda: self._free, timeout_s):
                return None
            name = self._free.popleft()
            return MemoryTransaction(self, name, self._epochs[name])

    def recover(self) -> bool:
        self.recoveries += 1
        with self.faults.around("recover"):
            self._initialise()
        certain, self.in_doubt = not self.in_doubt, False
        return certain

    def close(self) -> None:
        with self._lock:
            self._epochs = {}
            self._free.clear()

    def release(self, name: str) -> None:
        """A transaction of this id has ended."""
        with self._lock:
            self._free.append(name)
            self._lock.notify_all()

    def _initialise(self) -> None:
        epochs = {name: self.broker.initialise(name) for name in self._ids}
        with self._lock:
            self._epochs = epochs
            self._free.clear()
            self._free.extend(self._ids)
            self._lock.notify_all()


class MemoryTransaction:
    """Port `Transaction`: holds its records until they are committed."""

    def __init__(self, sink: MemorySink, name: str, epoch: int) -> None:
        self._sink = sink
        self._name = name
        self._epoch = epoch
        self._records: list[OutboundBatch] = []
        self._flushed = 0
        self._over = False

    def add(self, outbound: OutboundBatch) -> None:
        with self._sink.faults.around("add"):
            self._check()
            try:
                self._sink.broker.partitions(outbound.topic)
            except ContractError as error:
                raise SinkError(f"output topic {outbound.topic} does not exist", topic=outbound.topic) from error
            for key, value in zip(outbound.key, outbound.value, strict=True):
                if len(key or b"") + len(value or b"") > self._sink.max_bytes:
                    raise SinkError(f"a record is larger than {self._sink.max_bytes} bytes", topic=outbound.topic)
            self._records.append(outbound)

    def flush(self) -> None:
        with self._sink.faults.around("flush"):
            self._check()
            self._flushed = len(self._records)

    def commit(self, positions: Positions, metadata: object) -> None:
        took_effect = False
        try:
            with self._sink.faults.around("commit"):
                self._check()
                if self._flushed != len(self._records):
                    raise SinkError("commit before flush: a defect of the caller")
                self._sink.broker.commit_transaction(self._name, self._epoch, self._records, positions, metadata)
                took_effect = self._over = True
                self._sink.release(self._name)
        except BaseException:
            self._sink.in_doubt |= took_effect
            raise

    def _check(self) -> None:
        if self._over:
            raise Fenced(f"this transaction of {self._name} is over")
        self._sink.broker.check_epoch(self._name, self._epoch)
