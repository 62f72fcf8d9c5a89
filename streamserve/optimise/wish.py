"""What a method is given beside the model, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from streamserve.batch import Tensors

if TYPE_CHECKING:
    import onnx

    from streamserve.ports import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for.

    Attributes:
        signature: of the model; no method changes it.
        rows: input -> array[n, ...], the rows that methods may learn from. They are not measured on.
        sparsity: share of units or weights that `prune` removes.
        prune: whether it removes whole hidden units, or sets single weights to zero.
        energy: share of a matrix's squared singular values that `low-rank` keeps; 1 keeps all that are not rounding.
        rank: keeps so many singular values instead.
        hidden: sizes of the hidden layers of the student of `distil`.
        epochs: how often the student sees each row.
        seed: of everything random.
        progress: is told what takes long.
    """

    signature: Signature
    rows: Tensors
    sparsity: float = 0.5
    prune: Literal["units", "weights"] = "units"
    energy: float = 0.99
    rank: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    epochs: int = 15
    seed: int = 0
    progress: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Step:
    """What a method made.

    Attributes:
        model: the new model.
        done: what was done to it, a sentence for people.
    """

    model: onnx.ModelProto
    done: str


Method = Callable[["onnx.ModelProto", Wish], Step]
"""Leaves the model it is given as it is. Raises NotOptimised when there is nothing in it for the method."""
