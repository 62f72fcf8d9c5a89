"""What a cache write costs: client CPU a key of `RedisCache.write`, beside a pipeline of plain SETs.

    python -m benchmarks.cache_write [--keys 512] [--bytes 300] [--rounds 300]

A local Redis is started. Medians over the rounds; the pipeline of SETs is what a first draft would do, and keeps
no order. Also: what versions, the offer to the queue and its coalescing cost a key.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import redis

from streamserve.batch import CacheBatch
from streamserve.cache.keys import event_time_versions, offset_versions
from streamserve.cache.redis_cache import RedisCache
from streamserve.cache.writer import CacheWriter
from streamserve.clock import SystemClock
from streamserve.config.settings import CacheSettings
from streamserve.demo.local_redis import LocalRedis
from streamserve.testing.cache import MemoryCache


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=512)
    parser.add_argument("--bytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with LocalRedis() as server:
        measure(server.url, options.keys, b"x" * options.bytes, options.rounds)


def measure(url: str, count: int, document: bytes, rounds: int) -> None:
    """Measure on a running server."""
    keys = [b"user-%d" % number for number in range(count)]
    cache = RedisCache(CacheSettings(url=url, timeout_ms=5000), "benchmark")
    plain = redis.Redis.from_url(url)
    writer = CacheWriter(MemoryCache(), queue_size=100_000, clock=SystemClock())
    batches = [
        CacheBatch(
            row=list(range(count)),
            key=keys,
            version=offset_versions(8, range(number * count, (number + 1) * count)),
            document=[document] * count,
        )
        for number in range(rounds)
    ]

    def sets(batch: CacheBatch) -> None:
        pipeline = plain.pipeline(transaction=False)
        for key, value in zip(batch.key, batch.document, strict=True):
            pipeline.set(key, value, ex=86_400)
        pipeline.execute()

    def offered(batch: CacheBatch) -> None:
        writer.offer(batch)
        writer._take()  # noqa: SLF001 - the cost of coalescing alone

    offsets, zeros, topics = list(range(count)), [0] * count, ["t"] * count
    steps: list[tuple[str, Callable[[CacheBatch], object]]] = [
        ("compare-and-set, one script call", cache.write),
        ("pipeline of SETs", sets),
        ("offer and coalesce", offered),
        ("versions by offset", lambda _: offset_versions(8, offsets)),
        ("versions by event time", lambda _: event_time_versions(offsets, topics, zeros, offsets)),
    ]
    print(f"{'us a key, median of ' + str(rounds):36}{'client CPU':>12}{'wall':>8}")
    for name, step in steps:
        cpu_s, wall_s = timed(step, batches)
        print(f"{name:36}{cpu_s / count * 1e6:12.2f}{wall_s / count * 1e6:8.2f}")


def timed(step: Callable[[CacheBatch], object], batches: list[CacheBatch]) -> tuple[float, float]:
    """Median CPU and wall seconds of a step."""
    cpu: list[float] = []
    wall: list[float] = []
    for batch in batches:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        step(batch)
        cpu.append(time.process_time() - cpu_s)
        wall.append(time.perf_counter() - wall_s)
    return statistics.median(cpu), statistics.median(wall)


if __name__ == "__main__":
    main()
