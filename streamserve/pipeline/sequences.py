"""Sequences on their way to the engine: which inputs are padded, with what, and up to which lengths.

Sequences travel as rows of different lengths until the engine is about to run; then the rows of a batch are grouped
by length bucket and padded. A bucket is a length: few of them, and little is padded; many, and batches fall apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamserve.config.base import Scalar
from streamserve.config.settings import SequenceSettings
from streamserve.ports import TensorSpec

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


def bucket_lengths(sequence: SequenceSettings) -> tuple[int, ...]:
    """The lengths that a sequence is padded up to; nothing without buckets."""
    longest = sequence.max_length
    if sequence.buckets is None:
        powers = [1 << power for power in range(longest.bit_length())]
        return (*(length for length in powers if SHORTEST_BUCKET <= length < longest), longest)
    if not sequence.buckets:
        return ()
    return (*(length for length in sequence.buckets if length < longest), longest)


def shared_lengths(padded: Iterable[PaddedInput]) -> tuple[int, ...]:
    """The buckets of events with these sequences, which all get one length; nothing when none has buckets."""
    padded = list(padded)
    lengths = {length for each in padded for length in each.lengths}
    return tuple(sorted(lengths | {max(each.max_length for each in padded)})) if lengths else ()
