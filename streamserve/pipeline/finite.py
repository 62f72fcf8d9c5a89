"""Rows whose outputs are NaN or infinite: no prediction is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from streamserve.batch import F64, Reject, Tensor


def not_finite(outputs: Iterable[tuple[str, Tensor]], rows: Sequence[int]) -> list[Reject]:
    """A reject for every row in which an output is NaN or infinite; the first such output is named.

    Args:
        outputs: names and array[m, ...]; those of other than float types are passed over.
        rows: m rows of the origin.
    """
    details: dict[int, str] = {}
    for name, values in outputs:
        if values.dtype.kind != "f":
            continue
        finite = np.isfinite(_floats(values))
        if finite.all():
            continue
        flat = finite.reshape(len(rows), -1)
        for i in np.flatnonzero(~flat.all(axis=1)).tolist():
            at = int((~flat[i]).argmax())
            value = values.reshape(len(rows), -1)[i, at].item()
            where = name if flat.shape[1] == 1 else f"{name}[{at}]"
            details.setdefault(i, f"the model's output {where} = {value} is not finite")
    return [
        Reject(row=rows[i], stage="infer", reason="non_finite", detail=detail) for i, detail in sorted(details.items())
    ]


def _floats(values: Tensor) -> F64:
    return values  # type: ignore[return-value]  # of any float type, as the caller saw
