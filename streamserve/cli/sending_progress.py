"""How far sending is: a bar on a terminal, a line every few seconds elsewhere, both on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from streamserve.cli.console import say, stderr

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 3.0
BAR_EVERY_S = 0.1


class SendingProgress:
    """Shows counts while events are sent; a context manager.

    Args:
        total: of the units that `update` is told, or None where nobody knows.
        quiet: show nothing.
    """

    def __init__(self, total: int | None, *, quiet: bool = False) -> None:
        self._total = total
        self._quiet = quiet
        self._bar: Progress | None = None
        self._started_s = time.monotonic()
        self._next_s = self._started_s
        self._every_s = LINE_EVERY_S

    def __enter__(self) -> Self:
        console = stderr()
        if not self._quiet and console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._bar.add_task("", total=self._total)
            self._bar.start()
            self._every_s = BAR_EVERY_S
        else:
            self._next_s += LINE_EVERY_S
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, sent: int, failed: int) -> None:
        """Show the state, if it is time to; cheap otherwise."""
        now_s = time.monotonic()
        if self._quiet or now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        text = f"{sent:,} sent, {sent / max(now_s - self._started_s, 1e-9):,.0f}/s"
        if failed:
            text += f", {failed:,} failed"
        if self._bar is None:
            say(text)
        else:
            self._bar.update(self._bar.task_ids[0], completed=done, description=text)
