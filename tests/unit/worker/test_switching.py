"""The interpreter's switch interval follows the load."""

from __future__ import annotations

from streamserve.worker.switching import CALM_S, FLOODED_S, SwitchInterval


def test_it_is_short_until_batches_are_full_and_is_set_when_that_changes_only():
    seen: list[float] = []
    interval = SwitchInterval(seen.append)
    for flooded in (False, True, True, False, False, True):
        interval.flooded(flooded)
    assert seen == [CALM_S, FLOODED_S, CALM_S, FLOODED_S]
