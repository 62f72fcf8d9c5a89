"""The torch engine on real archives, and the same model in three formats."""

import logging
import shutil
import sys
import weakref

import numpy as np
import pytest

from streamserve.batch import EventBatch, FeatureBatch
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import build_engine
from streamserve.engines.faults import engine_error
from streamserve.errors import ConfigError, ContractError, EngineError, EngineOutOfMemory, ModelCorrupt
from streamserve.pipeline.poison import BatchBound, infer_isolating
from streamserve.ports import Signature, TensorSpec
from tests import records
from tests.unit.engines.files import model_files

pytestmark = pytest.mark.torch

CPU = EngineSettings(device="cpu")
FORMATS = ["pt2", "ts"]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
"""Sums of some 64 products in float32, in another order."""


@pytest.fixture
def torch_models():
    from tests import torch_models

    return torch_models


@pytest.fixture
def load(tmp_path):
    def load(model, kind, settings=CPU, signature=None):
        return build_engine(model_files(model.save(tmp_path, kind), signature or model.signature), settings)

    return load


def rows_of(signature, rows, seed=0):
    random = np.random.default_rng(seed)
    made = {"float32": lambda shape: random.normal(size=shape).astype(np.float32)}
    made |= {"int64": lambda shape: random.integers(0, 200, shape), "bool": lambda shape: random.random(shape) < 0.7}
    inputs = {
        spec.name: made[spec.dtype]((rows, *(12 if n < 0 else n for n in spec.shape[1:]))) for spec in signature.inputs
    }
    if "mask" in inputs:
        inputs["mask"][:, 0] = True
    return inputs


@pytest.mark.parametrize("name", ["mlp", "text"])
def test_a_model_in_three_formats_gives_the_same_predictions(load, torch_models, name):
    model = getattr(torch_models, name)()
    inputs = rows_of(model.signature, 257)
    expected, *others = (load(model, kind).infer(inputs) for kind in ("onnx", "pt2", "ts"))
    for outputs in others:
        assert list(outputs) == list(expected) == [spec.name for spec in model.signature.outputs]
        for key, values in outputs.items():
            assert values.dtype == expected[key].dtype
            assert values.shape == expected[key].shape
            np.testing.assert_allclose(values, expected[key], **TOLERANCE)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_do_not_depend_on_their_neighbours(load, torch_models, kind):
    engine = load(torch_models.mlp(), kind)
    inputs = rows_of(engine.signature, 64)
    inputs["x"][13] = np.nan
    together = engine.infer(inputs)["probability"]
    assert np.isnan(together[13]).all()
    for row in (0, 12, 14, 63):
        alone = engine.infer({"x": inputs["x"][row : row + 1]})["probability"][0]
        np.testing.assert_allclose(together[row], alone, **TOLERANCE)


@pytest.mark.parametrize("kind", FORMATS)
def test_arrays_that_must_not_be_written_are_taken(load, torch_models, kind):
    engine = load(torch_models.looks_up(), kind)
    x = np.array([3, 4], np.float32)
    x.setflags(write=False)
    assert engine.infer({"x": x})["y"].tolist() == [9, 16]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_that_fails_says_why_in_a_line_and_nothing_on_stderr(load, torch_models, kind, capfd):
    engine = load(torch_models.looks_up(), kind)
    capfd.readouterr()
    with pytest.raises(EngineError) as caught:
        engine.infer({"x": np.array([1, 1000], np.float32)})
    assert str(caught.value) == "index 1000 is out of bounds for dimension 0 with size 100"
    assert not caught.value.retryable
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", FORMATS)
def test_running_out_of_memory_is_told_apart_and_survived(load, torch_models, kind):
    engine = load(torch_models.grows_with_value(), kind)
    with pytest.raises(EngineOutOfMemory):
        engine.infer({"x": np.array([1 << 50, 1], np.float32)})
    assert engine.infer({"x": np.array([4, 1], np.float32)})["y"].tolist() == [0, 0]


def test_the_ladder_halves_the_batch_and_rejects_the_row_that_is_too_large_by_itself(load, torch_models):
    engine = load(torch_models.grows_with_value(), "pt2")
    x = np.ones(8, np.float32)
    x[5] = 1 << 50
    rows = list(range(8))
    events = EventBatch(
        origin=records.batch([b""] * 8),
        row=rows,
        id=[str(row) for row in rows],
        entity=[None] * 8,
        event_time_ms=[0] * 8,
        fields={},
    )
    outputs, kept, rejects = infer_isolating(engine, FeatureBatch(events=events, inputs={"x": x}), BatchBound())
    assert kept == [0, 1, 2, 3, 4, 6, 7]
    assert outputs["y"].tolist() == [0.0] * 7
    assert [reject.row for reject in rejects] == [5]


@pytest.mark.parametrize(
    ("text", "kind", "fault"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total", EngineOutOfMemory, False),
        ("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory", EngineOutOfMemory, False),
        ("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously", EngineError, True),
        ("CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegal", EngineError, True),
        ("CUDA error: unspecified launch failure\nCompile with `TORCH_USE_CUDA_DSA`", EngineError, True),
        ("mat1 and mat2 shapes cannot be multiplied (7x17 and 16x64)", EngineError, False),
    ],
)  # fmt: skip
def test_the_runtimes_words_are_mapped(text, kind, fault):
    error = engine_error(RuntimeError(text))
    assert type(error) is kind
    assert error.retryable is fault
    assert "\n" not in str(error)
    assert "asynchronously" not in str(error)


def test_a_fixed_batch_axis_is_refused_with_the_remedy(load, torch_models):
    with pytest.raises(ContractError, match=r"'x' .* has shape \[4\].*export with dynamic_shapes=\{'x': \{0: "):
        load(torch_models.fixed_batch(), "pt2")


def test_a_batch_beyond_what_was_exported_is_found_at_warm_up(load, torch_models):
    engine = load(torch_models.mlp(), "pt2")
    with pytest.raises(EngineError, match=r"warm-up with a batch of 65537 failed: Guard failed: .* <= 65536"):
        engine.warm([65537])


@pytest.mark.parametrize("kind", FORMATS)
def test_an_output_without_the_batch_axis_is_found_at_warm_up_and_after(load, torch_models, kind):
    engine = load(torch_models.sums_the_batch(), kind)
    with pytest.raises(ContractError, match=r"'y' has shape \[1\] for a batch of 2"):
        engine.warm([1, 2])
    with pytest.raises(EngineError, match="first axis must be the batch"):
        engine.infer({"x": np.ones(2, np.float32)})


def spec(name, dtype="float32", *shape):
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *shape))


@pytest.mark.parametrize("kind", FORMATS)
def test_declared_inputs_must_be_those_of_the_file(load, torch_models, kind):
    model = torch_models.mlp()
    wrong = Signature(inputs=(spec("z", "float32", 16),), outputs=model.signature.outputs)
    with pytest.raises(ModelCorrupt, match="takes the inputs x; declared are z"):
        load(model, kind, signature=wrong)


@pytest.mark.parametrize("declared", [spec("x", "float64", 16), spec("x", "float32", 17), spec("x", "float32")])
def test_declared_dtypes_and_shapes_must_be_those_of_the_archive(load, torch_models, declared):
    model = torch_models.mlp()
    wrong = Signature(inputs=(declared,), outputs=model.signature.outputs)
    with pytest.raises(ModelCorrupt, match=r"is float32\[-1, 16\], declared is"):
        load(model, "pt2", signature=wrong)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((spec("probability", "float64", 1),), "declared float64 and comes as float32"),
        ((spec("score", "float32", 1),), "gives the outputs probability, not score"),
    ],
)
def test_declared_outputs_are_checked_at_warm_up(load, torch_models, kind, outputs, message):
    model = torch_models.mlp()
    engine = load(model, kind, signature=Signature(inputs=model.signature.inputs, outputs=outputs))
    with pytest.raises(ContractError, match=message):
        engine.warm([1])


def test_a_tuple_with_more_outputs_than_declared_is_refused_at_warm_up(load, torch_models):
    model = torch_models.text()
    fewer = Signature(inputs=model.signature.inputs, outputs=model.signature.outputs[:1])
    with pytest.raises(ContractError, match="gives 2 outputs, 1 are declared"):
        load(model, "pt2", signature=fewer).warm([1])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_file_that_is_no_archive_is_corrupt_and_not_logged_about(load, torch_models, tmp_path, kind, content, capfd):
    model = torch_models.mlp()
    path = model.save(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    capfd.readouterr()
    with pytest.raises(ModelCorrupt):
        build_engine(model_files(path, model.signature), CPU)
    assert capfd.readouterr() == ("", "")


def test_an_archive_of_another_kind_is_corrupt(torch_models, tmp_path, caplog):
    model = torch_models.mlp()
    path = model.save(tmp_path, "ts").rename(tmp_path / "model.pt2")
    with caplog.at_level(logging.WARNING), pytest.raises(ModelCorrupt, match="PyTorch cannot load"):
        build_engine(model_files(path, model.signature), CPU)


def test_strings_are_refused(load, torch_models):
    model = torch_models.mlp()
    wrong = Signature(inputs=(spec("x", "str", 16),), outputs=model.signature.outputs)
    with pytest.raises(ContractError, match="'x' is declared str"):
        load(model, "ts", signature=wrong)


def test_the_runtime_of_the_settings_must_be_the_files(load, torch_models):
    with pytest.raises(ContractError, match=r"engine.runtime is onnx, but model.pt2 .* is for torch"):
        load(torch_models.mlp(), "pt2", EngineSettings(device="cpu", runtime="onnx"))
    with pytest.raises(ContractError, match="is for onnx"):
        load(torch_models.mlp(), "onnx", EngineSettings(device="cpu", runtime="torch"))
    assert load(torch_models.mlp(), "pt2", EngineSettings(device="cpu", runtime="torch")).provider == "TorchCPU"


def test_cuda_asked_for_and_not_there_is_an_error_that_says_how_to_mend_it(load, torch_models, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ContractError, match=r"finds no GPU.*engine.allow_cpu_fallback"):
        load(torch_models.mlp(), "pt2", EngineSettings(device="cuda"))
    fallback = EngineSettings(device="cuda", allow_cpu_fallback=True)
    assert load(torch_models.mlp(), "pt2", fallback).provider == "TorchCPU"


def test_tensorrt_is_for_onnx(load, torch_models):
    with pytest.raises(ContractError, match="tensorrt is for ONNX models"):
        load(torch_models.mlp(), "pt2", EngineSettings(device="tensorrt"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: torch.compile needs one on a CPU")
def test_a_compiled_model_predicts_the_same_for_any_size(load, torch_models):
    model = torch_models.text()
    compiled = load(model, "pt2", EngineSettings(device="cpu", compile=True))
    compiled.warm([1, 2, 8])
    for rows in (1, 3, 8):
        inputs = rows_of(model.signature, rows)
        for name, expected in load(model, "pt2").infer(inputs).items():
            np.testing.assert_allclose(compiled.infer(inputs)[name], expected, **TOLERANCE)


def test_torchscript_is_not_compiled(load, torch_models):
    with pytest.raises(ConfigError, match=r"engine.compile is for torch.export archives"):
        load(torch_models.mlp(), "ts", EngineSettings(device="cpu", compile=True))


def test_without_the_runtime_the_message_is_the_pip_command(load, torch_models, monkeypatch):
    files = model_files("model.pt2", torch_models.mlp().signature)
    monkeypatch.delitem(sys.modules, "streamserve.engines.torch_engine", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamserve\[torch\]'"):
        build_engine(files, CPU)


def test_a_closed_engine_frees_its_weights_at_once(load, torch_models):
    engine = load(torch_models.mlp(), "pt2")
    weight = weakref.ref(next(iter(engine._program._module.parameters())))
    engine.close()
    assert weight() is None


@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "replayed"])
@pytest.mark.parametrize("kind", FORMATS)
def test_on_a_gpu_predictions_are_those_of_the_cpu(load, torch_models, kind, graphs):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU: the torch engine ran on the CPU")
    model = torch_models.text()
    engine = load(model, kind, EngineSettings(device="cuda", cuda_graphs=graphs, max_batch_size=64))
    assert engine.provider == "TorchCUDA"
    engine.warm([1, 8, 64])
    for rows in (1, 3, 64, 8):
        inputs = rows_of(model.signature, rows)
        for name, expected in load(model, kind).infer(inputs).items():
            np.testing.assert_allclose(engine.infer(inputs)[name], expected, rtol=0, atol=1e-4)
    engine.close()
