"""Formulas against scipy, and what each peer does at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamserve.drift.compat import Measure, Peer, Score, compare
from streamserve.drift.compat.distances import (
    contingency_chi_square,
    jensen_shannon_distance,
    wasserstein_distance,
)
from streamserve.drift.compat.ks_test import ks_two_sample, one_sample_tail
from streamserve.drift.tables import CategoricalColumn, Column, NumericColumn, Table
from streamserve.errors import ContractError

WHOLE = st.integers(-20, 20)
SAMPLES = arrays(np.float64, st.integers(1, 60), elements=WHOLE.map(lambda n: n / 4))
COUNTS = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=8)


@given(SAMPLES, SAMPLES)
def test_ks_is_scipys_to_the_last_digits(a, b):
    try:
        expected = scipy.stats.ks_2samp(a, b)
    except RuntimeWarning:  # scipy's recursion came out above 1 by a rounding, and it gives up on it
        assert ks_two_sample(a, b)[1] == pytest.approx(1.0, abs=1e-9)
        return
    distance, p_value = ks_two_sample(a, b)
    assert distance == expected.statistic
    assert p_value == pytest.approx(expected.pvalue, rel=1e-12)


@given(st.integers(1, 30_000), st.floats(0.05, 4.0))
def test_the_one_sample_tail_is_scipys(n, scaled):
    distance = min(scaled / n**0.5, 1.0)
    assert one_sample_tail(distance, n) == pytest.approx(scipy.stats.kstwo.sf(distance, n), rel=1e-7, abs=1e-14)


def test_beyond_ten_thousand_rows_scipys_approximation_is_taken():
    random = np.random.default_rng(7)
    a, b = random.normal(size=10_001), random.normal(0.05, size=900)
    expected = scipy.stats.ks_2samp(a, b)
    assert ks_two_sample(a, b) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue, rel=1e-9))


@given(SAMPLES, SAMPLES)
def test_wasserstein_is_scipys(a, b):
    assert wasserstein_distance(a, b) == pytest.approx(scipy.stats.wasserstein_distance(a, b), rel=1e-12, abs=1e-15)


@given(COUNTS)
def test_jensen_shannon_is_scipys_in_either_base(pairs):
    p, q = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    for base in (None, 2.0):
        expected = scipy.spatial.distance.jensenshannon(p, q, base)
        # the square of it is what is exact to a rounding
        assert jensen_shannon_distance(p, q, base) ** 2 == pytest.approx(expected**2, rel=1e-9, abs=1e-15)


@given(COUNTS)
def test_chi_square_is_scipys_with_yates_for_two_categories(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    statistic, freedom = contingency_chi_square(a, b)
    expected = scipy.stats.chi2_contingency(np.array([a, b]))
    assert statistic == pytest.approx(expected.statistic, rel=1e-12, abs=1e-12)
    assert freedom == expected.dof


def _numbers(*values: float) -> NumericColumn:
    return NumericColumn(name="x", values=np.array(values, dtype=np.float64))


def _words(*values: str | None) -> CategoricalColumn:
    present = np.array([value is not None for value in values])
    return CategoricalColumn(name="x", values=np.array([value or "" for value in values]), present=present)


def _table(name: str, column: Column, **others: Column) -> Table:
    return Table(source=name, rows=column.values.size, columns={"x": column, **others})


def _scores(peer: Peer, reference: Column, current: Column) -> dict[Measure, Score]:
    report = compare(peer, _table("before", reference), _table("now", current))
    return {score.measure: score for score in report.scores}


@pytest.mark.parametrize("peer", list(Peer))
@pytest.mark.parametrize(
    ("reference", "current"), [(_numbers(1, 2, np.nan), _numbers(np.nan)), (_words("a"), _words(None))]
)
def test_a_column_without_values_has_no_scores_and_says_so(peer, reference, current):
    scores = _scores(peer, reference, current)
    assert scores
    assert all(score.value is None and score.drifted is None and score.note for score in scores.values())


@pytest.mark.parametrize("peer", list(Peer))
def test_equal_samples_are_at_distance_zero(peer):
    values = np.random.default_rng(1).normal(size=500)
    scores = _scores(peer, _numbers(*values), _numbers(*values))
    for measure in {"psi", "jensen_shannon", "hellinger", "wasserstein"} & set(scores):
        assert scores[measure].value == pytest.approx(0.0, abs=1e-7)
    assert not any(score.drifted for score in scores.values())


@pytest.mark.parametrize("peer", list(Peer))
def test_a_constant_column_is_scored(peer):
    scores = _scores(peer, _numbers(*[3.0] * 40), _numbers(*[3.0] * 20))
    assert all(score.value is None or np.isfinite(score.value) for score in scores.values())
    assert not any(score.drifted for score in scores.values())


@pytest.mark.parametrize("peer", [Peer.EVIDENTLY, Peer.NANNYML, Peer.HOPSWORKS])
def test_missing_numbers_are_as_if_they_were_not_there(peer):
    values = np.random.default_rng(2).normal(size=300)
    holes = np.insert(values[:200], 50, np.nan)
    with_holes, without = (_scores(peer, _numbers(*values), _numbers(*current)) for current in (holes, values[:200]))
    assert {m: s.value for m, s in with_holes.items()} == {m: s.value for m, s in without.items()}


def test_frouros_refuses_missing_values():
    scores = _scores(Peer.FROUROS, _numbers(1.0, 2.0, 3.0), _numbers(1.0, np.nan))
    assert {score.note for score in scores.values()} == {"Frouros refuses missing and infinite values"}


def test_one_empty_bin_is_hundreds_of_nats_to_frouros():
    reference = [*np.linspace(0.0, 0.9, 50), *np.linspace(1.0, 10.0, 50)]
    without_the_last_bin = _scores(Peer.FROUROS, _numbers(*reference), _numbers(*reference[:94]))["psi"]
    assert without_the_last_bin.value == pytest.approx(0.06 * 705, rel=0.05)


def test_evidentlys_chi_square_is_certain_of_a_category_that_the_reference_lacks():
    scores = _scores(Peer.EVIDENTLY, _words(*"aab" * 300), _words(*"aab" * 100, "c"))
    assert scores["chi_square"].value == 0.0
    assert scores["chi_square"].drifted


def test_nannyml_gives_no_threshold_below_ten_reference_rows():
    score = _scores(Peer.NANNYML, _numbers(1, 2, 3), _numbers(2, 3, 4))["jensen_shannon"]
    assert (score.threshold, score.drifted) == (None, None)
    assert "fewer than 10 rows" in score.note


def test_evidently_sums_up_by_the_share_of_drifted_columns():
    random = np.random.default_rng(3)
    before, now = random.normal(size=2000), random.normal(size=2000)
    still, moved = _numbers(*before), NumericColumn(name="y", values=before)
    report = compare(
        Peer.EVIDENTLY,
        _table("before", still, y=moved),
        _table("now", _numbers(*now), y=NumericColumn(name="y", values=now + 1.0)),
    )
    assert report.verdict == "dataset drift: 1 of 2 columns drift, the limit is 50%"


def test_columns_are_those_of_both_tables_or_those_asked_for():
    before, now = (
        _table("before", _numbers(1, 2), old=_numbers(1, 2)),
        _table("now", _numbers(1, 2), new=_numbers(1, 2)),
    )
    report = compare(Peer.FROUROS, before, now)
    assert {score.column for score in report.scores} == {"x"}
    assert report.left_out == ("old", "new")
    with pytest.raises(ContractError, match="now has no column old; it has x, new"):
        compare(Peer.FROUROS, before, now, ["old"])


def test_a_number_in_one_table_and_a_word_in_the_other_are_not_compared():
    with pytest.raises(ContractError, match="x is a number only in before"):
        compare(Peer.HOPSWORKS, _table("before", _numbers(1, 2)), _table("now", _words("1", "2")))
