from __future__ import annotations

from benchmarks.peers.environment import PythonPeer


class FastStream(PythonPeer):
    name = "faststream"
    packages = ("faststream", "confluent-kafka", "onnxruntime", "msgspec")
