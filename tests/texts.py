"""A text classifier and what it must answer, for tests of sequences, hooks and post-processing on whole workers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import text_classifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx

VOCABULARY = 200
LABELS = ["calm", "glad", "sad", "angry"]
NAN_TOKEN, NO_TOKEN = 13, 5000
"""A token whose embedding is NaN, and one that the model does not have: it fails on it."""


def classifier(words: Sequence[str] = ()) -> onnx.ModelProto:
    """`benchmarks.models.text_classifier` with one damaged embedding."""
    model = text_classifier(words, vocabulary=VOCABULARY, classes=len(LABELS))
    table = next(each for each in model.graph.initializer if each.name == "table")
    values = numpy_helper.to_array(table).copy()
    values[NAN_TOKEN] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, "table"))
    return model


def probabilities(tokens: Sequence[int]) -> np.ndarray:
    """What the classifier and a softmax must give, computed without either."""
    model = text_classifier(vocabulary=VOCABULARY, classes=len(LABELS))
    weights = {each.name: numpy_helper.to_array(each).astype(np.float64) for each in model.graph.initializer}
    hidden = np.maximum(weights["table"][list(tokens)] @ weights["w0"], 0)
    scores = hidden.sum(axis=0) / max(1, len(tokens)) @ weights["w1"]
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def hook(folder: Path, name: str, code: str, function: str, **more: object) -> dict[str, object]:
    """A file with code, and the `hooks` entry that pins it."""
    (folder / name).write_text(code)
    digest = hashlib.sha256(code.encode()).hexdigest()
    return {"path": str(folder / name), "sha256": digest, "function": function, **more}


def inputs_of_every_kind() -> onnx.ModelProto:
    """The classifier beside inputs of other dtypes, which come out as they went in."""
    model = classifier()
    kinds = {
        "dense": (TensorProto.FLOAT, ["n", 2]),
        "count": (TensorProto.INT64, ["n", 1]),
        "small": (TensorProto.INT32, ["n"]),
        "flag": (TensorProto.BOOL, ["n", 1]),
        "word": (TensorProto.STRING, ["n", 1]),
    }
    for name, (kind, shape) in kinds.items():
        model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}_out", kind, shape))
        model.graph.node.append(helper.make_node("Identity", [name], [f"{name}_out"]))
    return model
