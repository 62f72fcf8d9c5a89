"""Post-processing: `output.post`, new outputs made from the model's, before they are encoded.

Softmax, argmax and the top k along the last axis, for outputs of any rank, in the order of the configuration; a step
may build on an earlier one. What the steps give is known at construction, so the encoder is built for it and whatever
does not fit is told before the first event. Rows whose scores are not finite are rejects, also when the scores
themselves are not written: the position of a NaN is no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from streamserve.batch import F64, I64, PredictionBatch, Reject, Tensor, Tensors
from streamserve.config.settings import ArgmaxStep, PostStep, SoftmaxStep, TopKStep
from streamserve.errors import ContractError
from streamserve.pipeline.finite import not_finite
from streamserve.pipeline.poison import empty_outputs
from streamserve.ports import Signature, TensorSpec


class Unfit(Exception):
    """A batch whose axes are not those that a step was made for; the message says which."""


Step = Callable[[Tensors], None]
"""Adds its outputs to the batch's. Raises: Unfit."""


class PostProcessing:
    """The steps of one model; a value for `LoadedModel.after`.

    Args:
        steps: name -> step, in order.
        outputs: of the model's signature.

    Attributes:
        outputs: the model's and those that the steps add.

    Raises:
        ContractError: steps that do not fit the outputs; the message holds every problem.
    """

    def __init__(self, steps: Mapping[str, PostStep], outputs: Sequence[TensorSpec]) -> None:
        specs = {spec.name: spec for spec in outputs}
        scores = [step.of for step in steps.values() if step.of in specs]
        problems: list[str] = []
        for name, step in steps.items():
            found = _problems(name, step, specs)
            problems += found
            if not found:
                specs |= {spec.name: spec for spec in _gives(name, step, specs[step.of])}
        if problems:
            raise ContractError("output.post does not fit the model: " + "; ".join(problems) + ".")
        self.outputs = tuple(specs.values())
        made = tuple(spec for spec in self.outputs if spec not in outputs)
        self._nothing = empty_outputs(Signature(inputs=(), outputs=made))
        self._scores = tuple(dict.fromkeys(scores))
        self._steps = [_step(name, step) for name, step in steps.items()]

    def __call__(self, predictions: PredictionBatch) -> tuple[PredictionBatch, list[Reject]]:
        """The predictions with the new outputs beside the model's, and a reject for every row without an answer."""
        rows = predictions.events.row
        rejects = not_finite([(name, predictions.outputs[name]) for name in self._scores], rows)
        if rejects:
            bad = {reject.row for reject in rejects}
            predictions = predictions.take([i for i, row in enumerate(rows) if row not in bad])
        if not len(predictions):  # a free axis of no rows has no length that a step could check
            return replace(predictions, outputs={**predictions.outputs, **self._nothing}), rejects
        outputs = dict(predictions.outputs)
        try:
            for step in self._steps:
                step(outputs)
        except Unfit as error:
            rejects += [
                Reject(row=row, stage="infer", reason="transform", detail=str(error)) for row in predictions.events.row
            ]
            none = predictions.take([])
            return replace(none, outputs={**none.outputs, **self._nothing}), rejects
        return replace(predictions, outputs=outputs), rejects


def softmax(scores: F64) -> F64:
    """exp(x) / sum(exp(x)) along the last axis, in the scores' own type; the largest is subtracted first.

    Args:
        scores: float[..., c], finite.
    """
    if not scores.size:
        return scores
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return cast("F64", powers / powers.sum(axis=-1, keepdims=True))


def top_positions(scores: Tensor, k: int) -> I64:
    """Positions of the k largest along the last axis, the largest first; of equal ones the first.

    Args:
        scores: numbers[..., c] without NaN.
        k: from 1 to c.

    Returns:
        int64[..., k].
    """
    values = cast("F64", scores.reshape(-1, scores.shape[-1]))
    least = np.partition(values, -k, axis=1)[:, -k, np.newaxis] if len(values) else values[:, :1]
    above, equal = values > least, values == least
    wanted = k - above.sum(axis=1, keepdims=True)
    chosen = np.nonzero(above | (equal & (equal.cumsum(axis=1) <= wanted)))[1].reshape(-1, k)
    # Ascending positions and a stable sort keep the first of equal values in front; reversed twice, no number is
    # negated, which the least integer does not survive.
    order = k - 1 - np.argsort(np.take_along_axis(values, chosen, axis=1)[:, ::-1], axis=1, kind="stable")[:, ::-1]
    return np.take_along_axis(chosen, order, axis=1).reshape(*scores.shape[:-1], k)


def _step(name: str, step: PostStep) -> Step:
    match step:
        case SoftmaxStep():
            return lambda outputs: outputs.update({name: softmax(cast("F64", outputs[step.of]))})
        case ArgmaxStep():
            return _argmax(name, step)
        case TopKStep():
            return _top_k(name, step)


def _argmax(name: str, step: ArgmaxStep) -> Step:
    named = _labels(step.labels)

    def run(outputs: Tensors) -> None:
        scores = outputs[step.of]
        _check_axis(name, step, scores, 1)
        outputs[name] = named(scores.argmax(axis=-1).astype(np.int64))

    return run


def _top_k(name: str, step: TopKStep) -> Step:
    named = _labels(step.labels)

    def run(outputs: Tensors) -> None:
        scores = outputs[step.of]
        _check_axis(name, step, scores, step.k)
        positions = top_positions(scores, step.k)
        outputs[name] = named(positions)
        if step.values is not None:
            outputs[step.values] = np.take_along_axis(scores, positions, axis=-1)

    return run


def _labels(labels: Sequence[str] | None) -> Callable[[I64], Tensor]:
    """What makes names of positions."""
    if labels is None:
        return lambda positions: positions
    names = np.array(labels, dtype=object)
    return lambda positions: cast("Tensor", names[positions])


def _check_axis(name: str, step: ArgmaxStep | TopKStep, scores: Tensor, least: int) -> None:
    """What could not be known before the first batch: how long a free axis is."""
    size = scores.shape[-1]
    if size < least:
        raise Unfit(f"output.post.{name} needs at least {least} values of {step.of}, the model gave {size}")
    if step.labels is not None and len(step.labels) != size:
        raise Unfit(f"output.post.{name} has {len(step.labels)} labels, the model gave {size} values of {step.of}")


def _problems(name: str, step: PostStep, specs: Mapping[str, TensorSpec]) -> list[str]:
    where = f"output.post.{name}"
    names = [name, *([step.values] if isinstance(step, TopKStep) and step.values is not None else [])]
    problems = [f"{where} names its output {each}, which there is already" for each in names if each in specs]
    if len(set(names)) < len(names):
        problems.append(f"{where} gives its values its own name")
    source = specs.get(step.of)
    if source is None:
        return [*problems, f"{where} is made of {step.of}, but at that point there are {', '.join(specs)}"]
    what = f"{step.of}, {source},"
    numeric = source.dtype not in {"str", "bool"}
    if not numeric or (isinstance(step, SoftmaxStep) and not source.dtype.startswith("float")):
        problems.append(f"{where}: {what} holds no {'floats' if isinstance(step, SoftmaxStep) else 'numbers'}")
    if len(source.shape) < 2:
        problems.append(f"{where}: {what} has no axis of scores behind the batch")
        return problems
    size = source.shape[-1]
    if isinstance(step, SoftmaxStep) or size < 0:
        return problems
    if step.labels is not None and len(step.labels) != size:
        problems.append(f"{where} has {len(step.labels)} labels, but {what} has {size} values")
    if isinstance(step, TopKStep) and step.k > size:
        problems.append(f"{where}: k is {step.k}, but {what} has {size} values")
    return problems


def _gives(name: str, step: PostStep, source: TensorSpec) -> list[TensorSpec]:
    """The outputs that a step adds."""
    if isinstance(step, SoftmaxStep):
        return [replace(source, name=name)]
    dtype = "int64" if step.labels is None else "str"
    outer = source.shape[:-1]
    if isinstance(step, ArgmaxStep):
        return [TensorSpec(name=name, dtype=dtype, shape=outer)]
    shape = (*outer, step.k)
    given = [TensorSpec(name=name, dtype=dtype, shape=shape)]
    return given if step.values is None else [*given, TensorSpec(name=step.values, dtype=source.dtype, shape=shape)]
