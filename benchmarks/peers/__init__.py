"""Other ways to score a topic from Python or beside it, each a `Contender` in an environment of its own.

`prepare()` makes that environment under `.cache/peers` once; it needs the network. A peer reads the same topic, decodes
the same JSON, runs the same ONNX file and writes a JSON prediction with the same members as far as it can. One that
reads only a format of its own is an `OwnFormat` as well: it fills a topic with the same data for itself.
`benchmarks.peers.check` shows that what each writes is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmarks.broker import Bench
from benchmarks.contenders import Contender
from benchmarks.workloads import Workload

FOLDER = Path(__file__).parents[2] / ".cache" / "peers"
"""Where environments are made."""


class Peer(Contender, Protocol):
    """A contender that is installed first.

    Attributes:
        largest: most events of a run, because a slower peer would take too long; None for no bound.
    """

    largest: int | None

    def prepare(self) -> None:
        """Make its environment unless it is there.

        Raises: RuntimeError, saying what failed; the table then says that the peer was left out.
        """
        ...


@runtime_checkable
class OwnFormat(Protocol):
    """A peer that cannot read the topic which all others read, nor write what they write."""

    def fill(self, bench: Bench, topic: str, workload: Workload, count: int) -> None:
        """Make a topic of the workload's first `count` events, same ids and vectors, in the peer's format."""
        ...

    def prediction(self, value: bytes) -> tuple[str, list[float]]:
        """The event's id and the model's output, out of the value of an output record."""
        ...
