"""Every bad input of the reliability list: a table of input -> expected reason, and what is accepted on purpose."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc

import msgspec
import numpy as np
import pytest

from streamserve.batch import Reject
from streamserve.codecs import build_decoder
from streamserve.enrich import FeatureEnricher
from streamserve.ports import Signature, TensorSpec
from tests.records import batch, settings

FLAT = [
    {"name": "x"},
    {"name": "n", "dtype": "int64", "default": 0},
    {"name": "b", "dtype": "bool", "default": False},
    {"name": "s", "dtype": "string", "categories": ["a", "b"], "default": "a"},
]
FLAT_SIGNATURE = Signature(inputs=(TensorSpec(name="input", dtype="float32", shape=(-1, 4)),), outputs=())
NARROW, WIDE = {"field": "v", "size": 2}, {"field": "v", "size": 64}
GOOD = b'{"id":"i","x":1.5,"n":2,"b":true,"s":"b"}'
pack = msgspec.msgpack.encode


def run(features, good: bytes, bad: bytes | None, format: str = "json", headers=None, **input) -> Reject | None:
    """The reject of `bad` between two good records, which must come out as if it were not there; None: accepted."""
    config = settings(features, format=format, **input)
    if isinstance(features, dict):
        inputs = (TensorSpec(name="input", dtype=features.get("dtype", "float32"), shape=(-1, features["size"])),)
        signature = Signature(inputs=inputs, outputs=())
    else:
        signature = FLAT_SIGNATURE
    enricher = FeatureEnricher(config.features, signature)
    decoder = build_decoder(config)

    def tensors(values, headers=None):
        events, rejects = decoder.decode(batch(values, headers=headers))
        features_, more = enricher.enrich(events)
        assert sorted([*features_.events.row, *(r.row for r in rejects + more)]) == list(range(len(values)))
        return features_, rejects + more

    alone, none = tensors([good])
    assert not none
    together, rejects = tensors([good, bad, good], headers and [None, headers, None])
    assert together.inputs["input"][0].tobytes() == alone.inputs["input"][0].tobytes()
    assert together.inputs["input"][-1].tobytes() == alone.inputs["input"][0].tobytes()
    if not rejects:
        return None
    (reject,) = rejects
    assert reject.row == 1
    assert reject.detail
    assert len(reject.detail) <= 1024
    return reject


JSON_FLAT = {
    "null value": (None, "decode"),
    "empty": (b"", "decode"),
    "white space": (b"  \n", "decode"),
    "1 MiB and a byte": (b'{"x":1,"pad":"' + b"a" * (1 << 20) + b'"}', "too_large"),
    "not JSON": (b"hello", "decode"),
    "NaN": (b'{"x":NaN}', "decode"),
    "Infinity": (b'{"x":Infinity}', "decode"),
    "-Infinity": (b'{"x":-Infinity}', "decode"),
    "1e400": (b'{"x":1e400}', "schema"),
    "1e39 in float32": (b'{"x":1e39}', "out_of_range"),
    "5,000 digits": (b'{"x":' + b"9" * 5000 + b"}", "schema"),
    "5,000 digits in an integer": (b'{"x":1,"n":' + b"9" * 5000 + b"}", "schema"),
    "integer of 65 bits": (b'{"x":1,"n":9223372036854775808}', "schema"),
    "duplicate keys, the last is wrong": (b'{"x":1,"x":"1"}', "schema"),
    "100,000 deep": (b'{"x":1,"other":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "decode"),
    "100,000 deep at the top": (b"[" * 100_000, "decode"),
    "100,000 deep objects": (b'{"x":1,"other":' + b'{"a":' * 100_000, "decode"),
    "lone surrogate in the id": (b'{"id":"\\ud800","x":1}', "decode"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "decode"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "decode"),
    "UTF-16 without mark": (GOOD.decode().encode("utf-16-le"), "decode"),
    "UTF-32": (GOOD.decode().encode("utf-32-be"), "decode"),
    "bad UTF-8": (b'{"x":1,"s":"\xff"}', "decode"),
    "trailing bytes": (GOOD + b"x", "decode"),
    "two objects": (GOOD + GOOD, "decode"),
    "top-level array": (b"[1]", "decode"),
    "top-level number": (b"1", "decode"),
    "top-level text": (b'"x"', "decode"),
    "top-level null": (b"null", "decode"),
    "number as text": (b'{"x":"1.5"}', "schema"),
    "bool for number": (b'{"x":true}', "schema"),
    "number for text": (b'{"x":1,"s":1}', "schema"),
    "number for bool": (b'{"x":1,"b":1}', "schema"),
    "float for integer": (b'{"x":1,"n":1.0}', "schema"),
    "object for number": (b'{"x":{}}', "schema"),
    "missing": (b'{"id":"i"}', "missing_feature"),
    "null": (b'{"x":null}', "missing_feature"),
    "renamed field": (b'{"X":1}', "missing_feature"),
    "unseen category": (b'{"x":1,"s":"zz"}', "schema"),
    "id as 1e20": (b'{"id":1e20,"x":1}', "schema"),
    "id of 21 digits": (b'{"id":100000000000000000000,"x":1}', "schema"),
    "id of 5,000 digits": (b'{"id":' + b"1" * 5000 + b',"x":1}', "schema"),
    "id true": (b'{"id":true,"x":1}', "schema"),
    "id null": (b'{"id":null,"x":1}', "schema"),
    "control character": (b'{"x":1,"s":"\x01"}', "decode"),
    "leading zero": (b'{"x":01}', "decode"),
    "plus": (b'{"x":+1}', "decode"),
    "bytes": (bytes(range(256)), "decode"),
}


@pytest.mark.parametrize(("value", "reason"), JSON_FLAT.values(), ids=JSON_FLAT)
def test_bad_json_is_rejected_with_its_reason(value, reason):
    identified = value if value is None or b'"id"' in value else value.replace(b"{", b'{"id":"i",', 1)
    reject = run(FLAT, GOOD, identified, id="id")
    assert reject is not None
    assert reject.reason == reason


ACCEPTED_JSON = {
    "negative zero": b'{"x":-0}',
    "negative zero float": b'{"x":-0.0}',
    "extra fields": b'{"x":1,"more":{"a":[1,{}]},"and":null}',
    "duplicate keys, the last wins": b'{"x":"1","x":1}'.replace(b'"x":"1"', b'"x":2'),
    "denormal": b'{"x":5e-324}',
    "white space around": b' {"x" : 1 } \n',
    "integer for float": b'{"x":3}',
    "escaped field name": b'{"\\u0078":1}',
    "largest int64": b'{"x":1,"n":9223372036854775807}',
    "bad UTF-8 in a field nobody reads": b'{"x":1,"other":"\xff"}',
}


@pytest.mark.parametrize("value", ACCEPTED_JSON.values(), ids=ACCEPTED_JSON)
def test_unusual_json_is_accepted(value):
    assert run(FLAT, GOOD, value) is None


VECTOR_JSON = {
    "missing": (lambda n: b"{}", "missing_feature"),
    "null": (lambda n: b'{"v":null}', "missing_feature"),
    "too short": (lambda n: vector(["1"] * (n - 1)), "schema"),
    "too long": (lambda n: vector(["1"] * (n + 1)), "schema"),
    "one": (lambda n: vector(["1"]), "schema"),
    "empty": (lambda n: vector([]), "schema"),
    "bool": (lambda n: vector(["true"] + ["1"] * (n - 1)), "schema"),
    "null inside": (lambda n: vector(["null"] + ["1"] * (n - 1)), "schema"),
    "text inside": (lambda n: vector(['"1"'] + ["1"] * (n - 1)), "schema"),
    "nested": (lambda n: vector(["[1]"] + ["1"] * (n - 1)), "schema"),
    "nested, total right": (lambda n: vector(["[1,1]", "[]"] + ["1"] * (n - 2)), "schema"),
    "object inside": (lambda n: vector(["{}"] + ["1"] * (n - 1)), "schema"),
    "NaN": (lambda n: vector(["NaN"] + ["1"] * (n - 1)), "decode"),
    "1e400": (lambda n: vector(["1e400"] + ["1"] * (n - 1)), "schema"),
    "1e39": (lambda n: vector(["1"] * (n - 1) + ["1e39"]), "out_of_range"),
    "5,000 digits": (lambda n: vector(["9" * 5000] + ["1"] * (n - 1)), "schema"),
    "mark": (lambda n: b"\xef\xbb\xbf" + vector(["1"] * n), "decode"),
    "trailing": (lambda n: vector(["1"] * n) + b"1", "decode"),
    "duplicate, the last is null": (lambda n: vector(["1"] * n)[:-1] + b',"v":null}', "missing_feature"),
}


def vector(items: list[str]) -> bytes:
    return ('{"v":[' + ",".join(items) + "]}").encode()


@pytest.mark.parametrize("spec", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize(("make", "reason"), VECTOR_JSON.values(), ids=VECTOR_JSON)
def test_bad_json_vectors_are_rejected_with_their_reason(spec, make, reason):
    reject = run(spec, vector(["1.5"] * spec["size"]), make(spec["size"]))
    assert reject is not None
    assert reject.reason == reason
    assert not reject.feature or reject.feature == "v"


def test_a_wrong_length_tells_both_lengths():
    for spec in (NARROW, WIDE):
        reject = run(spec, vector(["1"] * spec["size"]), vector(["1"] * 7))
        assert reject.detail == f"v holds 7 numbers, {spec['size']} expected"


MSGPACK = {
    "null value": (None, "decode"),
    "empty": (b"", "decode"),
    "array32 without body": (b"\x81\xa1x\xdd\xff\xff\xff\xff", "schema"),
    "array32 without body, unread": (b"\x82\xa1x\x01\xa1z\xdd\xff\xff\xff\xff", "decode"),
    "array32 at the top": (b"\xdd\xff\xff\xff\xff", "decode"),
    "map32 without body": (b"\xdf\xff\xff\xff\xff", "decode"),
    "str32 without body": (b"\x81\xa1s\xdb\xff\xff\xff\xff", "decode"),
    "bin32 without body": (b"\x81\xa1s\xc6\xff\xff\xff\xff", "decode"),
    "100,000 deep": (b"\x82\xa1x\x01\xa1z" + b"\x91" * 100_000, "decode"),
    "100,000 deep maps": (b"\x82\xa1x\x01\xa1z" + b"\x81\xa1a" * 100_000, "decode"),
    "ext type": (b"\x81\xa1x\xd4\x01\x00", "schema"),
    "timestamp ext": (b"\x81\xa1x\xd6\xff\x00\x00\x00\x00", "schema"),
    "NaN": (pack({"x": float("nan")}), "non_finite"),
    "NaN with a default": (pack({"x": 1, "n": float("nan")}), "schema"),
    "Inf": (pack({"x": float("inf")}), "non_finite"),
    "-Inf": (pack({"x": float("-inf")}), "non_finite"),
    "text for number": (pack({"x": "1"}), "schema"),
    "bool for number": (pack({"x": True}), "schema"),
    "bytes for text": (pack({"x": 1, "s": b"a"}), "schema"),
    "u64 beyond int64": (pack({"x": 1, "n": 2**64 - 1}), "schema"),
    "key is a number": (pack({1: 2}), "decode"),
    "top-level array": (pack([1]), "decode"),
    "bad UTF-8": (b"\x82\xa1x\x01\xa1s\xa1\xff", "decode"),
    "trailing bytes": (pack({"x": 1}) + b"\x00", "decode"),
    "never used byte": (b"\xc1", "decode"),
    "1e39": (pack({"x": 1e39}), "out_of_range"),
}


@pytest.mark.parametrize(("value", "reason"), MSGPACK.values(), ids=MSGPACK)
def test_bad_messagepack_is_rejected_with_its_reason(value, reason):
    reject = run(FLAT, pack({"x": 1.5, "n": 1}), value, "msgpack")
    assert reject is not None
    assert reject.reason == reason


def test_a_messagepack_extension_nobody_reads_is_ignored():
    assert run(FLAT, pack({"x": 1}), b"\x82\xa1x\x01\xa1z\xd4\x01\x00", "msgpack") is None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("format", "encode"),
    [
        ("msgpack", lambda numbers: pack({"v": numbers})),
        ("raw", lambda numbers: np.array(numbers, "<f4").tobytes()),
    ],
)
def test_a_row_that_is_not_finite_leaves_its_neighbours_alone(number, format, encode):
    reject = run({"field": "v", "size": 3}, encode([1.0, 2.0, 3.0]), encode([1.0, number, 3.0]), format)
    assert (reject.stage, reject.reason, reject.feature) == ("enrich", "non_finite", "v")
    assert reject.detail == f"v[1] = {number} is not finite"


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3, np.float32))
    return file.getvalue()


def npy_of_objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


RAW = {
    "null value": (None, None, "decode"),
    "empty": (b"", None, "decode"),
    "too short": (b"\0" * 11, None, "schema"),
    "too long": (b"\0" * 13, None, "schema"),
    "npy file": (npy(), None, "schema"),
    "npy file of objects": (npy_of_objects(), None, "schema"),
    "header: float64": (b"\0" * 12, [("streamserve.tensor.dtype", b"float64")], "schema"),
    "header: big-endian": (b"\0" * 12, [("streamserve.tensor.dtype", b">f4")], "schema"),
    "header: object": (b"\0" * 12, [("streamserve.tensor.dtype", b"|O")], "schema"),
    "header: null dtype": (b"\0" * 12, [("streamserve.tensor.dtype", None)], "schema"),
    "header: bytes": (b"\0" * 12, [("streamserve.tensor.dtype", b"\xff\xfe")], "schema"),
    "header: 1 MiB": (b"\0" * 12, [("streamserve.tensor.dtype", b"<" * (1 << 20))], "schema"),
    "header: other size": (b"\0" * 12, [("streamserve.tensor.shape", b"4")], "schema"),
    "header: rank 3": (b"\0" * 12, [("streamserve.tensor.shape", b"1,1,3")], "schema"),
    "header: transposed": (b"\0" * 12, [("streamserve.tensor.shape", b"3,1")], "schema"),
    "header: no shape": (b"\0" * 12, [("streamserve.tensor.shape", b"wide")], "schema"),
    "header: huge shape": (b"\0" * 12, [("streamserve.tensor.shape", b"9" * 100_000)], "schema"),
    "header: negative": (b"\0" * 12, [("streamserve.tensor.shape", b"-1")], "schema"),
    "10,000 headers, the last wrong": (
        b"\0" * 12,
        [("h", b"")] * 9999 + [("streamserve.tensor.shape", b"2")],
        "schema",
    ),
}


@pytest.mark.parametrize(("value", "headers", "reason"), RAW.values(), ids=RAW)
def test_bad_raw_tensors_are_rejected_with_their_reason(value, headers, reason):
    reject = run({"field": "v", "size": 3}, b"\1" * 12, value, "raw", headers)
    assert reject is not None
    assert reject.reason == reason


@pytest.mark.parametrize(
    "headers",
    [
        [("streamserve.tensor.dtype", b"<f4"), ("streamserve.tensor.shape", b"3")],
        [("streamserve.tensor.dtype", b"float32"), ("streamserve.tensor.shape", b"1,3")],
        [("streamserve.tensor.shape", b"(3,)")],
        [("unrelated", b"\xff"), ("unrelated", None)],
        [],
    ],
)
def test_raw_headers_that_fit_are_accepted(headers):
    assert run({"field": "v", "size": 3}, b"\1" * 12, b"\1" * 12, "raw", headers) is None


def test_denormals_in_raw_tensors_are_accepted():
    assert run({"field": "v", "size": 1}, b"\1" * 4, struct.pack("<I", 1), "raw") is None


def test_messages_of_raw_tensors_say_what_to_do():
    reject = run({"field": "v", "size": 3}, b"\1" * 12, npy(), "raw")
    assert reject.detail == "the value is a .npy file; send the array's 12 bytes alone"
    reject = run({"field": "v", "size": 3}, b"\1" * 12, b"\1" * 13, "raw")
    assert reject.detail == "the value has 13 bytes, 12 expected"


WHOLE = {
    "json": (FLAT, GOOD, {"id": "id"}),
    "json, wide": (WIDE, json.dumps({"v": [0.25] * 63 + [1], "id": "é"}).encode(), {"id": "id"}),
    "msgpack": (FLAT, pack({"x": 1.5, "n": 300, "b": True, "s": "b", "id": "i"}), {"id": "id"}),
    "raw": ({"field": "v", "size": 3}, b"\1" * 12, {}),
}


@pytest.mark.parametrize("case", WHOLE)
def test_truncated_at_every_byte_is_rejected_and_never_raises(case):
    features, good, fields = WHOLE[case]
    decoder = build_decoder(settings(features, format=case.split(",")[0], **fields))
    cuts = [good[:length] for length in range(len(good))]
    events, rejects = decoder.decode(batch([*cuts, good]))
    assert events.row == [len(good)]
    assert {reject.reason for reject in rejects} == ({"decode", "schema"} if case == "raw" else {"decode"})
    assert [reject.row for reject in rejects] == list(range(len(good)))


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 2**63 - 1, 1_731_536_000_000])
def test_any_record_timestamp_is_accepted(timestamp_ms):
    events, rejects = build_decoder(settings(FLAT)).decode(batch([b'{"x":1}'], timestamp_ms=[timestamp_ms]))
    assert not rejects
    assert events.event_time_ms == [timestamp_ms]


def test_time_may_go_backwards():
    records = batch([b'{"x":1,"t":2000}', b'{"x":1,"t":1000}'])
    events, rejects = build_decoder(settings(FLAT, event_time="t")).decode(records)
    assert not rejects
    assert events.event_time_ms == [2000, 1000]


@pytest.mark.parametrize("time", [b"9223372036854775807", b"-9223372036854775808", b"1e12", b'"1"', b"null", b"true"])
@pytest.mark.parametrize("spec", [FLAT, WIDE], ids=["flat", "wide"])
def test_an_event_time_that_is_no_time_is_a_schema_error(spec, time):
    head = b'{"x":1' if spec is FLAT else vector(["1"] * 64)[:-1]
    decoder = build_decoder(settings(spec, event_time="t"))
    events, (reject,) = decoder.decode(batch([head + b',"t":5}', head + b',"t":' + time + b"}"]))
    assert reject.reason == "schema"
    assert "t" in reject.detail
    assert events.event_time_ms == [5]


@pytest.mark.parametrize("key", [None, b"", b"\x00\xff", b"k" * (1 << 20)], ids=["null", "empty", "binary", "1 MiB"])
def test_any_record_key_is_the_entity(key):
    events, rejects = build_decoder(settings(FLAT)).decode(batch([b'{"x":1}'], key=[key]))
    assert not rejects
    assert events.entity == [key]


@pytest.mark.parametrize(
    "headers",
    [
        [("h", b"")] * 10_000,
        [("h", b"1"), ("h", b"2")],
        [("h", b"\xff\xfe"), ("h", None)],
    ],
    ids=["10,000", "duplicate", "not UTF-8"],
)
def test_headers_do_not_disturb_a_json_event(headers):
    assert run(FLAT, GOOD, GOOD, headers=headers) is None


@pytest.mark.parametrize(
    ("format", "value"),
    [
        ("json", b'{"x":1,"other":' + b"[" * 1_000_000),
        ("msgpack", b"\x81\xa1x\xdd\xff\xff\xff\xff" + b"\x01" * 1_000_000),
        ("msgpack", b"\x91" * 1_000_000),
        ("json", b'{"id":"' + b"\\u0041" * 160_000),
    ],
)
def test_a_hostile_megabyte_costs_memory_in_proportion(format, value):
    decoder = build_decoder(settings(FLAT, format=format, id="id"))
    tracemalloc.start()
    try:
        _, (reject,) = decoder.decode(batch([value]))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reject.reason in {"decode", "schema"}
    assert peak_bytes < 16 * len(value)


def test_a_hundred_mebibytes_are_refused_unread():
    value = bytes(100 << 20)
    tracemalloc.start()
    try:
        for kind in ("json", "msgpack", "raw"):
            features = {"field": "v", "size": 64}
            _, (reject,) = build_decoder(settings(features, format=kind)).decode(batch([value]))
            assert reject.reason == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_one_hot_key_and_mixed_versions_of_events_decode_in_one_batch():
    values = [b'{"x":1}', b'{"x":1,"n":2}', b'{"x":1,"added_later":[]}'] * 1000
    events, rejects = build_decoder(settings(FLAT)).decode(batch(values, key=[b"hot"] * 3000))
    assert not rejects
    assert set(events.entity) == {b"hot"}
    assert len(events) == 3000
