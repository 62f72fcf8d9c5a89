"""The rehearsal of a version before it may serve: a few made-up rows go from inputs to records.

A model whose weights were damaged in training loads and warms without a complaint and then gives NaN for every row; in
production each of them would be a dead letter. So rows of zeros, of ones and of fixed pseudo-random numbers go through
the engine and whatever follows it. One of them that comes out whole is enough: a model may well have no answer for a
row of zeros (the logarithm of a price), but one that has no answer to any of these is taken for broken.
"""

from __future__ import annotations

import numpy as np

from streamserve.batch import EventBatch, FeatureBatch, ModelIdentity, PredictionBatch, RecordBatch, Reject, Tensor
from streamserve.errors import ContractError, EngineError
from streamserve.pipeline.serving import LoadedModel
from streamserve.ports import TensorSpec

ROWS = 8
"""Zeros, ones, and six of pseudo-random numbers."""
SEED = 20_240_229


def rehearse(model: LoadedModel, topic: str) -> None:
    """Send the made-up rows through engine, post-processing and encoder.

    Args:
        model: loaded and warmed.
        topic: an input topic; the rows pass for records of it.

    Raises:
        ContractError: none of them became a prediction; says why the last one did not.
    """
    generator = np.random.default_rng(SEED)
    inputs = {spec.name: _column(spec, generator) for spec in model.infer.engine.signature.inputs}
    events = _events(topic)
    whole = FeatureBatch(events=events, inputs=inputs)
    why = ""
    for row in range(ROWS):
        problem = _tried(model, whole.take([row]))
        if problem is None:
            return
        why = problem
    raise ContractError(
        f"model {model.name} version {model.version} gives no usable output for any of {ROWS} trial rows (zeros, ones,"
        f" random numbers): {why}. Its weights are probably damaged: check the training run, or the export",
        model=model.name,
        version=model.version,
    )


def _tried(model: LoadedModel, features: FeatureBatch) -> str | None:
    """Why this row came to nothing; None when it became a prediction, or a hook would have none of it.

    The hook before the model is left out: what it makes of made-up events says nothing about the model.
    """
    rejects: list[Reject] = []
    try:
        outputs = model.infer.engine.infer(features.inputs)
    except EngineError as error:
        return str(error)
    identity = ModelIdentity(name=model.name, version=model.version)
    predictions = PredictionBatch(events=features.events, outputs=outputs, model=identity, infer_s=0.0)
    if model.after is not None:
        predictions, rejects = model.after(predictions)
    if not rejects:
        _, rejects = model.encoder.encode(predictions)
    return rejects[0].detail if rejects and rejects[0].reason != "transform" else None


def _column(spec: TensorSpec, generator: np.random.Generator) -> Tensor:
    """Trial values of one input; free axes behind the batch are 1 long."""
    shape = (ROWS, *(1 if size < 0 else size for size in spec.shape[1:]))
    if spec.dtype == "str":
        return np.full(shape, "", dtype=object)
    dtype = np.dtype(spec.dtype)
    # Numbers that stand for categories: only the first two are sure to exist.
    values: Tensor = generator.standard_normal(shape) if dtype.kind == "f" else generator.integers(0, 2, shape)
    values[0], values[1] = 0, 1
    return np.ascontiguousarray(values.astype(dtype))


def _events(topic: str) -> EventBatch:
    """Events that never were, one per trial row."""
    rows = list(range(ROWS))
    records = RecordBatch(
        topic=[topic] * ROWS,
        partition=[0] * ROWS,
        offset=rows,
        timestamp_ms=[0] * ROWS,
        key=[None] * ROWS,
        value=[b""] * ROWS,
    )
    return EventBatch(
        origin=records, row=rows, id=[f"row-{row}" for row in rows], entity=[None] * ROWS, event_time_ms=rows, fields={}
    )
