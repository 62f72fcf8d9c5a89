"""p-values of any pair of counts are p-values, do not depend on order, and fall with evidence."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.drift.decision import holm
from streamserve.drift.dispersion import Dispersion
from streamserve.drift.schema import CELLS
from streamserve.drift.significance import significance


def drawn(seed, empty, largest):
    """Counts of two columns, some cells empty, the others of any order of magnitude up to `largest`."""
    random = np.random.default_rng(seed)
    counts = np.floor(np.exp(random.uniform(0, np.log(largest), (2, CELLS))))
    return np.where(random.random((2, CELLS)) < empty, 0, counts).astype(np.int64)


COUNTS = st.builds(drawn, st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.sampled_from([2, 40, 10**6]))
FREE = Dispersion.independent(2, CELLS).inflation(6)


def judged(observed, expected, ordered):
    n, m = (counts.sum(axis=-1).astype(np.float64) for counts in (observed, expected))
    window, base = (FREE.effective(rows[:1]) for rows in (n, m))
    return significance(observed, expected, np.array(ordered), window, base)


@settings(max_examples=150, deadline=None)
@given(COUNTS, COUNTS, st.lists(st.booleans(), min_size=2, max_size=2))
def test_they_are_probabilities(observed, expected, ordered):
    found = judged(observed, expected, ordered)
    for p in (found.p, found.contrasts, found.chi_square, found.rare):
        assert np.isfinite(p).all()
        assert ((p >= 0) & (p <= 1)).all()


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.lists(st.booleans(), min_size=2, max_size=2), st.integers(1, 50))
def test_a_sample_against_a_multiple_of_itself_is_no_finding(counts, ordered, times):
    assert (judged(counts, counts * times, ordered).p > 0.5).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.array), st.floats(1e-6, 0.2))
def test_holm_lies_between_bonferroni_and_no_correction(p, alpha):
    rejected = holm(p, alpha)
    assert (rejected >= (p * len(p) <= alpha)).all()
    assert (rejected <= (p <= alpha)).all()
