"""`produce`, `tail` and `dlq` against a real broker, called as a user calls them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from confluent_kafka import Producer

from streamserve.batch import ModelIdentity, RecordBatch, Reject
from streamserve.cli import main
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.config.loading import load
from streamserve.kafka import dead_letters
from streamserve.kafka.clients import producer_properties, reader_properties
from streamserve.kafka.dead_letters import DeadLetterTopic, Replayer, Resend, replay_group
from tests.services import create_topic, produce, read_all, settled, unique

PROGRAM = [sys.executable, "-c", "from streamserve.cli import main; main()"]


class Pipeline:
    """A pipeline's topics and configuration file."""

    def __init__(self, folder, bootstrap: str, **input_settings) -> None:
        self.bootstrap = bootstrap
        self.name = unique("p")
        self.events, self.predictions, self.dead = (f"{self.name}.{kind}" for kind in ("in", "out", "dlq"))
        for topic in (self.events, self.predictions, self.dead):
            create_topic(bootstrap, topic, 3)
        self.file = folder / "streamserve.yaml"
        document = {
            "version": 1,
            "pipeline": self.name,
            "kafka": {"bootstrap.servers": bootstrap},
            "input": {"topics": [self.events], **input_settings},
            "features": [{"name": "distance"}, {"name": "temp"}],
            "model": {"name": "m"},
            "output": {"topic": self.predictions},
            "dead_letter": {"topic": self.dead},
        }
        self.file.write_text(json.dumps(document))

    def settings(self):
        return load(self.file).settings

    def dead_letters(self, rejects: list[tuple[str, ...]], *, headers=(), topic: str = "", partitions: int = 3) -> None:
        """One dead letter per (reason, detail[, feature]), one transaction each, so that markers lie between them."""
        n = len(rejects)
        records = RecordBatch(
            topic=[topic or self.events] * n,
            partition=[i % partitions for i in range(n)],
            offset=list(range(n)),
            timestamp_ms=[int(time.time() * 1000)] * n,
            key=[b"k%d" % i for i in range(n)],
            value=[b'{"n":%d}' % i if reason != "too_large" else b"x" * 5000 for i, (reason, *_) in enumerate(rejects)],
            headers=lambda: [list(headers)] * n,
        )
        encoder = DeadLetterEncoder(self.dead, self.name, 2000, ModelIdentity(name="m", version="1"))
        out = encoder.encode(records, [Reject(i, "enrich", *reject) for i, reject in enumerate(rejects)])
        producer = Producer({"bootstrap.servers": self.bootstrap, "transactional.id": unique("t")})
        producer.init_transactions()
        for row in range(n):
            producer.begin_transaction()
            producer.produce(
                out.topic,
                out.value[row],
                out.key[row],
                out.partition[row] % 3,
                headers=out.headers[row],
                timestamp=out.timestamp_ms[row],
            )
            producer.commit_transaction()
        settled(self.bootstrap, out.topic)


@pytest.fixture
def pipeline(kafka, tmp_path):
    return Pipeline(tmp_path, kafka.bootstrap)


@pytest.fixture
def run(pipeline, capsys):
    """Calls a command; returns exit code, stdout, stderr."""

    def call(*arguments: str, code: int = 0):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "-c", str(pipeline.file)])
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        assert "Traceback" not in err
        return out, err

    return call


def lines_file(folder, count: int, start: int = 0):
    file = folder / "events.jsonl"
    file.write_text("".join(f'{{"id":"e{i}","distance":{i}}}\n' for i in range(start, start + count)))
    return str(file)


def test_every_line_becomes_an_event_with_its_key(pipeline, run, tmp_path):
    out, _ = run("produce", lines_file(tmp_path, 500), "--key", "id", "--format", "json")

    summary = json.loads(out)
    assert (summary["sent"], summary["failed"]) == (500, 0)
    found = read_all(pipeline.bootstrap, pipeline.events)
    assert {m.key(): m.value() for m in found} == {
        b"e%d" % i: b'{"id":"e%d","distance":%d}' % (i, i) for i in range(500)
    }


def test_count_repeat_and_rate_hold(pipeline, run, tmp_path):
    started_s = time.monotonic()
    out, _ = run("produce", lines_file(tmp_path, 3), "--repeat", "--count", "20", "--rate", "20/s")

    assert time.monotonic() - started_s > 0.9
    assert out.startswith("20 events sent")
    assert len(read_all(pipeline.bootstrap, pipeline.events)) == 20


def test_a_bad_line_is_named_after_the_events_before_it_were_sent(pipeline, run, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"a":1}\n\n{"a":\n{"a":2}\n')

    out, err = run("produce", str(file), code=1)

    assert "1 event sent" in out
    assert "bad.jsonl:3: not JSON" in err
    assert [m.value() for m in read_all(pipeline.bootstrap, pipeline.events)] == [b'{"a":1}']


def test_an_event_that_is_refused_is_a_failure_and_not_a_stop(pipeline, run, tmp_path):
    file = tmp_path / "large.jsonl"
    file.write_text('{"a":1}\n{"a":"' + random.randbytes(1_500_000).hex() + '"}\n{"a":3}\n')

    out, err = run("produce", str(file), code=1)

    assert "2 events sent" in out
    assert "1 failed" in out
    assert "MSG_SIZE_TOO_LARGE" in err


def test_no_broker_ends_with_69(pipeline, run, tmp_path, unused_address):
    _, err = run("produce", lines_file(tmp_path, 1), "--set", f"kafka.bootstrap.servers={unused_address}", code=69)

    assert "no Kafka broker answered" in err


@pytest.fixture
def unused_address():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("command", [["tail", "--no-follow"], ["dlq", "ls"], ["produce", __file__]])
def test_a_missing_topic_is_named_with_the_remedy(command, run):
    flags = ["--set", f"dead_letter.topic={unique('no')}", "--set", f"output.topic={unique('no')}"]
    flags += ["--topic", unique("no")] if command[0] == "produce" else []

    _, err = run(*command, *flags, code=1)

    assert "does not exist" in err
    assert "streamserve topics apply" in err


def test_tail_shows_the_newest_across_partitions_without_joining_a_group(pipeline, run):
    now_ms = int(time.time() * 1000)
    prediction = b'{"id":"e%d","model":"m","version":"1","outputs":{"p":0.5}}'
    records = [
        {"value": prediction % i, "key": b"k%d" % i, "partition": i % 3, "timestamp": now_ms + i} for i in range(30)
    ]
    produce(pipeline.bootstrap, pipeline.predictions, records)

    out, _ = run("tail", "-n", "4")

    assert [line.split("  ")[1] for line in out.splitlines()] == ["k26", "k27", "k28", "k29"]
    assert out.splitlines()[-1].endswith("  k29  m@1  p=0.5  2:9")
    out, _ = run("tail", "--from", "beginning", "--no-follow", "--format", "json")
    assert len([json.loads(line) for line in out.splitlines()]) == 30
    out, _ = run("tail", "--from", str(now_ms + 28), "--no-follow", "--key", "k29")
    assert len(out.splitlines()) == 1


def test_tail_never_shows_what_was_aborted(pipeline, run):
    producer = Producer({"bootstrap.servers": pipeline.bootstrap, "transactional.id": unique("t")})
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        producer.produce(pipeline.predictions, b"record %d" % number, partition=0)
        producer.flush()
        producer.abort_transaction() if number % 2 else producer.commit_transaction()
    settled(pipeline.bootstrap, pipeline.predictions)

    out, _ = run("tail", "--from", "-3", "--no-follow")

    assert [line.split("  ")[2] for line in out.splitlines()] == ["record 0", "record 2", "record 4"]


def test_tail_follows_and_ends_well_on_ctrl_c(pipeline):
    child = subprocess.Popen(
        [*PROGRAM, "tail", "--from", "beginning", "-c", str(pipeline.file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    produce(pipeline.bootstrap, pipeline.predictions, [b"first"])
    assert "first" in child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)

    assert (child.returncode, err) == (0, "")


def test_produce_from_a_pipe_ends_well_on_ctrl_c(pipeline):
    child = subprocess.Popen(
        [*PROGRAM, "produce", "--format", "json", "-c", str(pipeline.file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdin.write(b'{"a":1}\n')
    child.stdin.flush()
    while not read_all(pipeline.bootstrap, pipeline.events):
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)

    assert (child.returncode, err) == (0, b"")
    assert json.loads(out)["interrupted"] is True
    assert json.loads(out)["sent"] == 1


REJECTS = [
    ("out_of_range", "distance = 9 is above 6", "distance"),
    ("decode", "not JSON"),
    ("too_large", "5000 bytes"),
] * 2


def test_ls_counts_by_reason_stage_and_feature(pipeline, run):
    pipeline.dead_letters(REJECTS)

    kinds = json.loads(run("dlq", "ls", "--format", "json")[0])

    assert {(k["reason"], k["stage"], k["feature"], k["count"]) for k in kinds} == {
        ("out_of_range", "enrich", "distance", 2),
        ("decode", "enrich", "", 2),
        ("too_large", "enrich", "", 2),
    }
    out, _ = run("dlq", "ls")
    assert "out_of_range  enrich  distance  2" in out


def test_show_prints_what_ls_points_at(pipeline, run):
    pipeline.dead_letters(REJECTS, headers=[("traceparent", b"00-1")])
    example = json.loads(run("dlq", "ls", "--reason", "decode", "--format", "json")[0])[0]["example"]

    out, _ = run("dlq", "show", example)

    assert "message:  not JSON" in out
    assert "header:   traceparent = 00-1" in out
    assert '  {"n":4}' in out
    assert "sha256" in run("dlq", "show", "--reason", "too_large")[0]
    assert "has no record at 0:99" in run("dlq", "show", "0:99", code=1)[1]


def test_a_replay_brings_back_key_value_headers_partition_and_time_once(pipeline, run):
    pipeline.dead_letters(REJECTS, headers=[("traceparent", b"00-1")])

    assert "2 would be sent" in run("dlq", "replay", "--reason", "decode", "--dry-run")[0]
    assert read_all(pipeline.bootstrap, pipeline.events) == []
    for _ in range(2):
        run("dlq", "replay", "--reason", "decode")
    letters = {m.key(): m for m in read_all(pipeline.bootstrap, pipeline.dead)}
    found = read_all(pipeline.bootstrap, pipeline.events)

    assert {(m.key(), m.value(), m.partition()) for m in found} == {(b"k1", b'{"n":1}', 1), (b"k4", b'{"n":4}', 1)}
    assert found[0].headers() == [("traceparent", b"00-1"), ("streamserve.attempt", b"1")]
    assert all(m.timestamp()[1] == letters[m.key()].timestamp()[1] for m in found)


def test_filters_in_any_order_send_each_letter_once_and_what_cannot_go_is_told(pipeline, run):
    pipeline.dead_letters(REJECTS * 5)

    run("dlq", "replay", "--reason", "decode", "--limit", "3")
    run("dlq", "replay", "--feature", "distance")
    answer = json.loads(run("dlq", "replay", "--all", "--format", "json")[0])
    again = json.loads(run("dlq", "replay", "--all", "--format", "json")[0])
    pipeline.dead_letters([("decode", "later")])
    later = json.loads(run("dlq", "replay", "--all", "--format", "json")[0])

    assert answer["replayed"] == 7
    assert {left["why"][:12]: left["count"] for left in answer["left"]} == {"replayed bef": 13, "its value or": 10}
    assert again["replayed"] == 0
    assert later["replayed"] == 1
    assert len(read_all(pipeline.bootstrap, pipeline.events)) == 21


def test_a_letter_that_failed_too_often_or_came_from_elsewhere_stays(pipeline, run):
    pipeline.dead_letters([("decode", "x")], headers=[("streamserve.attempt", b"2")])
    pipeline.dead_letters([("decode", "x")], topic="elsewhere")

    answer = json.loads(run("dlq", "replay", "--all", "--format", "json")[0])

    assert answer["replayed"] == 0
    assert {left["why"][:12] for left in answer["left"]} == {"failed 3 tim", "it came from"}
    assert "1 sent" in run("dlq", "replay", "--all", "--max-attempts", "4")[0]


def test_a_letter_of_a_partition_that_is_no_more_goes_where_its_key_belongs(pipeline, run):
    pipeline.dead_letters([("decode", "x")] * 5, partitions=5)

    run("dlq", "replay", "--all")

    assert len(read_all(pipeline.bootstrap, pipeline.events)) == 5


def test_a_replay_needs_to_be_told_what(run):
    assert "--reason, --feature or --all" in run("dlq", "replay", code=2)[1]


def test_a_replay_that_dies_before_its_commit_has_sent_nothing_and_the_next_sends_all(pipeline, run, monkeypatch):
    pipeline.dead_letters([("decode", "x")] * 6)
    monkeypatch.setattr(dead_letters, "RECORDS_A_TRANSACTION", 4)
    settings, group = pipeline.settings(), replay_group(pipeline.name)

    def half_a_replay():
        with DeadLetterTopic(reader_properties(settings, group=group), pipeline.dead) as topic:
            replayer = Replayer(producer_properties(settings, transactional_id=group), topic)
            with replayer:
                for letter in topic.letters(lambda: False):
                    replayer.add(Resend(letter=letter, topic=pipeline.events, partition=0, headers=[]))
                replayer._producer.begin_transaction()
                for resend in replayer._waiting:
                    replayer._produce(resend)
                replayer._producer.flush()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_a_replay()
    assert len(read_all(pipeline.bootstrap, pipeline.events)) == 4
    run("dlq", "replay", "--all")

    assert sorted(m.key() for m in read_all(pipeline.bootstrap, pipeline.events)) == [b"k%d" % i for i in range(6)]
