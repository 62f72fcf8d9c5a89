"""A real broker, topics on it, and one contender at a time that works a topic off."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.contenders import Contender, Guarantee, Job
from benchmarks.measure import OutputCounter, Throughput, work_off
from benchmarks.workloads import PARTITIONS, Workload

KEYS = 1000


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

    def fill(self, topic: str, events: Iterable[bytes], partitions: int = PARTITIONS, keys: int = KEYS) -> None:
        """Make a topic of these events; so many keys, partition by partition in turn."""
        self.create(topic, partitions=partitions)
        self.append(topic, events, keys)

    def append(self, topic: str, events: Iterable[bytes], keys: int = KEYS) -> None:
        """Add events to a topic, as `fill` does."""
        partitions = self._partitions[topic]
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "queue.buffering.max.messages": 2_000_000, "compression.type": "lz4"}
        )
        for i, event in enumerate(events):
            while True:
                try:
                    producer.produce(topic, event, b"k%d" % (i % keys), i % partitions)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()

    def job(self, contender: Contender, workload: Workload, topic: str, guarantee: Guarantee) -> Job:
        """A run of `contender` on `topic`, with topics of its own to write to."""
        name = f"{contender.name}{next(self._numbers)}".lower().replace(" ", "-").replace(",", "")
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
        self,
        contender: Contender,
        workload: Workload,
        topic: str,
        guarantee: Guarantee,
        events: int,
        flow_s: float = math.inf,
        topics: Sequence[str] = (),
    ) -> Throughput:
        """Have `contender` work off a topic of `events` events, at most for `flow_s` after its first output.

        Args:
            topics: all that it reads, when `topic` is not the only one.
        """
        job = self.job(contender, workload, topic, guarantee)
        counter = OutputCounter(self.bootstrap, job.output, self._partitions[topic])
        try:
            log = self.folder / f"{job.name}.log"
            found = work_off(contender.command(job), counter, events, flow_s=flow_s, log=log)
            share = self._share_of_events(job, counter.count(), topics) if guarantee == "exactly_once" else 1.0
        finally:
            counter.close()
        return replace(
            found, events_per_s=found.events_per_s * share, cpu_s_per_million=found.cpu_s_per_million / share
        )

    def _share_of_events(self, job: Job, offsets: int, topics: Sequence[str]) -> float:
        """The share of predictions among the offsets of the output; the others are transactions' control records."""
        events = self.committed(job, topics)
        if not 0.5 * offsets < events <= offsets:
            raise RuntimeError(f"{job.name} committed {events} events and wrote {offsets} offsets")
        return events / offsets

    def committed(self, job: Job, topics: Sequence[str] = ()) -> int:
        """How many events of its topic, or of these, the job's group has committed."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": job.name})
        partitions = [
            TopicPartition(topic, number)
            for topic in topics or [job.topic]
            for number in range(self._partitions[topic])
        ]
        try:
            return sum(max(0, partition.offset) for partition in consumer.committed(partitions, timeout=10))
        finally:
            consumer.close()

    def delete(self, topic: str) -> None:
        """Remove a topic, so that its disk space is free."""
        self._admin.delete_topics([topic])[topic].result()
