"""Drift scores of two tables in the definitions of other tools, recomputed with numpy.

The same word means different things elsewhere: one pair of samples has as many values of PSI as there are tools
(docs/drift-compat.md). `compare` recomputes a tool's own figures, bins, zeros, logarithms and thresholds included, so
that a team can check what it sees here against what it had. It serves offline comparison only: monitoring uses
`streamserve.drift.scores` on bins frozen from the reference.

Refuses to guess: a column that is a number in one table and a category in the other is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamserve.drift.compat.evidently import Evidently
from streamserve.drift.compat.frouros import Frouros
from streamserve.drift.compat.hopsworks import Hopsworks
from streamserve.drift.compat.nannyml import NannyML
from streamserve.drift.compat.report import Definitions, Measure, Peer, PeerReport, Score
from streamserve.drift.tables import CategoricalColumn, NumericColumn, Table
from streamserve.errors import ContractError

__all__ = ["Measure", "Peer", "PeerReport", "Score", "compare"]


def compare(peer: Peer, reference: Table, current: Table, columns: Sequence[str] | None = None) -> PeerReport:
    """Every measure that a peer has for the columns of two tables.

    Args:
        peer: whose definitions.
        reference: what is taken as normal.
        current: what is compared to it, as one chunk.
        columns: which, in this order; None for all that both tables have.

    Raises:
        ContractError: a wanted column is missing, or a column is a number in one table only.
    """
    definitions = _definitions(peer)
    shared = [name for name in reference.columns if name in current.columns]
    wanted = shared if columns is None else list(columns)
    for table in (reference, current):
        if unknown := [name for name in wanted if name not in table.columns]:
            raise ContractError(f"{table.source} has no column {', '.join(unknown)}; it has {', '.join(table.columns)}")
    scores = [score for name in wanted for score in _column(definitions, name, reference, current)]
    unmatched = [name for name in (*reference.columns, *current.columns) if name not in shared]
    left_out = (*unmatched, *reference.left_out, *current.left_out) if columns is None else ()
    return PeerReport(
        peer=peer,
        version=definitions.version,
        reference=reference.source,
        current=current.source,
        reference_rows=reference.rows,
        current_rows=current.rows,
        scores=tuple(scores),
        verdict=definitions.verdict(scores),
        left_out=tuple(dict.fromkeys(left_out)),
    )


def _definitions(peer: Peer) -> Definitions:
    peers: dict[Peer, Definitions] = {
        Peer.EVIDENTLY: Evidently(),
        Peer.NANNYML: NannyML(),
        Peer.FROUROS: Frouros(),
        Peer.HOPSWORKS: Hopsworks(),
    }
    return peers[peer]


def _column(definitions: Definitions, name: str, reference: Table, current: Table) -> list[Score]:
    a, b = reference.columns[name], current.columns[name]
    if isinstance(a, NumericColumn) and isinstance(b, NumericColumn):
        return definitions.numeric(a, b)
    if isinstance(a, CategoricalColumn) and isinstance(b, CategoricalColumn):
        return definitions.categorical(a, b)
    numeric = reference.source if isinstance(a, NumericColumn) else current.source
    raise ContractError(
        f"column {name} is a number only in {numeric}; name it as categorical to compare it as categories"
    )
