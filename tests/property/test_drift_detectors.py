"""Laws of the detectors: how values are cut into calls, and a restart between any two, changes no alarm."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift.adwin import Adwin, AdwinSettings
from streamserve.drift.detectors import detector_from_document
from streamserve.drift.hddm import HddmA, HddmSettings

rates = st.lists(st.tuples(st.integers(1, 400), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0])), min_size=1, max_size=4)
makers = {
    "adwin": lambda: Adwin(AdwinSettings(delta=0.1, clock=4)),
    "tiny adwin": lambda: Adwin(AdwinSettings(delta=0.9, clock=1, max_buckets=1, min_window_length=1, grace_period=1)),
    "hddm_a": lambda: HddmA(HddmSettings(drift=0.05, warning=0.1)),
    "hddm_a, two-sided": lambda: HddmA(HddmSettings(drift=0.05, warning=0.1, two_sided=True)),
}


@pytest.mark.parametrize("name", makers)
@given(parts=rates, seed=st.integers(0, 100), cuts=st.lists(st.integers(0, 1600), max_size=5), scale=st.booleans())
@settings(max_examples=40, deadline=None)
def test_batches_values_and_restarts_agree(name, parts, seed, cuts, scale):
    rng = np.random.default_rng(seed)
    stream = np.concatenate([rng.random(n) < rate for n, rate in parts]).astype(float)
    if scale:
        stream *= rng.random(len(stream))
    one, many = makers[name](), makers[name]()
    singly = [index for index, value in enumerate(stream.tolist()) if one.update(value)]
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found = []
    for start, stop in itertools.pairwise(edges):
        found += [start + index for index in many.extend(stream[start:stop])]
        many = detector_from_document(json.loads(json.dumps(many.to_document())))
    assert found == singly
    assert many.to_document() == one.to_document()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
@settings(deadline=None)
def test_adwins_window_has_the_moments_of_its_values(values):
    adwin = Adwin(AdwinSettings(clock=10_000))
    adwin.extend(np.array(values))
    assert adwin.width == len(values)
    assert adwin.mean == pytest.approx(np.mean(values), abs=1e-3)
    assert adwin.variance == pytest.approx(np.var(values), rel=1e-6, abs=1e-3)


@given(st.floats(0, 1), st.integers(1, 3000))
@settings(deadline=None, max_examples=30)
def test_a_constant_stream_never_alarms(value, n):
    for make in makers.values():
        assert make().extend(np.full(n, value)) == []
