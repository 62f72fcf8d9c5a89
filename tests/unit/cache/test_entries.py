"""Cache entries from what was committed."""

from __future__ import annotations

from streamserve.batch import CacheBatch, EventBatch, OutboundBatch, RecordBatch
from streamserve.cache.entries import EntryMaker, newest
from streamserve.cache.keys import event_time_version, offset_version


def records(n, topics=None):
    return RecordBatch(
        topic=topics or ["in"] * n,
        partition=[i % 2 for i in range(n)],
        offset=[100 + i for i in range(n)],
        timestamp_ms=[0] * n,
        key=[b"%d" % i for i in range(n)],
        value=[b""] * n,
    )


def events(origin, rows, entities, times=None):
    return EventBatch(
        origin=origin,
        row=rows,
        id=[str(row) for row in rows],
        entity=entities,
        event_time_ms=times or [1000 + row for row in rows],
        fields={},
    )


def outbound(rows):
    return OutboundBatch(
        topic="out",
        row=rows,
        partition=[0] * len(rows),
        key=[None] * len(rows),
        value=[b"doc%d" % r for r in rows],
    )


def test_rejected_rows_and_rows_without_an_entity_have_no_entry():
    batch = EntryMaker("offset", lambda _: 4).make(
        events(records(5), [0, 2, 3, 4], [b"a", b"b", None, b"c"]), outbound([0, 3, 4])
    )
    assert batch.key == [b"a", b"c"]
    assert batch.row == [0, 4]
    assert batch.document == [b"doc0", b"doc4"]
    assert batch.version == [offset_version(4, 100), offset_version(4, 104)]


def test_only_the_newest_of_a_key_stays():
    made = EntryMaker("event_time", lambda _: 4).make(
        events(records(3), [0, 1, 2], [b"a", b"a", b"b"], [50, 10, 20]), outbound([0, 1, 2])
    )
    assert dict(zip(made.key, made.document, strict=True)) == {b"a": b"doc0", b"b": b"doc2"}
    assert made.version[0] == event_time_version(50, "in", 0, 100)


def test_by_offset_the_greatest_of_a_key_stays_wherever_it_stands():
    origin = RecordBatch(
        topic=["in"] * 5,
        partition=[0, 0, 1, 1, 1],
        offset=[100, 101, 7, 8, 101],
        timestamp_ms=[0] * 5,
        key=[None] * 5,
        value=[b""] * 5,
    )
    rows = [0, 1, 2, 3, 4]
    made = EntryMaker("offset", lambda _: 4).make(events(origin, rows, [b"a", b"b", b"a", b"c", b"b"]), outbound(rows))
    whole = CacheBatch(
        row=rows,
        key=[b"a", b"b", b"a", b"c", b"b"],
        version=[offset_version(4, offset) for offset in origin.offset],
        document=[b"doc%d" % row for row in rows],
    )
    expected = newest(whole)
    assert sorted(zip(made.key, made.row, made.version, made.document, strict=True)) == sorted(
        zip(expected.key, expected.row, expected.version, expected.document, strict=True)
    )
    assert dict(zip(made.key, made.row, strict=True)) == {b"a": 0, b"b": 1, b"c": 3}


def test_of_one_partition_the_last_of_a_key_stays_with_its_version():
    origin = RecordBatch(
        topic=["in"] * 5,
        partition=[3] * 5,
        offset=[10, 12, 13, 17, 19],
        timestamp_ms=[0] * 5,
        key=[None] * 5,
        value=[b""] * 5,
    )
    rows = [0, 1, 3, 4]
    made = EntryMaker("offset", lambda _: 4).make(events(origin, rows, [b"a", b"b", b"a", b"c"]), outbound(rows))
    assert dict(zip(made.key, zip(made.row, made.version, made.document, strict=True), strict=True)) == {
        b"a": (3, offset_version(4, 17), b"doc3"),
        b"b": (1, offset_version(4, 12), b"doc1"),
        b"c": (4, offset_version(4, 19), b"doc4"),
    }


def test_each_topic_has_its_own_partition_count():
    made = EntryMaker("offset", {"x": 3, "y": 9}.__getitem__).make(
        events(records(2, ["x", "y"]), [0, 1], [b"a", b"b"]), outbound([0, 1])
    )
    assert made.version == [offset_version(3, 100), offset_version(9, 101)]


def test_a_batch_without_gaps_is_taken_as_it_stands():
    made = EntryMaker("offset", lambda _: 4)
    full, part = outbound([0, 1, 2]), outbound([0, 2])
    batch = made.make(events(records(3), [0, 1, 2], [b"a", b"b", b"c"]), full)
    assert (batch.key, batch.row) == ([b"a", b"b", b"c"], [0, 1, 2])
    assert batch.document is full.value
    assert batch.version == [offset_version(4, offset) for offset in (100, 101, 102)]
    batch = made.make(events(records(3), [0, 2], [b"a", b"c"]), part)
    assert batch.document is part.value
    assert batch.version == [offset_version(4, offset) for offset in (100, 102)]


def test_a_tombstone_has_no_entry():
    made = outbound([0, 1])
    made.value[0] = None
    batch = EntryMaker("offset", lambda _: 4).make(events(records(2), [0, 1], [b"a", b"b"]), made)
    assert (batch.key, batch.version) == ([b"b"], [offset_version(4, 101)])


def test_nothing_gives_nothing():
    assert len(EntryMaker("offset", lambda _: 1).make(events(records(1), [0], [None]), outbound([0]))) == 0


def test_newest_leaves_a_batch_without_duplicates_alone():
    batch = CacheBatch(row=[0, 1], key=[b"a", b"b"], version=[b"1", b"1"], document=[b"", b""])
    assert newest(batch) is batch
