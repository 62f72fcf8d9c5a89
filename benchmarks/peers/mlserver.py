"""MLServer in its Kafka mode: `apps/mlserver_app.py`, a runtime of ours that runs the ONNX file.

It reads and writes the Open Inference Protocol as JSON (orjson), with the model's name in the header `mlserver-model`,
so it has a topic of its own; records have no key, because a key would replace the event's id. Adaptive batching of at
most 512 requests in 5 ms, inference in the server's process (`parallel_workers=0`), uvloop, no metrics, warnings only.
Batches of 50 ms were no faster, none at all took 1.6 times the CPU.

Three things cannot be set, so the application sets them in the clients that MLServer makes: a group and the beginning
of the topic (MLServer reads from the end, without a group), lz4 and 5 ms of linger, and a producer batch of 1 MiB.
With batches of 16 KiB, the default, and idempotence, a backlog of 20,000 events logged some 9,000 `KafkaTimeoutError`s;
with 1 MiB and no idempotence none was lost. Which of the two did it was not tried apart. A task is started for each
record without bound, so a backlog is all in memory at once: hence a small `largest`.

It promises nothing: a record that fails is logged and never read again, and with the group that the application adds,
offsets are committed by time, whether or not their records were scored. It stands beside those that give at least once.
"""

from __future__ import annotations

import msgspec
from confluent_kafka import Producer

from benchmarks.broker import Bench
from benchmarks.peers.environment import PythonPeer
from benchmarks.workloads import PARTITIONS, Workload


class MLServer(PythonPeer):
    """`OwnFormat`: JSON of the Open Inference Protocol."""

    name = "mlserver"
    environment = "mlserver"
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
