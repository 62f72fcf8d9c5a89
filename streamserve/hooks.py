"""For the authors of hooks: how a function says which rows it cannot take, and how it gives sequences.

    from streamserve.hooks import RowError, rows

    def tokenise(inputs):
        empty = [i for i, text in enumerate(inputs["text"]) if not text]
        if empty:
            raise RowError(rows={i: "the text is empty" for i in empty})
        return {"tokens": rows([VOCABULARY.encode(text) for text in inputs["text"]], "int64")}

See docs/inputs-outputs.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from streamserve.batch import Tensor
from streamserve.columns import ragged


class RowError(Exception):
    """Rows that a hook rejects; it is called again without them.

    Args:
        rows: position in the arrays it was given -> why, for the dead letter.
    """

    def __init__(self, rows: Mapping[int, str]) -> None:
        super().__init__(f"{len(rows)} rows are rejected")
        self.rows = dict(rows)


def rows(sequences: Sequence[Sequence[object]], dtype: str) -> Tensor:
    """Rows of different lengths as one array, for an input of `hooks.before.sequences`.

    Args:
        sequences: one per row of the batch.
        dtype: that of the model's input: `int64`, `float32`, ..., `string`.

    Returns:
        object[n] of arrays.
    """
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    values: list[object] = list(chain.from_iterable(sequences))
    return ragged(np.array(values, object).astype(object if dtype == "string" else dtype), lengths)
