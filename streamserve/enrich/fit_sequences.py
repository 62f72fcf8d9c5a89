"""Do the sequences fit the model? Shapes, masks, padding: what `fit` asks of features that are sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from streamserve.config.base import Scalar
from streamserve.config.settings import FeatureSettings, SequenceSettings, VectorSettings
from streamserve.enrich.wording import shape_text
from streamserve.pipeline.sequences import PaddedInput, bucket_lengths, shared_lengths
from streamserve.ports import Signature, TensorSpec

MASK_DTYPES = frozenset({"float32", "float64", "int32", "int64", "bool"})


def mask_names(features: Sequence[FeatureSettings] | VectorSettings) -> set[str]:
    """The model inputs that are masks of sequences: no feature fills them."""
    if isinstance(features, VectorSettings):
        return set()
    return {each.sequence.mask for each in features if each.sequence is not None and each.sequence.mask is not None}


def padded_input(
    target: TensorSpec, group: Sequence[tuple[int, FeatureSettings]], signature: Signature
) -> tuple[PaddedInput | None, list[str]]:
    """How the sequence among `group` is padded into `target`, and every reason why it cannot be."""
    if len(group) > 1:
        names = ", ".join(feature.name for _, feature in group)
        return None, [f"a sequence fills its input alone, but {names} all fill input {target.name}; say `input:`"]
    feature = group[0][1]
    sequence = cast("SequenceSettings", feature.sequence)
    mask, problems = _mask(feature.name, sequence, signature)
    if len(target.shape) != 2:
        what = f"sequence {feature.name} cannot fill input {target.name}, {shape_text(target)}"
        problems.append(f"{what}: it takes an input of two axes, the batch and the length")
    pad = _pad(sequence, target.dtype)
    if pad is None:
        problems.append(f"sequence {feature.name} has `pad: {sequence.pad!r}`, but its input is {shape_text(target)}")
    if problems:
        return None, problems
    padded = PaddedInput(
        input=target,
        mask=mask,
        pad=cast("Scalar", pad),
        lengths=bucket_lengths(sequence),
        max_length=sequence.max_length,
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
            problems.append(f"input {spec.name}, {shape_text(spec)}, takes sequences of {axis} values alone; {hint}")
    masks = [each.mask.name for each in padded if each.mask is not None]
    problems += [f"two sequences name the mask {name}" for name in sorted(set(masks)) if masks.count(name) > 1]
    return problems


def _mask(name: str, sequence: SequenceSettings, signature: Signature) -> tuple[TensorSpec | None, list[str]]:
    if sequence.mask is None:
        return None, []
    inputs = {spec.name: spec for spec in signature.inputs}
    mask = inputs.get(sequence.mask)
    if mask is None:
        return None, [f"sequence {name} names the mask {sequence.mask}, but the model's inputs are {', '.join(inputs)}"]
    if len(mask.shape) != 2 or mask.dtype not in MASK_DTYPES:
        return None, [f"the mask of sequence {name}, {mask.name}, is {shape_text(mask)}: it takes two axes of numbers"]
    return mask, []


def _pad(sequence: SequenceSettings, dtype: str) -> Scalar | None:
    """What to pad with; None when the configured value is nothing for the input."""
    pad = sequence.pad
    if pad is None:
        return "" if dtype == "str" else 0
    if dtype == "str":
        return pad if isinstance(pad, str) else None
    if isinstance(pad, str) or (isinstance(pad, bool) and dtype != "bool"):
        return None
    return pad if dtype.startswith("float") or float(pad).is_integer() else None
