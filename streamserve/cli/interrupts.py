"""Ctrl-C and SIGTERM for commands that run on and on: the first asks to stop, the second ends the process.

The client must not be interrupted in the middle of a call, so a signal only sets a flag, except inside
`breaking`, which surrounds a wait that nothing else would end (reading a terminal).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupted(Exception):
    """A signal came while waiting inside `Interrupts.breaking`."""


class Interrupts:
    """Takes SIGINT and SIGTERM while entered; call it to know whether one came."""

    def __init__(self) -> None:
        self._asked = False
        self._breaking = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self._asked

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """Surrounds a wait that a signal shall end at once. Raises: Interrupted."""
        self._breaking = True
        try:
            if self._asked:
                raise Interrupted
            yield
        finally:
            self._breaking = False

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._asked:
            raise SystemExit(128 + number)
        self._asked = True
        if self._breaking:
            raise Interrupted
