"""FastStream with its Confluent broker: `apps/faststream_app.py`, a batch subscriber.

Batches of at most 512, a decoder of ours that hands the records on (its own makes a message object of each), msgspec,
uvloop, no validation of arguments, no log, lz4, a linger of 5 ms. Each prediction is published with `no_confirm=True`
and all are awaited at once, which took two thirds of the CPU of `publish_batch`: that starts a task for each.
`NACK_ON_ERROR` commits after the handler, which returns when every prediction is delivered: at least once. It takes a
transactional id but never begins a transaction, so there is no exactly once.
"""

from __future__ import annotations

from benchmarks.peers.environment import PythonPeer


class FastStream(PythonPeer):
    """`benchmarks.peers.Peer`."""

    name = "faststream"
    environment = "faststream"
    packages = ("faststream", "confluent-kafka", "onnxruntime", "msgspec")
