"""Laws of decoding: any bytes give a row or exactly one reject; wide and narrow agree to the bit; text survives."""

from __future__ import annotations

import json
import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamserve.batch import EventBatch, ModelIdentity, PredictionBatch
from streamserve.codecs import build_decoder
from streamserve.codecs.json import JsonReader
from streamserve.codecs.layout import EventLayout
from streamserve.codecs.msgpack import MsgpackReader
from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.codecs.typed import TypedDecoder
from streamserve.codecs.wide import WideDecoder
from streamserve.config.settings import OutputSettings
from streamserve.enrich import FeatureEnricher
from streamserve.ports import Signature, TensorSpec
from tests.records import batch, settings

FLAT = [
    {"name": "x", "min": -100, "max": 100},
    {"name": "n", "dtype": "int64"},
    {"name": "b", "dtype": "bool", "default": True},
    {"name": "s", "dtype": "string", "categories": ["a", "b"]},
]
LAYOUTS = {"flat": FLAT, "narrow": {"field": "x", "size": 3}, "wide": {"field": "x", "size": 64}}
RAW_FLAT = [feature for feature in FLAT if feature.get("dtype") != "string"]

numbers = st.one_of(
    st.floats(width=32), st.floats(), st.integers(), st.integers(-(2**64), 2**65), st.booleans(), st.none()
)
scalars = st.one_of(numbers, st.text(max_size=5), st.sampled_from(["a", "b"]))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
events = st.dictionaries(st.sampled_from(["x", "n", "b", "s", "id", "t", "other"]), values, max_size=7)


def encoded(format: str):
    if format == "json":
        return events.map(lambda event: json.dumps(event).encode())
    if format == "msgpack":
        return events.map(_pack)
    return st.integers(0, 20).flatmap(lambda n: st.binary(min_size=n, max_size=n))


def _pack(event):
    try:
        return msgspec.msgpack.encode(event)
    except (OverflowError, UnicodeEncodeError):
        return b""


def any_value(format: str):
    """Nothing, any bytes, good encodings, and good encodings cut or changed at one place."""
    cut = st.tuples(encoded(format), st.integers(0, 60)).map(lambda pair: pair[0][: pair[1]])
    changed = st.tuples(encoded(format), st.integers(0, 60), st.binary(max_size=2)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
    return st.one_of(st.none(), st.binary(max_size=40), encoded(format), cut, changed)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", ["json", "msgpack", "raw"])
@given(data=st.data())
def test_any_bytes_give_a_row_or_exactly_one_typed_reject(format, layout, data):
    features = RAW_FLAT if format == "raw" and layout == "flat" else LAYOUTS[layout]
    fields = {} if format == "raw" else {"id": "id", "event_time": "t"}
    config = settings(features, format=format, **(fields if data.draw(st.booleans()) else {}))
    drawn = data.draw(st.lists(any_value(format), max_size=6))
    events, rejects = build_decoder(config).decode(batch(drawn))
    assert sorted([*events.row, *(reject.row for reject in rejects)]) == list(range(len(drawn)))
    assert events.row == sorted(events.row)
    assert all(reject.stage == "decode" and reject.detail for reject in rejects)
    for column in (events.id, events.entity, events.event_time_ms, *events.fields.values()):
        assert len(column) == len(events)
    width = features["size"] if isinstance(features, dict) else len(features)
    tensor = TensorSpec(name="input", dtype="float32", shape=(-1, width))
    batch_, more = FeatureEnricher(config.features, Signature(inputs=(tensor,), outputs=())).enrich(events)
    assert sorted([*batch_.events.row, *(reject.row for reject in more)]) == events.row
    assert batch_.inputs["input"].shape == (len(batch_), width)
    assert np.isfinite(batch_.inputs["input"]).all()


SIZE = 3
WIDE_LAYOUT = EventLayout.of(settings({"field": "v", "size": SIZE}, id="id", event_time="t", key="k"))
TYPED = TypedDecoder(
    WIDE_LAYOUT, msgspec.json.Decoder(WIDE_LAYOUT.struct_type()).decode, format="JSON", max_record_bytes=300
)
WIDE = WideDecoder(WIDE_LAYOUT, JsonReader(WIDE_LAYOUT, max_record_bytes=300), TYPED)

number_texts = st.one_of(
    st.floats(allow_nan=True).map(lambda x: "NaN" if math.isnan(x) else repr(x)),
    st.integers(-(2**66), 2**66).map(str),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?\Z"),
    st.sampled_from(
        [
            "-0",
            "-0.0",
            "0",
            "1e400",
            "-1e400",
            "1e39",
            "true",
            "null",
            '"1"',
            "[1]",
            "{}",
            "NaN",
            "01",
            "1.",
            "9" * 400,
            "4.9e-324",
            "2.2250738585072011e-308",
            "9007199254740993",
        ]
    ),
)
vectors = st.one_of(
    st.lists(st.integers(-9, 9).map(str), min_size=SIZE, max_size=SIZE),
    st.lists(number_texts, min_size=SIZE, max_size=SIZE),
    st.lists(number_texts, max_size=SIZE + 1),
).map(lambda items: "[" + ",".join(items) + "]")
texts = st.one_of(
    st.text(max_size=4).map(json.dumps),
    st.sampled_from(
        [
            '"\\ud800"',
            '"\\ud83d\\ude00"',
            '"v"',
            '"["',
            '"{"',
            "1",
            "-0",
            "1.0",
            "1e20",
            "true",
            "null",
            "9223372036854775808",
            "[]",
            "{}",
        ]
    ),
)
members = st.one_of(
    st.tuples(st.sampled_from(['"v"', '"\\u0076"']), st.one_of(vectors, texts)),
    st.tuples(st.sampled_from(['"id"', '"k"', '"t"', '"other"', '"\\u0069d"']), texts),
    st.tuples(st.just('"t"'), st.integers(-(10**15), 10**15).map(str)),
)
usual = st.tuples(vectors, texts, texts, st.integers(0, 10**13)).map(
    lambda t: [('"v"', t[0]), ('"id"', t[1]), ('"k"', t[2]), ('"t"', str(t[3]))]
)


def assert_agree(values, wide=WIDE, typed=TYPED):
    events, rejects = wide.decode(batch(values))
    expected, expected_rejects = typed.decode(batch(values))
    assert sorted(rejects, key=lambda r: r.row) == expected_rejects
    assert (events.row, events.id, events.entity, events.event_time_ms) == (
        expected.row,
        expected.id,
        expected.entity,
        expected.event_time_ms,
    )
    assert bits(events.fields["v"]) == bits(expected.fields["v"])
    assert events.fields["v"].dtype == expected.fields["v"].dtype


def bits(numbers):
    """All bits of an array, but for what a NaN holds."""
    return np.where(np.isnan(numbers), np.nan, numbers).tobytes()


def text_of(pairs, space=""):
    return ("{" + ",".join(f"{name}:{space}{value}" for name, value in pairs) + "}").encode()


@given(
    st.lists(
        st.one_of(
            usual,
            st.tuples(usual, st.lists(members, max_size=3)).map(lambda t: t[0] + t[1]),
            st.lists(members, max_size=6),
        ),
        max_size=4,
    ),
    st.sampled_from(["", " "]),
)
def test_wide_and_narrow_json_agree(objects, space):
    assert_agree([text_of(pairs, space) for pairs in objects])


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.binary(max_size=30),
            st.tuples(usual, st.integers(0, 80), st.binary(max_size=2)).map(
                lambda t: text_of(t[0])[: t[1]] + t[2] + text_of(t[0])[t[1] + 1 :]
            ),
        ),
        max_size=4,
    )
)
@example([b'\xef\xbb\xbf{"v":[1,2,3],"id":"a","k":"b","t":1}'])
@example([b'{"v":[1,2,3],"id":"a","k":"b","t":1,"other":"\xff"}'])
@example([b'{"v":[1,2,3],"id":"a","k":"b","t":1,"other":"' + b"x" * 300 + b'"}'])
@example([b'{"v":[-0,-0.0,1e-400],"id":-0,"k":"b","t":-0}'])
def test_wide_and_narrow_json_agree_on_damaged_bytes(values):
    assert_agree(values)


def packed_decoders(dtype):
    layout = EventLayout.of(settings({"field": "v", "size": SIZE, "dtype": dtype}, id="id", event_time="t", key="k"))
    decode = msgspec.msgpack.Decoder(layout.struct_type()).decode
    typed = TypedDecoder(layout, decode, format="MessagePack", max_record_bytes=300)
    return WideDecoder(layout, MsgpackReader(layout, max_record_bytes=300), typed), typed


PACKED = {dtype: packed_decoders(dtype) for dtype in ("float32", "float64")}


class Single(float):
    """A number that is packed as a float of 4 bytes."""


def pack(value):
    """MessagePack of a value, in which a map is a list of pairs in braces: keys may come twice."""
    if isinstance(value, Single):
        return b"\xca" + struct.pack(">f", value)
    if isinstance(value, list):
        return bytes([0x90 | len(value)]) + b"".join(map(pack, value))
    if isinstance(value, tuple):
        return bytes([0x80 | len(value)]) + b"".join(pack(key) + pack(inner) for key, inner in value)
    if isinstance(value, bytes):
        return value
    return msgspec.msgpack.encode(value)


doubles = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1e39, -1e39, 3.4028235677973366e38, 5e-324]))
singles = st.floats(width=32).map(Single)
whole = st.integers(-(2**63), 2**64 - 1)
packed_vectors = st.one_of(
    st.lists(doubles, min_size=SIZE, max_size=SIZE),
    st.lists(singles, min_size=SIZE, max_size=SIZE),
    st.lists(st.one_of(doubles, st.integers(2**32, 2**64 - 1)), min_size=SIZE, max_size=SIZE),  # of one size
    st.lists(st.one_of(singles, st.integers(2**16, 2**32 - 1)), min_size=SIZE, max_size=SIZE),
    st.lists(st.one_of(doubles, singles, whole, st.none(), st.booleans()), max_size=SIZE + 1),
)
packed_values = st.one_of(
    st.text(max_size=3),
    whole,
    doubles,
    st.none(),
    st.binary(max_size=4).map(lambda inner: b"\xc4" + bytes([len(inner)]) + inner),
    packed_vectors,
    st.lists(st.tuples(st.just("v"), packed_vectors), max_size=2).map(tuple),
)
packed_names = st.sampled_from(["v", "id", "k", "t", "other", b"\xd9\x01v", b"\xc4\x01v", 1])
packed_usual = st.tuples(
    st.tuples(st.just("v"), packed_vectors),
    st.tuples(st.just("id"), st.one_of(st.text(max_size=3), whole)),
    st.tuples(st.just("k"), st.one_of(st.text(max_size=3), whole)),
    st.tuples(st.just("t"), st.integers(-(10**14), 10**15)),
)
packed_events = st.one_of(
    packed_usual.flatmap(st.permutations),
    st.tuples(packed_usual, st.lists(st.tuples(packed_names, packed_values), max_size=3)).flatmap(
        lambda parts: st.permutations([*parts[0], *parts[1]])
    ),
    st.lists(st.tuples(packed_names, packed_values), max_size=6),
).map(lambda pairs: pack(tuple(pairs)))


@pytest.mark.parametrize("dtype", PACKED)
@given(drawn=st.lists(packed_events, max_size=4))
def test_wide_and_narrow_message_pack_agree(dtype, drawn):
    assert_agree(drawn, *PACKED[dtype])


@pytest.mark.parametrize("dtype", PACKED)
@given(
    drawn=st.lists(
        st.one_of(
            st.none(),
            st.binary(max_size=30),
            st.tuples(packed_events, st.integers(0, 80), st.integers(0, 80), st.binary(max_size=3)).map(
                lambda t: t[0][: t[1]] + t[3] + t[0][t[1] + t[2] % 3 :]
            ),
            st.tuples(packed_events, st.integers(0, 80)).map(lambda t: t[0][: t[1]]),
        ),
        max_size=4,
    )
)
def test_wide_and_narrow_message_pack_agree_on_damaged_bytes(dtype, drawn):
    assert_agree(drawn, *PACKED[dtype])


@given(
    st.lists(
        st.tuples(st.text(max_size=8), st.text(max_size=8), st.floats(width=32, allow_nan=False, allow_infinity=False)),
        min_size=1,
        max_size=5,
    )
)
def test_predictions_survive_their_encoding(rows):
    ids, labels, scores = zip(*rows, strict=True)
    count = len(rows)
    made = EventBatch(
        origin=batch([b""] * count),
        row=list(range(count)),
        id=list(ids),
        entity=[None] * count,
        event_time_ms=[0] * count,
        fields={},
    )
    outputs = {"label": np.array(labels, object), "score": np.array(scores, np.float32)}
    specs = [TensorSpec(name="label", dtype="str", shape=(-1,)), TensorSpec(name="score", dtype="float32", shape=(-1,))]
    predictions = PredictionBatch(events=made, outputs=outputs, model=ModelIdentity(name="m", version="1"))
    out, rejects = JsonPredictionEncoder(OutputSettings(topic="o"), specs).encode(predictions)
    assert sorted([*out.row, *(reject.row for reject in rejects)]) == list(range(count))
    for row, value in zip(out.row, out.value, strict=True):
        document = json.loads(value)
        assert document["id"] == ids[row]
        assert document["outputs"] == {"label": labels[row], "score": document["outputs"]["score"]}
        assert np.float32(document["outputs"]["score"]) == np.float32(scores[row])
