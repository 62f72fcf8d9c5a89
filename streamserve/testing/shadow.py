"""The topic of a shadow's predictions in memory: what `streamserve.kafka.shadow_sink` is on Kafka."""

from __future__ import annotations

from streamserve.batch import OutboundBatch
from streamserve.errors import BrokerUnavailable, ContractError, SinkError
from streamserve.testing.broker import MemoryBroker
from streamserve.testing.faults import FaultPlan


class MemoryShadowSink:
    """Port `worker.shadow.ShadowSink` on a `MemoryBroker`.

    Args:
        broker: where records go.
        room: records that it takes in one call.

    Attributes:
        faults: what is to fail.
    """

    def __init__(self, broker: MemoryBroker, *, room: int = 1 << 20) -> None:
        self.faults = FaultPlan()
        self._broker = broker
        self._room = room
        self._open = False

    def open(self) -> None:
        self._open = True

    def produce(self, outbound: OutboundBatch) -> int:
        with self.faults.around("produce"):
            if not self._open:
                raise SinkError("the shadow's producer is closed", topic=outbound.topic)
            try:
                count = self._broker.partitions(outbound.topic)
                self._broker.check()
            except (ContractError, BrokerUnavailable) as error:
                raise SinkError(str(error), topic=outbound.topic) from error
            taken = min(len(outbound), self._room)
            for row in range(taken):
                self._broker.produce(
                    outbound.topic,
                    outbound.value[row],
                    key=outbound.key[row],
                    partition=outbound.partition[row] % count,
                    headers=outbound.headers[row] if outbound.headers else None,
                )
            return taken

    def lost(self) -> int:
        return 0

    def close(self, timeout_s: float) -> None:  # noqa: ARG002  port
        self._open = False
