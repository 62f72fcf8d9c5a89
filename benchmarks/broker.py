"""A real broker, topics on it, and one contender at a time that works a topic off."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.contenders import Contender, Guarantee, Job
from benchmarks.measure import OutputCounter, Throughput, work_off
from benchmarks.workloads import PARTITIONS, Workload


class Bench:
    """One broker, and the runs on it."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._numbers = count()
        self._partitions: dict[str, int] = {}

    def create(self, *topics: str, partitions: int = PARTITIONS) -> None:
        """Make topics, and wait until they can be used."""
        for future in self._admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics]).values():
            future.result()
        deadline = time.monotonic() + 30
        for topic in topics:
            self._partitions[topic] = partitions
            while len(self._admin.list_topics(topic, timeout=5).topics[topic].partitions) < partitions:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{topic} did not come about")

    def fill(self, topic: str, events: list[bytes], partitions: int = PARTITIONS) -> None:
        """Make a topic of these events; 1,000 keys, partition by partition in turn."""
        self.create(topic, partitions=partitions)
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "queue.buffering.max.messages": 2_000_000, "compression.type": "lz4"}
        )
        for i, event in enumerate(events):
            while True:
                try:
                    producer.produce(topic, event, b"k%d" % (i % 1000), i % partitions)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()

    def job(self, contender: Contender, workload: Workload, topic: str, guarantee: Guarantee) -> Job:
        """A run of `contender` on `topic`, with topics of its own to write to."""
        name = f"{contender.name}{next(self._numbers)}".replace(" ", "-").replace(",", "")
        output = f"{name}.predictions"
        self.create(output, partitions=self._partitions[topic])
        self.create(f"{name}.dlq", f"{name}.samples")
        model = workload.save_model(self.folder / "models")
        return Job(
            bootstrap=self.bootstrap,
            name=name,
            topic=topic,
            output=output,
            workload=workload,
            model=model,
            guarantee=guarantee,
            folder=self.folder,
        )

    def work_off(
        self, contender: Contender, workload: Workload, topic: str, guarantee: Guarantee, events: int
    ) -> Throughput:
        """Have `contender` work off a topic of `events` events."""
        job = self.job(contender, workload, topic, guarantee)
        counter = OutputCounter(self.bootstrap, job.output, self._partitions[topic])
        try:
            return work_off(contender.command(job), counter, events)
        finally:
            counter.close()
