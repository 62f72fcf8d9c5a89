"""Dead letters of records as large as their topic takes, on a real broker."""

from __future__ import annotations

import os

from streamserve.batch import ModelIdentity, RecordBatch, Reject
from streamserve.clock import SystemClock
from streamserve.codecs.dead_letter import DeadLetterEncoder
from streamserve.kafka.clients import producer_properties
from streamserve.kafka.facts import DEFAULT_MAX_MESSAGE_BYTES, RECORD_OVERHEAD_BYTES
from streamserve.kafka.transactional import TransactionalSink
from streamserve.telemetry.logs import Log
from streamserve.testing import memory_settings
from tests.services import create_topic, read_all, unique

ROOM = DEFAULT_MAX_MESSAGE_BYTES - RECORD_OVERHEAD_BYTES


def test_a_record_near_the_limit_reaches_its_dead_letter_topic(kafka):
    topic = create_topic(kafka.bootstrap, unique("dlq"))
    sizes = [1_048_000, *range(ROOM - 6000, ROOM + 1, 500)]  # with the headers on both sides of the limit
    records = RecordBatch(
        topic=["events"] * len(sizes),
        partition=[0] * len(sizes),
        offset=list(range(len(sizes))),
        timestamp_ms=[1_700_000_000_000] * len(sizes),
        key=[b"k"] * len(sizes),
        value=[os.urandom(size) for size in sizes],
        headers=lambda: [[("h", b"x")] * 300 for _ in sizes],
    )
    encoder = DeadLetterEncoder(topic, "p", ROOM, ModelIdentity(name="m", version="3"))
    rejects = [Reject(row, "decode", "schema", "d" * 1024, "f") for row in range(len(sizes))]
    settings = memory_settings(
        [{"name": "x"}], kafka={"bootstrap.servers": kafka.bootstrap, "compression.type": "none"}
    )
    sink = TransactionalSink(
        lambda name: producer_properties(settings, transactional_id=name, max_batch_bytes=ROOM),
        [unique("ids")],
        SystemClock(),
        Log.open(),
    )
    sink.open()
    try:
        transaction = sink.begin(5)
        assert transaction is not None
        transaction.add(encoder.encode(records, rejects))
        transaction.flush()
        transaction.commit({}, None)
    finally:
        sink.close()
    values = [message.value() for message in read_all(kafka.bootstrap, topic)]
    assert len(values) == len(sizes)
    assert values[0] is None  # only described
    assert values[1] == records.value[1]  # fits
