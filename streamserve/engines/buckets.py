"""Sequences padded to length buckets, right before the engine and only there.

Rows of a batch that fall into one bucket go through the model together, padded to the bucket's length; outputs come
back in the order of the rows. So a row is padded to the same length whoever its neighbours are, short rows do not pay
for a long one, and the runtime meets a handful of shapes, all of which were run before the first event.

Outputs with a value per position of the padded sequence are left out of the signature: there is no tensor of them,
since rows of different lengths were padded to different lengths. A model sums them up itself, or gives them beside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from streamserve.batch import I64, Tensor, Tensors
from streamserve.engines.warm_up import check_outputs, dummies
from streamserve.errors import ContractError, EngineError
from streamserve.pipeline.sequences import PaddedInput, shared_lengths
from streamserve.ports import Engine, Signature, TensorSpec

OnPadding = Callable[[int, int], None]
"""Told, for every run of the model, how many values of its padded inputs were real and how many were padding."""

Shapes = Callable[[Sequence[int], Sequence[int]], list[tuple[int, int]]]


def bucketed(
    engine: Engine, padded: Sequence[PaddedInput], on_padding: OnPadding, *, every_shape: bool = False
) -> Engine:
    """An engine that takes these inputs as rows of different lengths; the engine itself when there are none.

    Args:
        engine: takes them padded. Two rows of zeros go through it, to see which outputs are as long as the sequence.
        padded: the inputs that sequences fill, as far as the model has them.
        on_padding: see `OnPadding`.
        every_shape: warm every batch size with every length, for a device that makes buffers and graphs by shape.

    Raises:
        ContractError: all outputs are as long as the sequence, or a mask is no input of the model.
        EngineError: the model fails on zeros.
    """
    names = {spec.name for spec in engine.signature.inputs}
    taken = [each for each in padded if each.input.name in names]
    if not taken:
        return engine
    for each in taken:
        if each.mask is not None and each.mask.name not in names:
            raise ContractError(f"the mask {each.mask.name} is no input of the model, which has {', '.join(names)}")
    shapes = all_shapes if every_shape else warm_shapes
    return BucketedEngine(engine, taken, on_padding, _summed_up(engine, taken), shapes)


class BucketedEngine:
    """An `Engine` around an engine; see `bucketed`.

    Args:
        engine: the engine.
        padded: its inputs that sequences fill.
        on_padding: see `OnPadding`.
        outputs: the outputs to give.
        shapes: batch sizes and lengths to the shapes to warm.
    """

    def __init__(
        self,
        engine: Engine,
        padded: Sequence[PaddedInput],
        on_padding: OnPadding,
        outputs: tuple[TensorSpec, ...],
        shapes: Shapes,
    ) -> None:
        self._engine = engine
        self._padded = padded
        self._on_padding = on_padding
        self._shapes = shapes
        self._lengths: I64 = np.array(shared_lengths(padded), np.int64)
        self._longest = max(each.max_length for each in padded)
        self._made = {spec.name for each in padded for spec in (each.input, each.mask) if spec is not None}
        self._signature = Signature(inputs=engine.signature.inputs, outputs=outputs)

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def provider(self) -> str:
        return self._engine.provider

    def infer(self, inputs: Tensors) -> Tensors:
        """Outputs of rows whose sequences are object[n] of arrays (or, all of one length, array[n, length]).

        Raises:
            EngineError: rows that are no sequences or too long, or what the engine raises.
        """
        try:
            return self._infer(inputs)
        except (TypeError, ValueError) as error:
            raise EngineError(f"the sequences cannot be padded: {type(error).__name__}: {error}") from error

    def _infer(self, inputs: Tensors) -> Tensors:
        lengths = [_row_lengths(inputs[each.input.name]) for each in self._padded]
        targets = self._targets(np.maximum.reduce(lengths))
        groups = [np.flatnonzero(targets == length) for length in np.unique(targets)]
        if len(groups) == 1:
            return self._run(inputs, lengths, int(targets[0]))
        parts = [
            self._run({name: t[rows] for name, t in inputs.items()}, [n[rows] for n in lengths], int(targets[rows[0]]))
            for rows in groups
        ]
        order = np.argsort(np.concatenate(groups))
        try:
            return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        except ValueError as error:
            raise EngineError(f"the model's outputs change shape with the length of sequences: {error}") from error

    def warm(self, sizes: Sequence[int]) -> None:
        """Run the shapes of these batch sizes, full of padding."""
        for rows, length in self._shapes(sizes, self._lengths.tolist() or [self._longest]):
            values = self._engine.infer(_padding(self._engine.signature, self._padded, rows, length))
            check_outputs(self._signature.outputs, [values[spec.name] for spec in self._signature.outputs], rows)

    def close(self) -> None:
        self._engine.close()

    def _targets(self, lengths: I64) -> I64:
        """int64[n]: the length that each row is padded to."""
        if lengths.max() > self._longest:
            raise EngineError(f"a sequence has {lengths.max()} values, at most {self._longest} are taken")
        if not len(self._lengths):
            return np.full(len(lengths), max(1, lengths.max()))
        return self._lengths[np.searchsorted(self._lengths, lengths)]

    def _run(self, inputs: Tensors, lengths: Sequence[I64], length: int) -> Tensors:
        """Pad all rows to one length and run the model."""
        ready = {name: tensor for name, tensor in inputs.items() if name not in self._made}
        positions = np.arange(length)
        real = 0
        for each, own in zip(self._padded, lengths, strict=True):
            filled = positions < own[:, np.newaxis]
            block = np.full(filled.shape, each.pad, _numpy_dtype(each.input))
            block[filled] = np.concatenate(list(inputs[each.input.name]))
            ready[each.input.name] = block
            if each.mask is not None:
                ready[each.mask.name] = filled.astype(each.mask.dtype)
            real += int(own.sum())
        outputs = self._engine.infer(ready)
        self._on_padding(real, len(self._padded) * filled.size - real)
        return {spec.name: outputs[spec.name] for spec in self._signature.outputs}


def warm_shapes(sizes: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The batch sizes and lengths to run before a model is ready.

    Every batch size with the longest sequences, every length with the smallest and the largest batch: no length and no
    size is met for the first time by an event, memory has been as large as it gets, and the number of runs is a sum
    instead of a product.
    """
    edges = sorted({sizes[0], sizes[-1]})
    return [
        *((rows, length) for length in lengths[:-1] for rows in edges),
        *((rows, lengths[-1]) for rows in sizes),
    ]


def all_shapes(sizes: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Every batch size with every length."""
    return list(product(sizes, lengths))


def _summed_up(engine: Engine, padded: Sequence[PaddedInput]) -> tuple[TensorSpec, ...]:
    """The outputs whose shape is the same for every length, as two runs on one row of padding show."""
    outputs = engine.signature.outputs
    length = (shared_lengths(padded) or (min(8, *(each.max_length for each in padded)),))[0]
    fixed = all(axis >= 0 for spec in outputs for axis in spec.shape[1:])
    fixed |= any(spec.shape[1] >= 0 for each in padded for spec in (each.input, each.mask) if spec is not None)
    if fixed or length < 2:
        return outputs
    shorter, longer = (engine.infer(_padding(engine.signature, padded, 1, size)) for size in (length - 1, length))
    kept = tuple(spec for spec in outputs if shorter[spec.name].shape == longer[spec.name].shape)
    if not kept:
        raise ContractError(
            f"every output of the model ({', '.join(spec.name for spec in outputs)}) has a value per position of the"
            " sequence: give it an output of a fixed shape, such as a mean over the positions or the last of them"
        )
    return kept


def _padding(signature: Signature, padded: Sequence[PaddedInput], rows: int, length: int) -> Tensors:
    """Inputs of zeros, sequences of padding alone, masks that take it for real."""
    inputs = dummies(signature, rows)
    for each in padded:
        inputs[each.input.name] = np.full((rows, length), each.pad, _numpy_dtype(each.input))
        if each.mask is not None:
            inputs[each.mask.name] = np.ones((rows, length), each.mask.dtype)
    return inputs


def _row_lengths(rows: Tensor) -> I64:
    return np.fromiter(map(len, rows), np.int64, len(rows))


def _numpy_dtype(spec: TensorSpec) -> str:
    return "object" if spec.dtype == "str" else spec.dtype
