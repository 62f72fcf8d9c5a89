"""ONNX Runtime on bound memory: on the CPU the same code, and on a GPU where one is."""

import subprocess
import sys
import threading

import numpy as np
import onnxruntime
import pytest

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import build_engine
from streamserve.engines.lanes import ByShape
from streamserve.engines.onnx import CPU, CUDA, OnnxEngine
from streamserve.engines.onnx_gpu import BoundSession
from streamserve.errors import ContractError, EngineError
from tests.unit.engines.files import model_files


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and CUDA not in onnxruntime.get_available_providers():
        pytest.skip("no CUDA in ONNX Runtime: its bound memory was tested on the CPU")
    return request.param


@pytest.fixture(params=[False, True], ids=["launched", "recorded"])
def bound(request, device, tmp_path):
    options = {"enable_cuda_graph": "1"} if request.param and device == "cuda" else {}
    provider = CPU if device == "cpu" else CUDA
    path = models.save(models.mlp(), tmp_path)
    session = onnxruntime.InferenceSession(path, providers=[(provider, options)])
    made = BoundSession(session, ["probability"], device, graphs=request.param)
    yield made
    made.close()


@pytest.fixture
def expected(tmp_path):
    session = onnxruntime.InferenceSession(models.save(models.mlp(), tmp_path), providers=[CPU])
    return lambda x: session.run(["probability"], {"x": x})[0]


def batches(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(rows, 16)).astype(np.float32) for rows in random.choice([1, 2, 8, 32], count)]


def test_batches_of_changing_sizes_come_back_as_if_they_had_gone_straight(bound, expected):
    inputs = batches(40)
    outputs = [bound.run({"x": x})[0] for x in inputs]
    for x, output in zip(inputs, outputs, strict=True):
        np.testing.assert_allclose(output, expected(x), rtol=0, atol=1e-5)


def test_three_threads_do_not_mix_their_batches(bound, expected):
    wrong = []

    def work(seed):
        wrong.extend(
            seed for x in batches(60, seed) if not np.allclose(bound.run({"x": x})[0], expected(x), rtol=0, atol=1e-5)
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


STUCK = """
import sys, threading
import numpy as np, onnxruntime
from streamserve.engines import onnx_gpu

class Hanging:
    def __init__(self, path):
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.io_binding = self._session.io_binding
        self.entered = threading.Event()

    def run_with_iobinding(self, *_):
        self.entered.set()
        threading.Event().wait()

onnx_gpu.CLOSE_S = 0.05
session = Hanging(sys.argv[1])
bound = onnx_gpu.BoundSession(session, ["probability"], "cpu", graphs=True)
inputs = {"x": np.zeros((1, 16), np.float32)}
threading.Thread(target=bound.run, args=(inputs,), daemon=True).start()
session.entered.wait()
bound.close()
print("closed", flush=True)
"""


def test_a_run_that_hangs_holds_up_neither_the_close_nor_the_end_of_the_process(tmp_path):
    command = [sys.executable, "-c", STUCK, models.save(models.mlp(), tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.returncode) == ("closed\n", 0), ended.stderr


def test_a_session_whose_thread_was_ended_refuses_runs_and_can_be_closed_again(tmp_path):
    session = onnxruntime.InferenceSession(models.save(models.mlp(), tmp_path), providers=[CPU])
    bound = BoundSession(session, ["probability"], "cpu", graphs=True)
    bound.close()
    bound.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        bound.run({"x": np.zeros((1, 16), np.float32)})


def test_a_failure_in_the_thread_is_the_callers(tmp_path):
    session = onnxruntime.InferenceSession(models.save(models.mlp(), tmp_path), providers=[CPU])
    bound = BoundSession(session, ["probability"], "cpu", graphs=True)
    with pytest.raises(Exception, match="dimensions"):
        bound.run({"x": np.zeros((1, 15), np.float32)})
    assert len(bound.run({"x": np.zeros((1, 16), np.float32)})[0]) == 1
    bound.close()


def test_memory_is_bound_once_for_a_shape_and_the_least_recently_used_goes(monkeypatch):
    monkeypatch.setattr("streamserve.engines.lanes.MAX_SHAPES", 2)
    made = []
    by_shape = ByShape()
    for rows in (1, 2, 1, 3, 1, 2):
        by_shape.get({"x": np.zeros(rows)}, lambda inputs: made.append(len(inputs["x"])) or len(made))
    assert made == [1, 2, 3, 2]


def test_graphs_without_a_gpu_are_refused(tmp_path):
    path = models.save(models.mlp(), tmp_path)
    with pytest.raises(ContractError, match=r"cuda_graphs is set, but the model runs on CPUExecutionProvider"):
        OnnxEngine(path, EngineSettings(device="cpu", cuda_graphs=True))
    OnnxEngine(path, EngineSettings(device="cpu", cuda_graphs=True, allow_cpu_fallback=True)).warm([1])


def test_tensorrt_asked_for_and_not_there_is_an_error_that_says_how_to_mend_it(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    with pytest.raises(ContractError, match=r"device is tensorrt.* built without TensorRT: pip install"):
        OnnxEngine(models.save(models.mlp(), tmp_path), EngineSettings(device="tensorrt"))


@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "recorded"])
def test_on_a_gpu_predictions_are_those_of_the_cpu(tmp_path, expected, graphs):
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("no CUDA in ONNX Runtime: its engine was tested on the CPU")
    files = model_files(models.save(models.mlp(), tmp_path))
    engine = build_engine(files, EngineSettings(device="cuda", cuda_graphs=graphs, max_batch_size=64))
    engine.warm([1, 2, 4, 8, 16, 32, 64])
    for x in batches(20):
        np.testing.assert_allclose(engine.infer({"x": x})["probability"], expected(x), rtol=0, atol=1e-4)
    engine.close()
