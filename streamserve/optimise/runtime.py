"""What ONNX Runtime makes of a model ahead of time: a simplified graph, and the ORT format."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from streamserve.errors import ModelCorrupt
from streamserve.optimise.errors import NotOptimised
from streamserve.optimise.wish import Step, Wish

if TYPE_CHECKING:
    import onnxruntime


def simplified(model: onnx.ModelProto, wish: Wish) -> Step:  # noqa: ARG001  a method
    """Fold constants, drop what has no effect, merge neighbours: the runtime's level `basic`.

    That level leaves operators of the standard alone, so the result runs on every provider and release. Runtimes do
    the same, and more, when they load a model: this saves loading time rather than inference time.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options = _options(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        _session(model, options)
        made = onnx.load(str(path))
    before, after = len(model.graph.node), len(made.graph.node)
    if made.graph == model.graph or (before == after and _kinds(made) == _kinds(model)):
        raise NotOptimised(f"graph: the runtime finds nothing to simplify in the {before} operators")
    return Step(made, f"{before} operators to {after} (level basic: operators of the standard alone)")


def write_ort(model: onnx.ModelProto, path: Path) -> str:
    """Write a model in the ORT format: read without parsing protobuf, by minimal builds of the runtime too.

    Level `extended`: fused operators of the CPU provider, no layouts of this machine's processor.

    Returns:
        What was done, for people.
    """
    import onnxruntime

    options = _options(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
    options.add_session_config_entry("session.save_model_format", "ORT")
    _session(model, options)
    return "ORT format (level extended: for the CPU provider, any processor)"


def _options(path: Path, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    return options


def _session(model: onnx.ModelProto, options: onnxruntime.SessionOptions) -> None:
    import onnxruntime

    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelCorrupt(f"ONNX Runtime cannot load the model: {error}") from error


def _kinds(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return sorted((node.domain, node.op_type) for node in model.graph.node)
