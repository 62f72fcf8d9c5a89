"""Laws of sequences: any bytes give a row or exactly one reject, and a row is the same whoever its neighbours are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from streamserve.codecs import build_decoder
from streamserve.enrich import FeatureEnricher
from streamserve.ports import Signature, TensorSpec
from tests.property.test_codecs import _pack, values
from tests.records import batch, settings

FEATURES = [
    {"name": "n", "dtype": "int64", "max": 10**6, "sequence": {"max_length": 3, "mask": "m", "too_long": "keep_last"}},
    {"name": "x", "dtype": "float32", "min": -5, "sequence": {"max_length": 4, "missing": "empty"}},
    {"name": "s", "dtype": "string", "categories": ["a", "b"], "sequence": {"max_length": 3}},
    {"name": "t", "dtype": "string", "sequence": {"max_length": 3, "min_length": 1}},
]
SHAPE = (-1, -1)
INPUTS = {"n": "int64", "m": "bool", "x": "float32", "s": "int32", "t": "str"}
MODEL = Signature(
    inputs=tuple(TensorSpec(name=name, dtype=dtype, shape=SHAPE) for name, dtype in INPUTS.items()), outputs=()
)
whole = st.fixed_dictionaries(
    {
        "n": st.lists(st.integers(-(2**63), 10**6), max_size=5),
        "x": st.lists(st.floats(-5, 1e30), max_size=4),
        "s": st.lists(st.sampled_from(["a", "b"]), max_size=3),
        "t": st.lists(st.text(max_size=3), min_size=1, max_size=3),
    }
)
spoilt = st.tuples(whole, st.dictionaries(st.sampled_from("nxst"), values | st.lists(values, max_size=4))).map(
    lambda pair: {**pair[0], **pair[1]}
)


@pytest.mark.parametrize("format", ["json", "msgpack"])
@given(data=st.data())
@examples(deadline=None)
def test_every_event_is_a_row_or_one_reject_and_the_same_alone(format, data):
    encode = _pack if format == "msgpack" else lambda event: json.dumps(event).encode()
    drawn = [encode(event) for event in data.draw(st.lists(whole | spoilt, max_size=6))]
    config = settings(FEATURES, format=format)
    decoder, enricher = build_decoder(config), FeatureEnricher(config.features, MODEL)

    def prepared(records):
        events, undecodable = decoder.decode(batch(records))
        features, refused = enricher.enrich(events)
        rejects = {reject.row: (reject.stage, reject.reason, reject.detail) for reject in [*undecodable, *refused]}
        assert sorted([*features.events.row, *rejects]) == list(range(len(records)))
        assert len(rejects) == len(undecodable) + len(refused)
        return features, rejects

    together, rejects = prepared(drawn)
    assert set(together.inputs) == set(INPUTS) - {"m"}
    for i, record in enumerate(drawn):
        alone, why = prepared([record])
        assert why.get(0) == rejects.get(i)
        if why:
            continue
        at = together.events.row.index(i)
        for name, column in together.inputs.items():
            assert column[at].dtype == (object if INPUTS[name] == "str" else INPUTS[name])
            np.testing.assert_array_equal(column[at], alone.inputs[name][0])
            assert len(column[at]) <= 4
