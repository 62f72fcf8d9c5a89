"""Workers as they follow a command, on stderr: a line for each that has answered, and on a terminal who is missing."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from streamserve.cli.console import say, stderr
from streamserve.cli.record_text import printable
from streamserve.cli.rollout_session import Followed
from streamserve.rollout.following import Follower

if TYPE_CHECKING:
    from rich.status import Status


class FollowProgress:
    """Told how far a command has come, says what is new; a context manager."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()
        self._status: Status | None = None

    def __enter__(self) -> Self:
        console = stderr()
        if console.is_terminal:
            self._status = console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, followed: Followed) -> None:
        """Say what has happened since the last time."""
        for follower in followed.live:
            news = (follower.slot, follower.standing)
            if follower.standing != "waits" and news not in self._told:
                self._told.add(news)
                self._say(_line(follower))
        if self._status is not None:
            names = ", ".join(printable(follower.slot) or "a worker" for follower in followed.waiting)
            self._status.update(f"waiting for {names}", spinner="dots")

    def _say(self, line: str) -> None:
        if self._status is None:
            say(line)
        else:
            self._status.console.print(line, markup=False)


def _line(follower: Follower) -> str:
    acknowledgement = follower.acknowledgement
    took_s = acknowledgement.took_ms / 1000 if acknowledgement is not None else 0.0
    what = "follows" if follower.standing == "follows" else "could not follow"
    return f"{printable(follower.slot)} {what} after {took_s:.1f} s"
