"""Sequences on their way to the engine: which inputs are padded, with what, and up to which lengths.

Sequences travel as rows of different lengths until the engine is about to run; then the rows of a batch are grouped
by length bucket and padded. A bucket is a length: few of them, and little is padded; many, and batches fall apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from streamserve.config.base import Scalar
from streamserve.config.engine_settings import PaddingSettings
from streamserve.ports import Signature, TensorSpec

MASK_DTYPES = frozenset({"float32", "float64", "int32", "int64", "bool"})
SHORTEST_BUCKET = 8
"""Padding fewer positions than these costs less than another run of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedInput:
    """A model input that a sequence fills.

    Attributes:
        input: its first axis is the batch, its second the length.
        mask: the input that tells real positions from padding, of the same axes; None without one.
        pad: what stands in the padding.
        lengths: its buckets, ascending; empty for none.
        max_length: no row is longer.
    """

    input: TensorSpec
    mask: TensorSpec | None
    pad: Scalar
    lengths: tuple[int, ...]
    max_length: int


def bucket_lengths(padding: PaddingSettings) -> tuple[int, ...]:
    """The lengths that a sequence is padded up to; nothing without buckets."""
    longest = padding.max_length
    if padding.buckets is None:
        powers = [1 << power for power in range(longest.bit_length())]
        return (*(length for length in powers if SHORTEST_BUCKET <= length < longest), longest)
    if not padding.buckets:
        return ()
    return (*(length for length in padding.buckets if length < longest), longest)


def shared_lengths(padded: Iterable[PaddedInput]) -> tuple[int, ...]:
    """The buckets of events with these sequences, which all get one length; nothing when none has buckets."""
    padded = list(padded)
    lengths = {length for each in padded for length in each.lengths}
    return tuple(sorted(lengths | {max(each.max_length for each in padded)})) if lengths else ()


def padded_input(
    what: str, padding: PaddingSettings, target: TensorSpec, signature: Signature
) -> tuple[PaddedInput | None, list[str]]:
    """How a sequence is padded into an input, and every reason why it cannot be.

    Args:
        what: the sequence, in messages.
        padding: its settings.
        target: the input.
        signature: where its mask is.
    """
    mask, problems = _mask(what, padding, signature)
    if len(target.shape) != 2:
        hint = "it takes an input of two axes, the batch and the length"
        problems.append(f"{what} cannot fill input {target.name}, {target}: {hint}")
    pad = _pad(padding, target.dtype)
    if pad is None:
        problems.append(f"{what} has `pad: {padding.pad!r}`, but its input is {target}")
    if problems:
        return None, problems
    padded = PaddedInput(
        input=target,
        mask=mask,
        pad=cast("Scalar", pad),
        lengths=bucket_lengths(padding),
        max_length=padding.max_length,
    )
    return padded, []


def length_problems(padded: Sequence[PaddedInput]) -> list[str]:
    """Inputs of a fixed length that sequences would be padded to other lengths for, masks taken twice."""
    problems = []
    lengths = shared_lengths(padded) if padded else ()
    for spec in (spec for each in padded for spec in (each.input, each.mask) if spec is not None):
        axis = spec.shape[1]
        if axis >= 0 and lengths != (axis,):
            hint = f"set `max_length: {axis}` and `buckets: [{axis}]`, or export the model with a free axis"
            problems.append(f"input {spec.name}, {spec}, takes sequences of {axis} values alone; {hint}")
    masks = [each.mask.name for each in padded if each.mask is not None]
    problems += [f"two sequences name the mask {name}" for name in sorted(set(masks)) if masks.count(name) > 1]
    return problems


def _mask(what: str, padding: PaddingSettings, signature: Signature) -> tuple[TensorSpec | None, list[str]]:
    if padding.mask is None:
        return None, []
    inputs = {spec.name: spec for spec in signature.inputs}
    mask = inputs.get(padding.mask)
    if mask is None:
        return None, [f"{what} names the mask {padding.mask}, but the model's inputs are {', '.join(inputs)}"]
    if len(mask.shape) != 2 or mask.dtype not in MASK_DTYPES:
        return None, [f"the mask of {what}, {mask.name}, is {mask}: it takes two axes of numbers"]
    return mask, []


def _pad(padding: PaddingSettings, dtype: str) -> Scalar | None:
    """What to pad with; None when the configured value is nothing for the input."""
    pad = padding.pad
    if pad is None:
        return "" if dtype == "str" else 0
    if dtype == "str":
        return pad if isinstance(pad, str) else None
    if isinstance(pad, str) or (isinstance(pad, bool) and dtype != "bool"):
        return None
    return pad if dtype.startswith("float") or float(pad).is_integer() else None
