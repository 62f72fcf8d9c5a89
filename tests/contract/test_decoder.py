"""The contract of `Decoder`, run over every format and layout; the port's docstring says it in words."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from streamserve.codecs import build_decoder
from tests.records import batch, settings

VECTOR_OF = {
    "json": lambda v: json.dumps({"x": v}).encode(),
    "msgpack": lambda v: msgspec.msgpack.encode({"x": v}),
    "raw": lambda v: np.array(v, "<f4").tobytes(),
}
ADAPTERS = {
    (kind, size): ({"field": "x", "size": size}, [encode([float(i)] * size) for i in range(4)])
    for kind, encode in VECTOR_OF.items()
    for size in (3, 64)
} | {(kind, 0): ([{"name": "x"}], [encode(float(i)) for i in range(4)]) for kind, encode in VECTOR_OF.items()}


@pytest.fixture(params=ADAPTERS, ids=lambda key: f"{key[0]}-{key[1] or 'flat'}")
def adapter(request):
    features, good = ADAPTERS[request.param]
    return build_decoder(settings(features, format=request.param[0])), good


def test_good_records_all_become_events_in_order(adapter):
    decoder, good = adapter
    records = batch(good, key=[b"a", None, b"", b"d"], timestamp_ms=[3, 2, -1, 0])
    events, rejects = decoder.decode(records)
    assert rejects == []
    assert events.origin is records
    assert events.row == [0, 1, 2, 3]
    assert events.entity == [b"a", None, b"", b"d"]
    assert events.event_time_ms == [3, 2, -1, 0]
    assert events.fields["x"].reshape(4, -1)[:, 0].tolist() == [0, 1, 2, 3]


def test_every_row_is_an_event_or_exactly_one_reject(adapter):
    decoder, good = adapter
    values = [None, good[0], b"", good[1], b"\x00", good[2][:-1], good[3]]
    events, rejects = decoder.decode(batch(values))
    assert events.row == [1, 3, 6]
    assert [reject.row for reject in rejects] == [0, 2, 4, 5]
    assert {reject.stage for reject in rejects} == {"decode"}
    assert events.fields["x"].reshape(3, -1)[:, 0].tolist() == [0, 1, 3]


def test_a_bad_record_leaves_no_trace_in_the_next_batch(adapter):
    decoder, good = adapter
    decoder.decode(batch([b"\xff", good[0][:-1], None]))
    again, rejects = decoder.decode(batch(good))
    assert rejects == []
    assert again.fields["x"].tobytes() == decoder.decode(batch(good))[0].fields["x"].tobytes()


def test_events_do_not_change_when_the_next_batch_is_decoded(adapter):
    decoder, good = adapter
    first, _ = decoder.decode(batch(good))
    before = first.fields["x"].tobytes()
    decoder.decode(batch(good[::-1]))
    assert first.fields["x"].tobytes() == before


def test_an_empty_batch_and_a_batch_of_rejects_have_columns_of_length_0(adapter):
    decoder, _ = adapter
    for values in ([], [None], [b"\xff", b""]):
        events, rejects = decoder.decode(batch(values))
        assert len(events) == len(events.fields["x"]) == len(events.id) == 0
        assert len(rejects) == len(values)
