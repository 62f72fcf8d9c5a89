"""The stop on too many rejects."""

from __future__ import annotations

import pytest

from streamserve.errors import StreamServeError
from streamserve.pipeline.ratio import RejectRatio


def test_nothing_is_judged_before_the_window_is_full():
    ratio = RejectRatio(0.5, 100)
    ratio.add(99, 99)
    with pytest.raises(StreamServeError):
        ratio.add(1, 0)


def test_the_share_itself_is_allowed():
    ratio = RejectRatio(0.5, 100)
    ratio.add(100, 50)
    with pytest.raises(StreamServeError, match="51 of the last 100 records"):
        RejectRatio(0.5, 100).add(100, 51)


def test_what_left_the_window_counts_no_more():
    ratio = RejectRatio(0.5, 100)
    ratio.add(100, 50)
    for _ in range(10):
        ratio.add(100, 0)
    ratio.add(100, 50)
    with pytest.raises(StreamServeError):
        ratio.add(100, 51)


def test_good_history_does_not_hide_a_bad_deployment_for_longer_than_the_window():
    ratio = RejectRatio(0.5, 1000)
    for _ in range(10_000):
        ratio.add(100, 0)
    for _ in range(5):
        ratio.add(100, 100)
    with pytest.raises(StreamServeError):
        ratio.add(100, 100)


def test_a_batch_larger_than_the_window_is_judged_whole():
    with pytest.raises(StreamServeError):
        RejectRatio(0.5, 10).add(512, 300)


def test_a_share_of_one_never_stops():
    ratio = RejectRatio(1.0, 1)
    for _ in range(100):
        ratio.add(10, 10)
