"""Faust (faust-streaming): `apps/faust_app.py`, an agent that takes micro-batches of at most 512 events.

`take_events` gives key, partition and offset with each value; values are decoded and encoded with msgspec, and a batch
is acknowledged when all its predictions are delivered. They go to `app.producer` at once, which took half the CPU of
`topic.send`, that makes a message and a future of each and tells the sensors. Its compiled extensions are used; lz4, a
linger of 5 ms, a commit every second, no web server, no leader topic, a buffer of several batches. uvloop changed
nothing, nor did waiting longer for a batch or a commit every 2.8 s, its default.

Only at least once. `processing_guarantee="exactly_once"` starts and scores right, but its predictions are in no
transaction: a record is sent in one only if the consumer knows partitions of the topic it goes to
(`faust/transport/consumer.py`, `TransactionManager.send`; `drivers/aiokafka.py`, `key_partition`), and it knows only
the topics that it reads. Seen as well: 2,000 predictions, not one transaction marker in the output topic.
"""

from __future__ import annotations

from benchmarks.peers.environment import PythonPeer


class Faust(PythonPeer):
    """`benchmarks.peers.Peer`."""

    name = "faust"
    environment = "faust"
    largest: int | None = 60_000
    packages = ("faust-streaming", "aiokafka", "onnxruntime", "msgspec")
