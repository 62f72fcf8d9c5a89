"""Sequences as decoded: rows of their own length, and the one reject of a row that is none."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest

from streamserve.codecs import build_decoder
from streamserve.errors import ConfigError
from tests.records import batch, settings

FORMATS = [("json", lambda event: json.dumps(event).encode()), ("msgpack", msgspec.msgpack.encode)]
IDS = [{"name": "ids", "dtype": "int64", "sequence": {"max_length": 4}}]


def decode(features, values, format="json"):
    return build_decoder(settings(features, format=format)).decode(batch(values))


@pytest.mark.parametrize(("format", "encode"), FORMATS)
def test_rows_keep_their_lengths_and_their_type(format, encode):
    features = [
        {"name": "ids", "dtype": "int64", "sequence": {"max_length": 4}},
        {"name": "x", "dtype": "float32", "sequence": {"max_length": 4}},
        {"name": "words", "dtype": "string", "sequence": {"max_length": 4}},
        {"name": "flags", "dtype": "bool", "sequence": {"max_length": 4}},
        {"name": "y"},
    ]
    rows = [
        {"ids": [1, 2**62], "x": [1, 2.5], "words": ["a", "é"], "flags": [True], "y": 1},
        {"ids": [], "x": [3], "words": [], "flags": [], "y": 2},
    ]
    events, rejects = decode(features, [encode(row) for row in rows], format)
    assert not rejects
    for name, dtype in (("ids", np.int64), ("x", np.float64), ("words", object), ("flags", np.int64)):
        column = events.fields[name]
        assert column.shape == (2,)
        assert [row.dtype for row in column] == [dtype, dtype]
        assert [row.tolist() for row in column] == [row[name] for row in rows]


def test_rows_of_one_length_are_rows_all_the_same():
    events, _ = decode(IDS, [b'{"ids":[1,2]}', b'{"ids":[3,4]}'])
    assert events.fields["ids"].shape == (2,)
    assert events.take([1]).fields["ids"][0].tolist() == [3, 4]


def test_missing_and_null_are_none_and_an_empty_batch_is_empty():
    events, rejects = decode(IDS, [b"{}", b'{"ids":null}', b'{"ids":[7]}'])
    assert not rejects
    assert events.fields["ids"].tolist()[:2] == [None, None]
    assert decode(IDS, [])[0].fields["ids"].shape == (0,)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (b'{"ids":7}', "ids: expected `array | null`, got `int`"),
        (b'{"ids":[1,"2"]}', "ids[1]: expected `int`, got `str`"),
        (b'{"ids":[1.5]}', "ids[0]: expected `int`, got `float`"),
        (b'{"ids":[null]}', "ids[0]: expected `int`, got `null`"),
        (b'{"ids":[true]}', "ids[0]: expected `int`, got `bool`"),
        (b'{"ids":[[1]]}', "ids[0]: expected `int`, got `array`"),
    ],
)
def test_a_wrong_value_is_one_reject_that_names_its_place(value, detail):
    events, (reject,) = decode(IDS, [b'{"ids":[1]}', value, b'{"ids":[2,3]}'])
    assert (reject.row, reject.stage, reject.reason, reject.feature) == (1, "decode", "schema", "ids")
    assert reject.detail == detail
    assert events.row == [0, 2]
    assert [row.tolist() for row in events.fields["ids"]] == [[1], [2, 3]]


def test_a_nan_that_was_sent_is_left_to_the_enricher():
    features = [{"name": "x", "sequence": {"max_length": 4}}]
    events, rejects = decode(features, [msgspec.msgpack.encode({"x": [1.0, math.nan]})], "msgpack")
    assert not rejects
    assert math.isnan(events.fields["x"][0][1])


def test_a_sequence_cannot_be_raw_nor_an_id():
    with pytest.raises(ConfigError, match="a sequence cannot be sent in the raw format"):
        build_decoder(settings(IDS, format="raw"))
    with pytest.raises(ConfigError, match="the field ids is also a feature of another type"):
        build_decoder(settings(IDS, id="ids"))
