"""Quix Streams: `apps/quix_app.py`, a StreamingDataFrame that scores a row at a time and writes with `to_topic`.

As its documentation recommends: `apply` with a function of a row, typed msgspec decoding and encoding through
`JSONDeserializer(loads=…)` and `JSONSerializer(dumps=…)`, keys as bytes. It has no batch operator: `apply` sees a row,
windows need a state store. Exactly once commits every 100 ms as the hand-written loop does, at least once every 5 s,
its default; lz4, a linger of 5 ms, a large producer queue, no topic creation, its broker check for each message off.
"""

from __future__ import annotations

from benchmarks.contenders import Guarantee
from benchmarks.peers.environment import PythonPeer


class Quix(PythonPeer):
    """`benchmarks.peers.Peer`."""

    name = "quix"
    guarantees: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
    packages = ("quixstreams", "confluent-kafka", "onnxruntime", "msgspec")
