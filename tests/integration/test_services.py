"""The services that everything else is tested on do what they promise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from streamserve.demo import kafka_jars as jars_module
from streamserve.demo import local_redis as redis_module
from streamserve.demo.local_kafka import LocalKafka, LocalServiceError, kafka_available
from streamserve.demo.local_process import free_ports, identity
from streamserve.demo.local_redis import LocalRedis
from streamserve.errors import BrokerUnavailable
from streamserve.kafka.embedded import EmbeddedKafka
from tests.services import create_topic, produce, read_all, settled, unique


def values(messages):
    return [message.value() for message in messages]


def gone(pid, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while identity(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return identity(pid) is None


def test_what_is_produced_is_read_back_in_order(kafka):
    topic = create_topic(kafka.bootstrap, unique("echo"), partitions=3, config={"retention.ms": "-1"})
    places = produce(kafka.bootstrap, topic, [{"value": b"%d" % i, "partition": i % 3} for i in range(300)])
    assert places[:4] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    found = read_all(kafka.bootstrap, topic)
    for partition in range(3):
        assert values(m for m in found if m.partition() == partition) == [b"%d" % i for i in range(partition, 300, 3)]


def test_aborted_records_are_hidden_from_read_committed(kafka):
    topic = create_topic(kafka.bootstrap, unique("transactions"))
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique("producer")})
    producer.init_transactions(30)
    for value, keep in ((b"kept", True), (b"dropped", False), (b"kept too", True)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(30)
        if keep:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    settled(kafka.bootstrap, topic)
    assert values(read_all(kafka.bootstrap, topic)) == [b"kept", b"kept too"]
    assert len(read_all(kafka.bootstrap, topic, "read_uncommitted")) == 3


@pytest.mark.parametrize(
    "protocol", [{"group.protocol": "consumer"}, {"session.timeout.ms": 6000}], ids=["kip848", "classic"]
)
def test_both_group_protocols_assign_within_seconds(kafka, protocol):
    topic = create_topic(kafka.bootstrap, unique("groups"), partitions=2)
    produce(kafka.bootstrap, topic, [b"a"])
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": unique("group"),
            "auto.offset.reset": "earliest",
            **protocol,
        }
    )
    try:
        consumer.subscribe([topic])
        message = consumer.poll(15)
        assert message is not None
        assert message.error() is None
    finally:
        consumer.close()


def test_three_brokers_keep_acknowledged_records_when_one_is_killed(kafka3):
    topic = create_topic(kafka3.bootstrap, unique("replicated"), partitions=3)
    produce(kafka3.bootstrap, topic, [b"before"] * 30)
    victim = kafka3.brokers[1]
    before = victim.pid
    victim.kill()
    assert not victim.alive
    produce(kafka3.bootstrap, topic, [b"during"] * 30, timeout_s=60)
    victim.restart()
    assert victim.pid != before
    assert sorted(values(read_all(kafka3.bootstrap, topic))) == [b"before"] * 30 + [b"during"] * 30


def test_a_paused_broker_answers_again_after_resume(kafka3):
    topic = create_topic(kafka3.bootstrap, unique("paused"), partitions=3)
    kafka3.brokers[0].pause()
    time.sleep(0.5)
    kafka3.brokers[0].resume()
    produce(kafka3.bootstrap, topic, [b"x"] * 9, timeout_s=60)
    assert len(read_all(kafka3.bootstrap, topic)) == 9


def test_a_stopped_kafka_leaves_no_process_and_no_folder(kafka_jars):
    cluster = LocalKafka()
    cluster.start()
    pid, folder = cluster.brokers[0].pid, cluster.data_dir
    assert folder.is_dir()
    cluster.stop()
    cluster.stop()
    assert identity(pid) is None
    assert not folder.exists()
    with pytest.raises(LocalServiceError, match="not started"):
        _ = cluster.bootstrap


def test_a_given_data_folder_survives_the_cluster(kafka_jars, tmp_path):
    with LocalKafka(data_dir=tmp_path / "data") as cluster:
        topic = create_topic(cluster.bootstrap, unique("kept"))
        produce(cluster.bootstrap, topic, [b"still here"])
    with LocalKafka(data_dir=tmp_path / "data") as cluster:
        assert values(read_all(cluster.bootstrap, topic)) == [b"still here"]


def test_a_killed_parent_takes_its_services_along(kafka_jars, redis_server):
    program = (
        "import time\n"
        "from streamserve.demo.local_kafka import LocalKafka\n"
        "from streamserve.demo.local_redis import LocalRedis\n"
        "with LocalKafka() as k, LocalRedis() as r:\n"
        "    print(k.brokers[0].pid, r.pid, k.data_dir, r.data_dir, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        kafka_pid, redis_pid, *folders = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)
    assert gone(int(kafka_pid))
    assert gone(int(redis_pid))
    deadline = time.monotonic() + 10
    while any(Path(folder).exists() for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(folder).exists() for folder in folders)


def test_a_proxied_listener_sends_clients_to_the_proxy(kafka_jars):
    (proxy_port,) = free_ports(1)
    with LocalKafka(proxy_ports=[proxy_port]) as cluster:
        client = Producer({"bootstrap.servers": f"127.0.0.1:{cluster.proxy_targets[0]}"})
        (broker,) = client.list_topics(timeout=10).brokers.values()
        assert broker.port == proxy_port


def test_a_broker_that_cannot_start_says_why(kafka_jars):
    with pytest.raises(LocalServiceError, match=r"formatting|did not start"):
        LocalKafka(overrides={"log.segment.bytes": "nonsense"}).start()


def test_a_machine_without_java_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "openjdk-17" in kafka_available()


def test_a_machine_without_maven_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(jars_module, "java", lambda: "java")
    monkeypatch.setattr(jars_module.shutil, "which", lambda _: None)
    assert "maven" in kafka_available(tmp_path / "none")
    with pytest.raises(LocalServiceError, match="maven"):
        jars_module.ensure_jars(tmp_path / "none")


def test_redis_keeps_values_and_loses_them_in_a_restart(redis_server):
    with LocalRedis() as server, redis.Redis.from_url(server.url) as client:
        client.set("k", "v")
        assert client.get("k") == b"v"
        first = server.pid
        server.restart()
        assert server.pid != first
        assert client.get("k") is None


def test_a_paused_redis_times_out_and_comes_back(redis_server):
    with LocalRedis() as server, redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_a_stopped_redis_leaves_no_process_and_no_folder(redis_server):
    server = LocalRedis()
    server.start()
    pid, folder = server.pid, server.data_dir
    server.shutdown()
    assert not server.alive
    server.stop()
    assert identity(pid) is None
    assert not folder.exists()


def test_a_machine_without_redis_says_what_to_install(monkeypatch):
    monkeypatch.setattr(redis_module.shutil, "which", lambda _: None)
    with pytest.raises(LocalServiceError, match="apt-get install redis-server"):
        LocalRedis().start()


def test_the_embedded_kafka_has_the_wanted_partitions_and_keeps_records(embedded_kafka):
    embedded_kafka.create_topic("events", partitions=7)
    places = produce(embedded_kafka.bootstrap, "events", [{"value": b"%d" % i, "partition": i} for i in range(7)])
    assert places == [(partition, 0) for partition in range(7)]
    assert sorted(values(read_all(embedded_kafka.bootstrap, "events"))) == [b"%d" % i for i in range(7)]
    with pytest.raises(BrokerUnavailable, match="TOPIC_ALREADY_EXISTS"):
        embedded_kafka.create_topic("events")


def test_the_embedded_kafka_commits_offsets_of_a_group(embedded_kafka):
    embedded_kafka.create_topic("events")
    produce(embedded_kafka.bootstrap, "events", [b"a", b"b"])
    settings = {
        "bootstrap.servers": embedded_kafka.bootstrap,
        "group.id": "g",
        "auto.offset.reset": "earliest",
    }
    consumer = Consumer({**settings, "enable.auto.commit": False})
    consumer.subscribe(["events"])
    assert consumer.poll(15).value() == b"a"
    consumer.commit(asynchronous=False)
    consumer.close()
    again = Consumer(settings)
    (committed,) = again.committed([TopicPartition("events", 0)], timeout=10)
    again.close()
    assert committed.offset == 1


def test_the_embedded_kafka_ends_with_its_parent():
    with EmbeddedKafka() as cluster:
        pid = cluster.pid
        assert identity(pid) is not None
    assert identity(pid) is None


def services(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "streamserve.demo.services", *arguments],
        env={**os.environ, "STREAMSERVE_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_the_services_command_starts_reports_and_stops_redis(redis_server, tmp_path):
    assert services(tmp_path, "redis", "status").returncode == 1
    started = services(tmp_path, "redis", "start")
    assert started.returncode == 0, started.stderr
    try:
        assert services(tmp_path, "redis", "start").stdout == started.stdout
        name, _, url = started.stdout.strip().removeprefix("export ").partition("=")
        assert name == "REDIS_URL"
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        assert services(tmp_path, "redis", "status").returncode == 0
        assert services(tmp_path, "redis", "start", "--port", "1").returncode == 2
    finally:
        assert services(tmp_path, "redis", "stop").returncode == 0
    assert services(tmp_path, "redis", "status").returncode == 1


def test_the_services_command_leaves_kafka_running_until_stopped(kafka_jars, tmp_path):
    (tmp_path / jars_module.default_jars_dir().name).symlink_to(jars_module.default_jars_dir())
    (port,) = free_ports(1)
    started = services(tmp_path, "kafka", "start", "--port", str(port))
    assert started.stdout == f"export KAFKA_BOOTSTRAP=127.0.0.1:{port}\n", started.stderr
    try:
        topic = create_topic(f"127.0.0.1:{port}", unique("services"))
        produce(f"127.0.0.1:{port}", topic, [b"x"])
        assert services(tmp_path, "kafka", "status").returncode == 0
    finally:
        assert services(tmp_path, "kafka", "stop").returncode == 0
    assert services(tmp_path, "kafka", "status").returncode == 1
