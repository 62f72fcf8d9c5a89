"""Sliding windows of event time as rings of panes.

A window of w seconds moves in strides of a tenth of it (whole panes): its ring holds about ten slots, so an hour costs
what a minute costs, in memory and in time. Rows are added to the slot that their event time falls into, late ones too,
until the slot has left the ring.
"""

from __future__ import annotations

from typing import Generic, Protocol, Self, TypeVar

LOOKS_PER_WINDOW = 10


class Addable(Protocol):
    """What a slot holds."""

    def add(self, other: Self) -> None: ...


T = TypeVar("T", bound=Addable)


def stride_panes(window_s: float, pane_s: float) -> int:
    """How many panes a window moves at a time: a tenth of it, at least one; a divisor of its length."""
    panes = round(window_s / pane_s)
    wanted = max(1, panes // LOOKS_PER_WINDOW)
    return next(stride for stride in range(wanted, 0, -1) if panes % stride == 0)


class Ring(Generic[T]):
    """The slots of one window.

    Args:
        window_s, pane_s: seconds; the window is a whole number of panes.
        keep: slots kept beyond the window, for rows that run ahead of the look.
    """

    def __init__(self, window_s: float, pane_s: float, keep: int = 3) -> None:
        self.window_s = window_s
        self.panes = round(window_s / pane_s)
        stride = stride_panes(window_s, pane_s)
        self.stride_ms = round(stride * pane_s * 1000)
        self.length = self.panes // stride
        self._keep = keep
        self._slots: dict[int, T] = {}

    def slot_of(self, time_ms: int) -> int:
        """Number of the slot that a time falls into."""
        return time_ms // self.stride_ms

    def add(self, slot: int, part: T, newest: int) -> bool:
        """Add a part; `newest` is the slot of now. Returns: whether the slot is held: neither gone nor far ahead."""
        if abs(slot - newest) >= self.length + self._keep:
            return False
        held = self._slots.get(slot)
        if held is None:
            self._slots[slot] = part
            self._expire(newest)
        else:
            held.add(part)
        return True

    def window(self, last: int) -> list[T]:
        """The slots of the window that ends with slot `last`."""
        wanted = range(last - self.length + 1, last + 1)
        return [self._slots[slot] for slot in wanted if slot in self._slots]

    def filled(self, after: int, up_to: int) -> list[int]:
        """Slots after `after`, up to `up_to`, at whose end the window holds anything, ascending."""
        return sorted(slot for slot in self._slots if after < slot <= up_to)

    def first_full(self, start_ms: int) -> int:
        """The first slot at whose end the window lies within what came since `start_ms`."""
        return self.slot_of(start_ms - 1) + self.length

    def clear(self) -> None:
        """Forget all rows."""
        self._slots.clear()

    def _expire(self, newest: int) -> None:
        gone = [slot for slot in self._slots if slot <= newest - self.length - self._keep]
        for slot in gone:
            del self._slots[slot]
