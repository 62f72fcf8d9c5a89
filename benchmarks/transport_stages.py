"""The stages that need a server: produce, poll and commit on a real broker, the cache on a real Redis.

What the client library's own threads do is not in the figures, only what the worker's thread pays. Each is shown beside
the bare calls of the client that nobody can do without.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.compute_stages import settings
from benchmarks.stage import BATCH, Case, Run, Waiting
from streamserve.batch import CacheBatch, Headers, OutboundBatch, TopicPartition
from streamserve.cache.keys import offset_versions
from streamserve.cache.redis_cache import RedisCache
from streamserve.cache.writer import CacheWriter
from streamserve.clock import SystemClock
from streamserve.config.settings import CacheSettings, PipelineSettings
from streamserve.demo.local_kafka import LocalKafka
from streamserve.demo.local_redis import LocalRedis
from streamserve.kafka.clients import consumer_properties, producer_properties
from streamserve.kafka.producing import PartitionCounts, produce_all
from streamserve.kafka.source import KafkaSource
from streamserve.kafka.transactional import TransactionalSink
from streamserve.pipeline.assignment import Assignment
from streamserve.telemetry.logs import Log
from streamserve.testing.cache import MemoryCache

PARTITIONS = 4
PRODUCED = 10 * BATCH
"""Records of one timed run of `produce`; they are flushed before the next."""
POLLED = 20 * BATCH
BACKLOG = 1_000_000
COMMITTED = (1, 512, 8192)
"""Records of a transaction."""
IN, OUT = "flights.departures", "flights.predictions"


def kafka(stack: ExitStack) -> Iterator[Case | Waiting]:
    """Produce, poll and commit on a broker that is started for it."""
    bootstrap = stack.enter_context(LocalKafka()).bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in (IN, OUT)]).values():
        future.result()
    time.sleep(1)
    pipeline = settings(
        [{"name": "x"}], id=None, kafka={"bootstrap.servers": bootstrap}, input={"topics": [IN], "start": "beginning"}
    )
    yield from _produce(pipeline)
    yield from _commit(pipeline, stack)
    _fill(bootstrap)
    yield from _poll(pipeline, stack)


def _outbound(rows: int, headers: Headers | None = None) -> OutboundBatch:
    """Predictions of 140 bytes, four partitions by turns."""
    return OutboundBatch(
        topic=OUT,
        row=list(range(rows)),
        partition=[i % PARTITIONS for i in range(rows)],
        key=[b"%d" % i for i in range(rows)],
        value=[b"%0140d" % i for i in range(rows)],
        headers=[headers] * rows if headers else [],
    )


def _produce(pipeline: PipelineSettings) -> Iterator[Case]:
    """One thread's cost of a record, ours and the bare call's; one header and none."""
    producer: Any = Producer(producer_properties(pipeline))
    partitions = PartitionCounts()
    produce_all(producer, _outbound(100_000), partitions)  # a broker that was just started is slow
    producer.flush()
    header: Headers = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    for name, headers in (("", None), (", a header", header)):
        outbound = _outbound(PRODUCED, headers)
        yield Case(f"produce{name}", _all(producer, outbound, partitions), PRODUCED, producer.flush)
        yield Case(f"produce, bare client{name}", _bare(producer, outbound, headers), PRODUCED, producer.flush)


def _all(producer: Any, outbound: OutboundBatch, partitions: PartitionCounts) -> Run:
    return lambda: produce_all(producer, outbound, partitions)


def _bare(producer: Any, outbound: OutboundBatch, headers: Headers | None) -> Run:
    """The loop that a good engineer writes by hand."""

    def run() -> None:
        produce = producer.produce
        for value, key, partition in zip(outbound.value, outbound.key, outbound.partition, strict=True):
            produce(OUT, value, key, partition)

    def run_with_headers() -> None:
        produce = producer.produce
        for value, key, partition in zip(outbound.value, outbound.key, outbound.partition, strict=True):
            produce(OUT, value, key, partition, headers=headers)

    return run if headers is None else run_with_headers


def _commit(pipeline: PipelineSettings, stack: ExitStack) -> Iterator[Waiting]:
    """A transaction from begin to committed: records, flush, offsets, commit."""
    log = Log.open(stream=io.StringIO())
    sink = TransactionalSink(
        lambda name: producer_properties(pipeline, transactional_id=name), ["bench.0"], SystemClock(), log
    )
    sink.open()
    stack.callback(sink.close)
    consumer: Any = Consumer({**consumer_properties(pipeline), "group.id": "bench-commit"})
    stack.callback(consumer.close)
    consumer.subscribe([IN])
    while not consumer.assignment():
        consumer.poll(0.1)
    metadata, position = consumer.consumer_group_metadata(), count()

    def run(outbound: OutboundBatch) -> None:
        transaction = sink.begin(10)
        assert transaction is not None
        transaction.add(outbound)
        transaction.flush()
        transaction.commit({TopicPartition(IN, 0): next(position)}, metadata)

    for rows in COMMITTED:
        outbound = _outbound(rows)
        for _ in range(5):
            run(outbound)
        yield Waiting(f"commit {rows} records", lambda outbound=outbound: run(outbound))


def _fill(bootstrap: str) -> None:
    producer: Any = Producer(
        {"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 2 * BACKLOG, "compression.type": "lz4"}
    )
    value = b'{"id":"e0","x":[' + b",".join([b"0.4967"] * 16) + b"]}"
    for i in range(BACKLOG):
        producer.produce(IN, value, b"k%d" % (i % 1000), i % PARTITIONS)
    producer.flush()


class _Listener:
    """Nobody who minds."""

    def on_assigned(self, partitions: object) -> None: ...

    def on_revoked(self, partitions: object) -> None: ...

    def on_lost(self, partitions: object) -> None: ...


def _poll(pipeline: PipelineSettings, stack: ExitStack) -> Iterator[Case]:
    """Columns of a backlog, and the client's own messages with nothing but their values read."""
    clock, log = SystemClock(), Log.open(stream=io.StringIO())
    assignment = Assignment(clock)
    source = KafkaSource(pipeline, assignment, clock, log)
    source.open(_Listener())
    stack.callback(source.close)
    consumer: Any = Consumer({**consumer_properties(pipeline), "group.id": "bench-bare"})
    stack.callback(consumer.close)
    consumer.assign([ClientPartition(IN, partition, 0) for partition in range(PARTITIONS)])

    def columns() -> None:
        got = 0
        while got < POLLED:
            records = source.poll(BATCH, 1)
            got += len(records) if records is not None else 0

    def bare() -> None:
        got = 0
        while got < POLLED:
            messages = consumer.consume(BATCH, 1)
            got += len([message.value() for message in messages])
            if not messages:
                raise RuntimeError("the backlog is used up: fewer --seconds or --repetitions")

    def settle() -> None:
        """Let the client fetch ahead, so that only what is there already is timed."""
        time.sleep(0.05)

    columns()
    yield Case("poll", columns, POLLED, settle)
    bare()
    yield Case("poll, bare client, values alone", bare, POLLED, settle)


def cache(stack: ExitStack) -> Iterator[Case]:
    """A batch of keys to a Redis that is started for it; `benchmarks.cache_write` takes it apart."""
    url = stack.enter_context(LocalRedis()).url
    store = RedisCache(CacheSettings(url=url, timeout_ms=5000), "bench")
    plain = redis.Redis.from_url(url)
    writer = CacheWriter(MemoryCache(), queue_size=100_000, clock=SystemClock())
    keys, documents = [b"user-%d" % i for i in range(BATCH)], [b"x" * 300] * BATCH
    numbers = count()

    def batch() -> CacheBatch:
        first = next(numbers) * BATCH
        versions = offset_versions(8, range(first, first + BATCH))
        return CacheBatch(row=list(range(BATCH)), key=keys, version=versions, document=documents)

    def sets() -> None:
        pipeline = plain.pipeline(transaction=False)
        for key, value in zip(keys, documents, strict=True):
            pipeline.set(key, value, ex=86_400)
        pipeline.execute()

    yield Case("cache, versions", batch)
    yield Case("cache, write", lambda: store.write(batch()))
    yield Case("cache, offer to the queue", lambda: writer.offer(batch()))
    yield Case("cache, pipeline of plain SETs", sets)
