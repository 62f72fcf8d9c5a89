"""When an engine is quick enough to be run by the poll thread."""

from __future__ import annotations

from streamserve.worker.pace import QUICK_BATCHES, QUICK_INFER_S, QUICK_S, Pace

FAST, SLOW = (0.0001, 0.001), (QUICK_INFER_S, 0.003)


def fed(*batches):
    pace = Pace()
    for batch in batches:
        pace.add(*batch)
    return pace


def test_an_engine_is_quick_after_a_row_of_quick_batches():
    assert not fed(*[FAST] * (QUICK_BATCHES - 1)).quick
    assert fed(*[FAST] * QUICK_BATCHES).quick


def test_a_batch_is_slow_by_its_time_in_the_engine_or_in_all():
    for batch in (SLOW, (0.0, QUICK_S)):
        assert not fed(*[batch] * 100).quick


def test_one_slow_batch_in_twenty_is_no_slow_engine():
    assert fed(*([FAST] * 19 + [SLOW]) * 50).quick


def test_an_engine_that_has_become_slow_is_soon_known():
    assert not fed(*[FAST] * 1000, SLOW, SLOW).quick


def test_half_of_the_batches_slow_is_slow():
    assert not fed(*[FAST, SLOW] * 100).quick
