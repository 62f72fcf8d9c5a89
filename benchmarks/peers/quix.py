"""Quix Streams."""

from __future__ import annotations

from benchmarks.contenders import Guarantee
from benchmarks.peers.environment import PythonPeer


class Quix(PythonPeer):
    name = "quix"
    guarantees: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
    packages = ("quixstreams", "confluent-kafka", "onnxruntime", "msgspec")
