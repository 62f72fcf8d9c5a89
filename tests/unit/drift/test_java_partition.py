"""Keys land where Kafka's Java client and librdkafka put them."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from streamserve.drift.java_partition import java_partition, murmur2


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_the_java_clients(data, value):
    """The cases of Kafka's own test (UtilsTest.testMurmur2)."""
    assert murmur2(data) == value % (1 << 32)


def test_the_partition_is_librdkafkas(embedded_kafka):
    embedded_kafka.create_topic("t", 7)
    found: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": embedded_kafka.bootstrap, "partitioner": "murmur2_random"})
    keys = [b"m", b"flight-delay", "größe".encode(), b"\xff\x80", *(b"model-%d" % n for n in range(100))]
    for key in keys:
        producer.produce("t", b"", key, on_delivery=lambda _, m: found.__setitem__(m.key(), m.partition()))
    assert producer.flush(20) == 0
    assert found == {key: java_partition(key, 7) for key in keys}
    assert set(found.values()) == set(range(7))
