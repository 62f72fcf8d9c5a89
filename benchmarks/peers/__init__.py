"""Other ways to score a topic from Python or beside it, each a `Contender` in an environment of its own.

`prepare()` makes that environment under `.cache/peers` once; it needs the network. A peer reads the same topic, decodes
the same JSON, runs the same ONNX file and writes a JSON prediction with the same members as far as it can.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from benchmarks.contenders import Contender

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
