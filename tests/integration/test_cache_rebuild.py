"""The cache from a real prediction topic: rebuild, tail repair, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from random import Random

import orjson
import pytest
from confluent_kafka import Producer

from streamserve.batch import TopicPartition
from streamserve.cache.keys import event_time_version, offset_version
from streamserve.cache.prediction_log import PredictionLog
from streamserve.cache.rebuild import rebuild
from streamserve.cache.repair import RepairLimits, TailRepair
from streamserve.clock import SystemClock
from streamserve.errors import BrokerUnavailable, SourceError
from streamserve.testing.cache import MemoryCache
from tests.services import create_topic, produce, settled, unique


def prediction(topic, partition, offset, event_time=0, **more):
    return orjson.dumps(
        {
            "id": f"{topic}-{partition}-{offset}",
            "model": "m",
            "version": "1",
            "outputs": {"y": 0.5},
            "event_time": event_time,
            "source": {"topic": topic, "partition": partition, "offset": offset} | more,
        }
    )


@pytest.fixture
def topics(kafka):
    """Input and prediction topic, two partitions each."""
    source, out = unique("in"), unique("out")
    create_topic(kafka.bootstrap, source, 2)
    create_topic(kafka.bootstrap, out, 2)
    return source, out


@pytest.fixture
def open_log(kafka):
    opened = []

    def make(topic, inputs=(), order="offset"):
        log = PredictionLog(
            {"bootstrap.servers": kafka.bootstrap}, topic, group=unique("g"), order=order, inputs=inputs
        )
        opened.append(log)
        return log

    yield make
    for log in opened:
        log.close()


def written(kafka, out, records, *, commit=True):
    """Produce (partition, key, value, headers) in one transaction."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique("tx")})
    producer.init_transactions(20)
    producer.begin_transaction()
    for partition, key, value, headers in records:
        producer.produce(out, value, key, partition, headers=headers)
    producer.flush(20)
    if commit:
        producer.commit_transaction(20)
    else:
        producer.abort_transaction(20)
    producer.close()
    settled(kafka.bootstrap, out)


def test_a_rebuild_writes_the_newest_committed_prediction_of_every_key(kafka, topics, open_log):
    source, out = topics
    written(kafka, out, [(i % 2, b"k%d" % (i % 5), prediction(source, i % 2, i), None) for i in range(40)])
    written(kafka, out, [(0, b"k0", prediction(source, 0, 999), None)], commit=False)
    cache = MemoryCache()
    report = rebuild(open_log(out, [source]), cache)
    assert report.records == 40
    assert report.written <= 10
    assert report.written + report.current == 40
    assert report.skipped == {}
    assert {key: version for key, (version, _) in cache.entries.items()} == {
        b"k%d" % k: offset_version(2, 35 + k) for k in range(5)
    }
    assert orjson.loads(cache.entries[b"k0"][1])["source"]["offset"] == 35
    assert set(cache.marks) == {TopicPartition(source, 0), TopicPartition(source, 1)}
    again = rebuild(open_log(out, [source]), cache)
    assert again.written == 0


def test_a_transaction_that_is_open_at_the_start_is_waited_for(kafka, topics, open_log):
    source, out = topics
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique("tx")})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(out, prediction(source, 0, 1), b"open", 0)
    producer.flush(20)
    decide = threading.Timer(1.0, producer.commit_transaction)
    decide.start()
    cache = MemoryCache()
    rebuild(open_log(out, [source]), cache)
    decide.join()
    assert set(cache.entries) == {b"open"}


def test_what_is_no_prediction_of_ours_is_counted_and_skipped(kafka, topics, open_log):
    source, out = topics
    records = [
        (0, b"k", None, None),
        (0, b"k", b"not json", None),
        (0, b"k", b"\xff\xfe", None),
        (0, b"k", b"[1]", None),
        (0, b"k", b'{"source":{}}', None),
        (0, b"k", prediction("another.topic", 0, 1), None),
        (0, None, prediction(source, 0, 1), None),
        (1, b"k", prediction(source, 1, 2), None),
    ]
    written(kafka, out, records)
    cache = MemoryCache()
    report = rebuild(open_log(out, [source]), cache)
    assert report.skipped == {"tombstone": 1, "foreign": 5, "no_entity": 1}
    assert set(cache.entries) == {b"k"}


def test_the_entity_header_and_the_partition_count_in_the_prediction_win(kafka, topics, open_log):
    source, out = topics
    written(
        kafka,
        out,
        [
            (0, b"record-key", prediction(source, 0, 900, partitions=1), [("streamserve.entity", b"entity")]),
            (1, b"record-key", prediction(source, 1, 3, partitions=2), [("streamserve.entity", b"entity")]),
        ],
    )
    cache = MemoryCache()
    rebuild(open_log(out, [source]), cache)
    assert set(cache.entries) == {b"entity"}
    assert cache.entries[b"entity"][0] == offset_version(2, 3)


def test_by_event_time_any_order_gives_the_same(kafka, topics, open_log):
    source, out = topics
    events = [(b"k%d" % (i % 3), Random(i).randrange(-50, 50), i) for i in range(60)]
    Random(7).shuffle(events)
    written(kafka, out, [(i % 2, k, prediction(source, 0, i, t), None) for k, t, i in events])
    cache = MemoryCache()
    rebuild(open_log(out, [source], "event_time"), cache)
    for key in (b"k0", b"k1", b"k2"):
        assert cache.entries[key][0] == max(event_time_version(t, source, 0, i) for k, t, i in events if k == key)


def test_a_rebuild_may_start_at_positions_or_a_time(kafka, topics, open_log):
    source, out = topics
    base = int(time.time() * 1000) - 100_000
    produce(
        kafka.bootstrap,
        out,
        [
            {
                "key": b"k%d" % i,
                "value": prediction(source, 0, i),
                "partition": 0,
                "timestamp": base + i * 1000,
            }
            for i in range(10)
        ],
    )
    cache = MemoryCache()
    rebuild(open_log(out, [source]), cache, start={TopicPartition(out, 0): 6})
    assert set(cache.entries) == {b"k6", b"k7", b"k8", b"k9"}
    assert cache.marks == {}
    by_time = MemoryCache()
    rebuild(open_log(out, [source]), by_time, start=base + 7500)
    assert set(by_time.entries) == {b"k8", b"k9"}


def test_an_empty_topic_is_rebuilt_at_once_and_a_missing_one_is_an_error(kafka, topics, open_log):
    source, out = topics
    assert rebuild(open_log(out, [source]), MemoryCache()).records == 0
    with pytest.raises(SourceError):
        rebuild(open_log(unique("nowhere"), [source]), MemoryCache())


def test_without_a_broker_it_says_so():
    log = PredictionLog({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, "t", group="g", order="offset")
    try:
        with pytest.raises(BrokerUnavailable):
            rebuild(log, MemoryCache())
    finally:
        log.close()


class Settled:
    def ticket(self):
        return 1

    def settled(self, ticket):
        return True


def test_the_tail_is_repaired_on_assignment_and_markers_follow_the_committed_end(kafka, topics, open_log):
    source, out = topics
    written(kafka, out, [(i % 2, b"k%d" % i, prediction(source, i % 2, i), None) for i in range(20)])
    cache = MemoryCache()
    mine = TopicPartition(source, 1)
    repair = TailRepair(
        open_log(out, [source]),
        cache,
        clock=SystemClock(),
        limits=RepairLimits(mark_every_s=0, grace_s=0.05),
    )
    repair.assigned([mine])
    deadline = time.monotonic() + 20
    while not (repair.complete and mine in cache.marks) and time.monotonic() < deadline:
        repair.step(Settled())
    assert set(cache.entries) == {b"k%d" % i for i in range(1, 20, 2)}
    first = cache.marks[mine]
    written(kafka, out, [(1, b"new", prediction(source, 1, 77), None)])
    while cache.marks[mine] == first and time.monotonic() < deadline:
        repair.step(Settled())
        time.sleep(0.01)
    assert cache.marks[mine] == first + 2  # the record and its transaction's marker
    assert b"new" not in cache.entries
    repair.request()
    while b"new" not in cache.entries and time.monotonic() < deadline:
        cache.marks[mine] = first
        repair.step(Settled())
    assert b"new" in cache.entries


@pytest.fixture
def command(kafka, topics, redis_server, tmp_path):
    """Runs `streamserve cache ...` for a pipeline over the topics."""
    source, out = topics
    config = {
        "pipeline": unique("p"),
        "kafka": {"bootstrap.servers": kafka.bootstrap},
        "input": {"topics": [source]},
        "features": [{"name": "x"}],
        "model": {"name": "m"},
        "output": {"topic": out},
        "dead_letter": {"topic": out + ".dlq"},
        "cache": {"url": redis_server.url},
    }
    file = tmp_path / "streamserve.yaml"

    def run(*arguments, **changes):
        file.write_text(json.dumps(config | changes))
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "from streamserve.cli import main; main()",
                "cache",
                arguments[0],
                "-c",
                str(file),
                *arguments[1:],
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"NO_COLOR": "1"},
            check=False,
        )

    return run


def test_the_command_line_rebuilds_and_gets(kafka, topics, command):
    source, out = topics
    document = prediction(source, 0, 1)
    written(kafka, out, [(0, b"AA11", document, None)])
    done = command("rebuild")
    assert done.returncode == 0, done.stderr
    assert "1 records read, 1 written" in done.stdout
    assert json.loads(command("rebuild", "--format", "json").stdout)["current"] == 1
    found = command("get", "AA11")
    assert (found.returncode, found.stdout) == (0, document.decode() + "\n")
    missing = command("get", "AA11", "none", "--format", "json")
    assert missing.returncode == 3
    assert json.loads(missing.stdout) == {"AA11": json.loads(document), "none": None}
    assert command("get", "none").stdout == ""


def test_the_command_line_says_when_the_cache_is_away_or_not_configured(command):
    away = command("get", "a", cache={"url": "redis://127.0.0.1:1/0"})
    assert away.returncode == 69
    assert "127.0.0.1:1" in away.stderr
    assert command("rebuild", cache=None).returncode == 78
