"""The stop on too many rejects."""

from __future__ import annotations

import pytest

from streamserve.errors import StreamServeError
from streamserve.pipeline.ratio import RejectRatio, Tally


def tally(records, rejects):
    """Of the only version there is."""
    return Tally(records=records, scored=records, rejects=rejects)


def test_nothing_is_judged_before_the_window_is_full():
    ratio = RejectRatio(0.5, 100)
    ratio.add(tally(99, 99))
    with pytest.raises(StreamServeError):
        ratio.add(tally(1, 0))


def test_the_share_itself_is_allowed():
    ratio = RejectRatio(0.5, 100)
    ratio.add(tally(100, 50))
    with pytest.raises(StreamServeError, match="51 of the last 100 records"):
        RejectRatio(0.5, 100).add(tally(100, 51))


def test_what_left_the_window_counts_no_more():
    ratio = RejectRatio(0.5, 100)
    ratio.add(tally(100, 50))
    for _ in range(10):
        ratio.add(tally(100, 0))
    ratio.add(tally(100, 50))
    with pytest.raises(StreamServeError):
        ratio.add(tally(100, 51))


def test_good_history_does_not_hide_a_bad_deployment_for_longer_than_the_window():
    ratio = RejectRatio(0.5, 1000)
    for _ in range(10_000):
        ratio.add(tally(100, 0))
    for _ in range(5):
        ratio.add(tally(100, 100))
    with pytest.raises(StreamServeError):
        ratio.add(tally(100, 100))


def test_a_batch_larger_than_the_window_is_judged_whole():
    with pytest.raises(StreamServeError):
        RejectRatio(0.5, 10).add(tally(512, 300))


def test_a_share_of_one_never_stops():
    ratio = RejectRatio(1.0, 1)
    for _ in range(100):
        ratio.add(tally(10, 10))


def test_what_does_not_decode_counts_whole_and_the_stable_version_stands_for_the_rows_of_the_others():
    """A canary of 0.9: 100 of 1,000 did not decode, and of its 90 rows the stable version rejects so many."""
    ratio = RejectRatio(0.5, 1000)
    ratio.add(Tally(records=1000, refused=100, scored=90, rejects=40))  # 0.1 + 0.9 * 40 / 90 = 0.5
    with pytest.raises(StreamServeError, match="510 of the last 1000 records"):
        RejectRatio(0.5, 1000).add(Tally(records=1000, refused=100, scored=90, rejects=41))


def test_batches_without_a_row_of_the_stable_version_take_nothing_from_its_share():
    ratio = RejectRatio(0.5, 100)
    for n in range(99):
        ratio.add(Tally(records=1, scored=n % 2, rejects=n % 2))
    with pytest.raises(StreamServeError, match="100 of the last 100 records"):
        ratio.add(Tally(records=1))


def test_where_the_stable_version_had_nothing_what_did_not_decode_is_judged():
    RejectRatio(0.5, 100).add(Tally(records=100, refused=50))
    with pytest.raises(StreamServeError):
        RejectRatio(0.5, 100).add(Tally(records=100, refused=51))
