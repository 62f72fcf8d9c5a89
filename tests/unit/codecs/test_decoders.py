"""What good records decode to, and which settings no decoder takes."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from streamserve.codecs import build_decoder
from streamserve.codecs.json import JsonReader
from streamserve.codecs.layout import EventLayout
from streamserve.codecs.msgpack import MsgpackReader
from streamserve.errors import ConfigError
from tests.records import batch, settings


def decode(features, values, **input):
    events, rejects = build_decoder(settings(features, **input)).decode(batch(values))
    assert rejects == []
    return events


MIXED = [
    {"name": "f"},
    {"name": "i", "dtype": "int64"},
    {"name": "b", "dtype": "bool"},
    {"name": "s", "dtype": "string"},
]


@pytest.mark.parametrize(("format", "encode"), [("json", msgspec.json.encode), ("msgpack", msgspec.msgpack.encode)])
def test_fields_become_typed_columns(format, encode):
    values = [encode({"f": 1, "i": -5, "b": True, "s": "é"}), encode({"f": 2.5, "i": 2**62, "b": False, "s": ""})]
    fields = decode(MIXED, values, format=format).fields
    assert fields["f"].dtype == np.float64
    assert fields["f"].tolist() == [1.0, 2.5]
    assert fields["i"].dtype == np.int64
    assert fields["i"].tolist() == [-5, 2**62]
    assert fields["b"].tolist() == [1, 0]
    assert fields["s"] == ["é", ""]


def test_missing_is_nan_or_none():
    fields = decode(MIXED, [b"{}", b'{"f":1,"i":7,"b":true,"s":"x"}']).fields
    assert np.isnan([fields["f"][0], fields["i"][0], fields["b"][0]]).all()
    assert fields["i"].tolist()[1] == 7
    assert fields["s"] == [None, "x"]


def test_an_integer_that_float64_cannot_hold_stays_exact_beside_a_missing_one():
    column = decode(MIXED, [b"{}", b'{"i":9007199254740993}']).fields["i"]
    assert column.tolist() == [None, 9007199254740993]


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_vector_is_a_matrix_of_its_dtype(size, dtype):
    rows = [[i + 0.1 for i in range(size)], [float(-i) for i in range(size)]]
    spec = {"field": "v", "size": size, "dtype": dtype}
    events = decode(spec, [json.dumps({"v": row, "id": i}).encode() for i, row in enumerate(rows)], id="id")
    assert events.fields["v"].dtype == dtype
    assert np.array_equal(events.fields["v"], np.array(rows, dtype))
    assert events.id == ["0", "1"]


def test_raw_flat_features_are_packed_in_their_own_dtypes():
    features = [{"name": "a"}, {"name": "b", "dtype": "int64"}, {"name": "c", "dtype": "bool"}]
    record = np.array([(1.5, -(2**60), 1)], [("a", "<f4"), ("b", "<i8"), ("c", "u1")]).tobytes()
    fields = decode(features, [record, record], format="raw").fields
    assert [column.tolist() for column in fields.values()] == [[1.5, 1.5], [-(2**60)] * 2, [1, 1]]


def test_raw_flat_features_must_be_numbers_and_bools():
    decoder = build_decoder(settings([{"name": "a"}, {"name": "c", "dtype": "bool"}], format="raw"))
    nan, two = np.float32(np.nan).tobytes() + b"\1", np.float32(1).tobytes() + b"\2"
    events, rejects = decoder.decode(batch([nan, np.float32(1).tobytes() + b"\1", two]))
    assert events.row == [1]
    assert [(r.row, r.reason, r.feature) for r in rejects] == [(0, "non_finite", "a"), (2, "schema", "c")]


def test_id_defaults_to_the_position():
    assert decode(MIXED, [b"{}", b"{}"]).id == ["events-2-0", "events-2-1"]


def test_id_key_and_time_come_from_their_fields():
    value = b'{"flight":"AA1","tail":7,"at":1372941000000,"f":1}'
    events = decode([{"name": "f"}], [value], id="flight", key="tail", event_time="at")
    assert (events.id, events.entity, events.event_time_ms) == (["AA1"], [b"7"], [1372941000000])


def test_a_feature_may_also_be_the_id():
    events = decode([{"name": "s", "dtype": "string"}], [b'{"s":"x"}'], id="s", key="s")
    assert (events.id, events.entity, events.fields["s"]) == (["x"], [b"x"], ["x"])


def test_good_rows_keep_their_place_among_bad_ones():
    records = batch([b"?", b'{"f":1}', None, b'{"f":2}'], key=[b"0", b"1", b"2", b"3"])
    events, rejects = build_decoder(settings([{"name": "f"}])).decode(records)
    assert (events.row, events.entity, events.id) == ([1, 3], [b"1", b"3"], ["events-2-1", "events-2-3"])
    assert [reject.row for reject in rejects] == [0, 2]


def test_a_type_error_names_field_and_feature():
    _, (reject,) = build_decoder(settings([{"name": "f"}])).decode(batch([b'{"f":"1"}']))
    assert (reject.feature, reject.detail) == ("f", "f: expected `float | null`, got `str`")
    assert (reject.stage, reject.reason) == ("decode", "schema")


def test_an_empty_batch_gives_empty_columns():
    for features in (MIXED, {"field": "v", "size": 2}, {"field": "v", "size": 64}):
        assert len(decode(features, [])) == 0
    assert len(decode({"field": "v", "size": 2}, [], format="raw")) == 0


@pytest.mark.parametrize(
    ("features", "input"),
    [
        ([{"name": "f"}], {"id": "f"}),
        ([{"name": "f"}, {"name": "f"}], {}),
        ([{"name": "f"}], {"event_time": "f"}),
        ({"field": "v", "size": 2}, {"id": "v"}),
        ([{"name": 'quoted"name'}], {}),
        ([{"name": "s", "dtype": "string"}], {"format": "raw"}),
        ([{"name": "f"}], {"format": "raw", "id": "i"}),
        ({"field": "v", "size": 100}, {"format": "raw", "max_record_bytes": 399}),
    ],
)
def test_settings_that_contradict_themselves_are_refused(features, input):
    with pytest.raises(ConfigError):
        build_decoder(settings(features, **input))


def test_all_conflicts_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        build_decoder(settings([{"name": "f"}], id="f", event_time="f"))
    assert len(error.value.problems) == 2


def single(row):
    """MessagePack of an event whose numbers have 4 bytes, as some producers send them."""
    numbers = b"".join(b"\xca" + np.float32(x).astype(">f4").tobytes() for x in row["v"])
    return b"\x83\xa5other\xc0\xa1v\xdc\x00\x40" + numbers + b"\xa2id" + msgspec.msgpack.encode(row["id"])


@pytest.mark.parametrize(
    ("make", "encode"),
    [(JsonReader, msgspec.json.encode), (MsgpackReader, msgspec.msgpack.encode), (MsgpackReader, single)],
)
def test_usual_events_with_a_wide_vector_need_no_typed_decoder(make, encode):
    layout = EventLayout.of(settings({"field": "v", "size": 64}, id="id"))
    rows = [{"id": f"e{i}", "v": [i + 0.5] * 64, "extra": i} for i in range(5)]
    ids: list[object] = [None] * 5
    found = make(layout, max_record_bytes=10_000).read([encode(row) for row in rows], range(1, 4), [ids])
    assert [packed.rows for packed in found if packed.rows] == [[1, 2, 3]]
    assert ids == [None, "e1", "e2", "e3", None]
