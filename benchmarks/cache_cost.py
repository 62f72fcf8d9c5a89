"""What the cache costs a worker: its CPU with a `cache` block over its CPU without, exactly once, a backlog of `mlp`.

    .venv/bin/python -m benchmarks.cache_cost                   # some minutes
    .venv/bin/python -m benchmarks.cache_cost --pairs 2 --scale 0.5 --dry

Pairs take turns on the same topic, each with a group and output topics of its own, the order changing from pair to
pair. `few`: 1,000 keys, so that most entries are overtaken by newer ones before they are sent. `many`: 100,000 keys, as
many as the queue before the cache holds; a write has as many keys as Redis lets a worker send. After each run with the
cache, it must hold every key. The CPU of Redis is not the worker's and not counted, but on a machine with few cores it
is taken from the worker's caches. Ratios are of one pair; the bound is on their median.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import redis

from benchmarks.broker import Bench
from benchmarks.contenders import Worker
from benchmarks.measure import Throughput
from benchmarks.results import say, spread, verdict
from benchmarks.workloads import WORKLOADS
from streamserve.demo.local_kafka import LocalKafka
from streamserve.demo.local_redis import LocalRedis

KEYS = {"few": 1000, "many": 100_000}


def main() -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(prog="benchmarks.cache_cost", description=__doc__)
    parser.add_argument("--keys", nargs="+", default=list(KEYS), choices=list(KEYS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the backlog")
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalKafka() as kafka, LocalRedis() as server:
        costs = Costs(Bench(kafka.bootstrap, Path(folder)), server.url, int(WORKLOADS["mlp"].backlog * options.scale))
        for keys in options.keys:
            costs.run(keys, options.pairs)
    return verdict(costs.figures, kept=not options.dry)


class Costs:
    """Runs the pairs, prints them as they come, collects figures under names that `bounds.toml` knows.

    Args:
        bench: the broker.
        url: of the Redis server.
        events: of one run.
    """

    def __init__(self, bench: Bench, url: str, events: int) -> None:
        self._bench = bench
        self._events = events
        self._workload = WORKLOADS["mlp"]
        self._without = Worker()
        self._with = Worker(f'cache: {{url: "{url}"}}\n', name="cached")
        self._redis = redis.Redis.from_url(url)
        self.figures: dict[str, list[float]] = {}

    def run(self, keys: str, pairs: int) -> None:
        """All pairs of a case."""
        distinct = min(KEYS[keys], self._events)
        self._bench.fill(keys, self._workload.events(self._events), keys=distinct)  # a key stays in its partition
        self._cost(keys, self._without)  # the first run on a new topic is slow: left out
        for number in range(pairs):
            if number % 2:
                with_cache = self._cached(keys, distinct)
                without = self._cost(keys, self._without)
            else:
                without = self._cost(keys, self._without)
                with_cache = self._cached(keys, distinct)
            ratio = with_cache.cpu_s_per_million / without.cpu_s_per_million
            say(
                f"{keys:5} {number + 1:2}: without {without.cpu_s_per_million:6.2f},"
                f" with {with_cache.cpu_s_per_million:6.2f} CPU s per million, ratio {ratio:.3f};"
                f" {without.events_per_s:,.0f} and {with_cache.events_per_s:,.0f} events a second"
            )
            for figure, value in (
                ("off", without.cpu_s_per_million),
                ("on", with_cache.cpu_s_per_million),
                ("cpu_ratio", ratio),
                ("throughput_ratio", with_cache.events_per_s / without.events_per_s),
            ):
                self.figures.setdefault(f"cache.{keys}.{figure}", []).append(value)
        say(f"{keys:5} CPU ratio {spread(self.figures[f'cache.{keys}.cpu_ratio'])}")

    def _cached(self, keys: str, distinct: int) -> Throughput:
        """A run with the cache, which must hold every key in the end."""
        self._redis.flushdb()
        found = self._cost(keys, self._with)
        held = self._redis.dbsize() - 1  # the repair markers are one key
        if held < distinct:
            raise RuntimeError(f"the cache holds {held} of {distinct} keys")
        return found

    def _cost(self, keys: str, worker: Worker) -> Throughput:
        return self._bench.work_off(worker, self._workload, keys, "exactly_once", self._events)


if __name__ == "__main__":
    sys.exit(main())
