"""What every `ports.Engine` does, on the runtimes and on the in-memory twin: all look numbers up in a table."""

import numpy as np
import pytest

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.onnx import OnnxEngine
from streamserve.engines.padding import PaddedEngine
from streamserve.errors import EngineError
from streamserve.ports import Signature, TensorSpec
from streamserve.testing.engine import FunctionEngine

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1,)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1,)),),
)
CPU = EngineSettings(device="cpu")
TABLE = np.arange(100, dtype=np.float32) ** 2


def torch_engine(folder, kind):
    from streamserve.engines.torch_engine import TorchEngine
    from tests import torch_models

    return TorchEngine(torch_models.looks_up().save(folder, kind), SIGNATURE, CPU)


def staged(folder):
    """PyTorch by the way of a GPU, with replayed graphs, on the CPU."""
    import torch

    from streamserve.engines.staging import Staging
    from streamserve.engines.torch_program import load_program

    engine = torch_engine(folder, "pt2")
    program = load_program(str(folder / "model.pt2"), SIGNATURE, torch.device("cpu"), compiled=False)
    engine._run = Staging(program, torch.device("cpu"), graphs=True).run
    return engine


@pytest.fixture(
    params=[
        "onnx",
        "padded",
        "function",
        *(pytest.param(name, marks=pytest.mark.torch) for name in ("pt2", "ts", "staged")),
    ]
)
def engine(request, tmp_path):
    if request.param in {"onnx", "padded"}:
        made = OnnxEngine(models.save(models.looks_up(), tmp_path), CPU)
        made = made if request.param == "onnx" else PaddedEngine(made, [2, 64, 1024], lambda real, padding: None)
    elif request.param in {"pt2", "ts"}:
        made = torch_engine(tmp_path, request.param)
    elif request.param == "staged":
        made = staged(tmp_path)
    else:
        made = FunctionEngine(lambda inputs: {"y": TABLE[inputs["x"].astype(np.int64)]}, SIGNATURE)
    yield made
    made.close()


def x(*values):
    return {"x": np.array(values, dtype=np.float32)}


def test_it_says_what_it_takes_and_gives(engine):
    assert engine.signature == SIGNATURE
    assert engine.provider


def test_outputs_have_the_batchs_length_and_order(engine):
    values = np.random.default_rng(1).integers(0, 100, 257)
    outputs = engine.infer(x(*values))
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], TABLE[values])


def test_a_rows_output_does_not_depend_on_the_others(engine):
    together = engine.infer(x(3, 5, 7))["y"]
    assert [float(engine.infer(x(v))["y"][0]) for v in (3, 5, 7)] == together.tolist()


def test_a_row_that_cannot_be_inferred_is_an_engine_error_for_the_batch(engine):
    with pytest.raises(EngineError) as caught:
        engine.infer(x(1, 1000, 2))
    assert not caught.value.retryable
    assert engine.infer(x(1, 2))["y"].tolist() == [1, 4]


def test_an_unknown_or_missing_input_is_an_engine_error(engine):
    with pytest.raises(EngineError):
        engine.infer({"z": np.zeros(1, np.float32)})


def test_warming_runs_and_leaves_the_engine_fit(engine):
    engine.warm([1, 2, 64])
    assert engine.infer(x(2))["y"].tolist() == [4]


def test_a_closed_engine_refuses(engine):
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(x(1))
