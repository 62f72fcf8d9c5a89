"""Quix Streams, twice: `apps/quix_app.py`, a StreamingDataFrame that scores a row at a time and writes with `to_topic`,
and `apps/quix_sink_app.py`, a custom sink that scores the rows of a checkpoint in batches.

The first is what its documentation recommends: `apply` with a function of a row, typed msgspec decoding and encoding
through `JSONDeserializer(loads=…)` and `JSONSerializer(dumps=…)`, keys as bytes. There is no batch operator: `apply`
sees a row, windows need a state store. Exactly once commits every 100 ms as the hand-written loop does, at least once
every 5 s, its default; lz4, a linger of 5 ms, a large producer queue, no topic creation, its broker check for each
message off. A larger fetch queue and a shorter poll timeout changed nothing.

The second is what a user after throughput may write: a `BatchingSink` with a producer of its own, flushed before the
offsets are committed: at least once, in batches of at most 512, for less than half the CPU. Predictions come when a
checkpoint does, every 250 ms, and so in bursts: trust its CPU seconds before its throughput, which a run of few
checkpoints overstates (one at 5 s seemed six times as fast). One run each at 100 ms and 250 ms gave 18 and 15 CPU
seconds a million.
"""

from __future__ import annotations

from benchmarks.contenders import Guarantee
from benchmarks.peers.environment import PythonPeer


class Quix(PythonPeer):
    """`benchmarks.peers.Peer`: the row at a time."""

    name = "quix"
    environment = "quix"
    guarantees: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
    packages = ("quixstreams", "confluent-kafka", "onnxruntime", "msgspec")


class QuixSink(PythonPeer):
    """`benchmarks.peers.Peer`: the custom sink."""

    name = "quix_sink"
    environment = "quix"
    packages = Quix.packages
