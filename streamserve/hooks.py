"""For the authors of hooks: how a function says which rows it cannot take.

    from streamserve.hooks import RowError

    def prepare(inputs):
        lengths = [len(text) for text in inputs["text"]]
        if 0 in lengths:
            raise RowError(rows={i: "the text is empty" for i, n in enumerate(lengths) if n == 0})
        ...

See docs/inputs-outputs.md.
"""

from __future__ import annotations

from collections.abc import Mapping


class RowError(Exception):
    """Rows that a hook rejects; it is called again without them.

    Args:
        rows: position in the arrays it was given -> why, for the dead letter.
    """

    def __init__(self, rows: Mapping[int, str]) -> None:
        super().__init__(f"{len(rows)} rows are rejected")
        self.rows = dict(rows)
