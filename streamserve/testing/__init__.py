"""What tests of streamserve and of its users need: in-memory twins of the ports, and a whole worker on them.

    from streamserve.testing import FunctionEngine, MemoryBroker, MemoryWorker, memory_settings

    broker = MemoryBroker()
    for topic in ("events", "predictions", "dead"):
        broker.create_topic(topic)
    broker.produce("events", b'{"x": 2}')
    with MemoryWorker(memory_settings([{"name": "x"}]), engine, broker):
        broker.wait_records("predictions", 1)

The twins keep the contracts of `streamserve.ports`: the suites in tests/contract run against them and against Kafka.
"""

from __future__ import annotations

from streamserve.testing.broker import MemoryBroker, MemoryRecord
from streamserve.testing.cache import MemoryCache
from streamserve.testing.clock import ManualClock
from streamserve.testing.engine import FunctionEngine
from streamserve.testing.faults import FaultPlan
from streamserve.testing.rollout import MemoryRolloutReader, MemoryRolloutWriter
from streamserve.testing.shadow import MemoryShadowSink
from streamserve.testing.sink import MemorySink, MemoryTransaction
from streamserve.testing.source import MemorySource
from streamserve.testing.worker import MemoryFiles, MemoryWorker, memory_settings

__all__ = [
    "FaultPlan",
    "FunctionEngine",
    "ManualClock",
    "MemoryBroker",
    "MemoryCache",
    "MemoryFiles",
    "MemoryRecord",
    "MemoryRolloutReader",
    "MemoryRolloutWriter",
    "MemoryShadowSink",
    "MemorySink",
    "MemorySource",
    "MemoryTransaction",
    "MemoryWorker",
    "memory_settings",
]
