"""Rejects that became more: a share of records refused for one reason, against what was usual for hours.

The usual share is that of the longest window. A share that has risen by the floor of `effects.share` and that chance
would not give within the look's part of the budget is told; one that stays becomes the usual one.
"""

from __future__ import annotations

import numpy as np

from streamserve.drift.incidents import Signal
from streamserve.drift.panes import Pane
from streamserve.drift.special import binomial_sf

LEAST_TIMES = 5
"""The usual share is known from at least so many times the records of the window that is judged."""
LEAST_RECORDS = 100
BURST = 10.0
"""Rejects come in bursts: so many records count as one independent one."""


def reject_signals(window: Pane, usual: Pane, *, window_s: float, floor: float, alpha: float) -> list[Signal]:
    """Reasons whose share of records has risen.

    Args:
        window: the window that is judged.
        usual: the longest window.
        window_s: length of the first, seconds.
        floor: a smaller rise is none.
        alpha: chance of any false signal.
    """
    if window.consumed < LEAST_RECORDS or usual.consumed < LEAST_TIMES * window.consumed or not window.rejects:
        return []
    kinds = sorted(window.rejects)
    came = np.array([window.rejects[kind] for kind in kinds], dtype=np.float64)
    share = came / window.consumed
    before = np.array([usual.rejects[kind] for kind in kinds]) / usual.consumed
    p = binomial_sf(
        np.ceil(came / BURST) - 1, np.floor(window.consumed / BURST), np.clip(before + floor / 2, 1e-12, 1 - 1e-12)
    ) * len(kinds)
    loud = (share - before >= floor) & (p <= alpha)
    return [
        Signal(
            source="quality",
            subject=" ".join(filter(None, kinds[i])),
            severity=float((share[i] - before[i]) / max(floor, 1e-9)),
            hold_s=window_s,
            window_s=window_s,
            detail=f"{share[i]:.1%} of records rejected, {before[i]:.1%} before",
        )
        for i in np.flatnonzero(loud).tolist()
    ]
