from __future__ import annotations

import msgspec
from confluent_kafka import Producer

from benchmarks.broker import Bench
from benchmarks.peers.environment import PythonPeer
from benchmarks.workloads import PARTITIONS, Workload


class MLServer(PythonPeer):
    """`OwnFormat`: JSON of the Open Inference Protocol."""

    name = "mlserver"
    largest: int | None = 20_000
    packages = ("mlserver", "aiokafka", "onnxruntime", "orjson")

    def fill(self, bench: Bench, topic: str, workload: Workload, count: int) -> None:
        bench.create(topic)
        producer = Producer({"bootstrap.servers": bench.bootstrap, "compression.type": "lz4"})
        for number, text in enumerate(workload.events(count)):
            event = msgspec.json.decode(text)
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, workload.width], "data": event["x"]}
            value = msgspec.json.encode({"id": event["id"], "inputs": [tensor]})
            while True:
                try:
                    producer.produce(topic, value, partition=number % PARTITIONS, headers={"mlserver-model": b"m"})
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()

    def prediction(self, value: bytes) -> tuple[str, list[float]]:
        message = msgspec.json.decode(value)
        return message["id"], message["outputs"][0]["data"]
