from __future__ import annotations

from benchmarks.contenders import Guarantee
from benchmarks.peers.environment import PythonPeer


class Faust(PythonPeer):
    name = "faust"
    guarantees: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
    packages = ("faust-streaming", "aiokafka", "onnxruntime", "msgspec")
