import sys

import numpy as np
import pytest
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import build_engine, warm_sizes
from streamserve.engines.faults import engine_error
from streamserve.engines.onnx import OnnxEngine
from streamserve.errors import ConfigError, ContractError, EngineError, EngineOutOfMemory, ModelCorrupt
from streamserve.ports import TensorSpec
from tests.unit.engines.files import model_files

CPU = EngineSettings(device="cpu")


@pytest.fixture
def load(tmp_path):
    return lambda model, settings=CPU: OnnxEngine(models.save(model, tmp_path), settings)


def test_the_mlp_has_a_free_batch_axis_and_runs_where_it_says(load):
    engine = load(models.mlp())
    assert engine.signature.inputs == (TensorSpec(name="x", dtype="float32", shape=(-1, 16)),)
    assert engine.signature.outputs == (TensorSpec(name="probability", dtype="float32", shape=(-1, 1)),)
    assert engine.provider == "CPUExecutionProvider"


def test_the_mlp_computes_what_numpy_does(load):
    model = models.mlp()
    weights = {t.name: np.frombuffer(t.raw_data, np.float32).reshape(t.dims) for t in model.graph.initializer}
    x = np.random.default_rng(0).normal(size=(33, 16)).astype(np.float32)
    a = np.maximum(x @ weights["w0"] + weights["b0"], 0)
    a = np.maximum(a @ weights["w1"] + weights["b1"], 0)
    expected = 1 / (1 + np.exp(-(a @ weights["w2"] + weights["b2"])))
    np.testing.assert_allclose(load(model).infer({"x": x})["probability"], expected, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_that_is_not_finite_leaves_its_neighbours_as_they_are_alone(load, bad):
    engine = load(models.mlp())
    x = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    x[13] = bad
    together = engine.infer({"x": x})["probability"]
    for row in range(64):
        if row != 13:
            alone = engine.infer({"x": x[row : row + 1]})["probability"][0]
            # A batch of one takes another kernel: rounding of float32 over 64 products.
            np.testing.assert_allclose(together[row], alone, rtol=0, atol=2e-7)


def test_strings_and_numbers_go_in_and_come_out(load):
    engine = load(models.words_and_numbers())
    outputs = engine.infer(
        {
            "carrier": np.array([["AA"], [""], ["Ünïcode"]], dtype=object),
            "dense": np.arange(9, dtype=np.float32).reshape(3, 3),
        }
    )
    assert outputs["carrier_out"].tolist() == [["AA"], [""], ["Ünïcode"]]
    assert outputs["total"].tolist() == [[3], [12], [21]]
    assert engine.signature.inputs[0] == TensorSpec(name="carrier", dtype="str", shape=(-1, 1))
    engine.warm([1, 2])


def test_a_row_that_fails_says_why_without_the_runtimes_codes(load):
    with pytest.raises(EngineError, match="indices element out of data bounds, idx=1000") as caught:
        load(models.looks_up()).infer({"x": np.array([1000], np.float32)})
    assert "ONNXRuntimeError" not in str(caught.value)
    assert not isinstance(caught.value, EngineOutOfMemory)


def test_running_out_of_memory_is_told_apart_and_survived(load):
    engine = load(models.grows_with_value())
    with pytest.raises(EngineOutOfMemory):
        engine.infer({"x": np.array([1 << 50, 1])})
    assert engine.infer({"x": np.array([4, 1])})["y"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "kind", "fault"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", EngineOutOfMemory, False),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", EngineOutOfMemory, False),
        ("std::bad_alloc", EngineOutOfMemory, False),
        ("CUDA failure 700: an illegal memory access was encountered", EngineError, True),
        ("CUDA error: device-side assert triggered", EngineError, True),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions", EngineError, False),
    ],
)
def test_the_runtimes_words_are_mapped(text, kind, fault):
    error = engine_error(RuntimeError(text))
    assert type(error) is kind
    assert error.retryable is fault


def test_a_message_is_short_and_printable():
    message = str(engine_error(RuntimeError("a\x1b[31m\n" + "b" * 5000)))
    assert len(message) <= 300
    assert message.isprintable()


def test_a_fixed_batch_axis_is_refused(load):
    with pytest.raises(ContractError, match="dynamic batch axis"):
        load(models.fixed_batch())


def test_an_output_that_is_no_tensor_is_refused_by_name(load):
    with pytest.raises(ContractError, match="output 'y' is a seq"):
        load(models.gives_a_sequence())


def test_a_zipmap_is_refused_with_the_remedy(tmp_path):
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    kinds = [("x", FloatTensorType([None, 1]))]
    path = models.save(convert_sklearn(fitted, initial_types=kinds), tmp_path)
    with pytest.raises(ContractError, match="zipmap=False"):
        OnnxEngine(path, CPU)
    plain = convert_sklearn(fitted, initial_types=kinds, options={id(fitted): {"zipmap": False}})
    OnnxEngine(models.save(plain, tmp_path), CPU).warm([1, 3])


def test_an_output_without_the_batch_axis_is_found_at_warm_up(load):
    with pytest.raises(ContractError, match="'y' has shape \\[1\\] for a batch of 2"):
        load(models.sums_the_batch()).warm([1, 2])


def test_an_output_of_another_length_is_an_error_when_it_happens(load):
    with pytest.raises(EngineError, match="first axis must be the batch"):
        load(models.sums_the_batch()).infer({"x": np.zeros((2, 2), np.float32)})


def test_cuda_asked_for_and_not_there_is_an_error_that_says_how_to_mend_it(load, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ContractError, match=r"streamserve\[gpu\].*engine.allow_cpu_fallback"):
        load(models.mlp(), EngineSettings(device="cuda"))
    assert load(models.mlp(), EngineSettings(device="cuda", allow_cpu_fallback=True)).provider.startswith("CPU")


def test_without_the_runtime_the_message_is_the_pip_command(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamserve\[cpu\]'"):
        load(models.mlp())


@pytest.mark.parametrize("content", [b"", b"junk", models.mlp().SerializeToString()[:2000]])
def test_a_file_that_is_no_model_is_corrupt(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelCorrupt):
        OnnxEngine(path, CPU)


def test_errors_are_not_also_written_to_stderr(load, capfd):
    with pytest.raises(EngineError):
        load(models.looks_up()).infer({"x": np.array([1000], np.float32)})
    assert capfd.readouterr() == ("", "")


def test_warm_sizes_are_powers_of_two_and_the_largest():
    assert warm_sizes(1) == [1]
    assert warm_sizes(8) == [1, 2, 4, 8]
    assert warm_sizes(500) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 500]


def test_a_file_of_no_runtime_is_refused(tmp_path):
    path = models.save(models.mlp(), tmp_path)
    assert build_engine(model_files(path), CPU).provider == "CPUExecutionProvider"
    with pytest.raises(ContractError, match=r"no runtime for \.pt"):
        build_engine(model_files("model.pt"), CPU)
