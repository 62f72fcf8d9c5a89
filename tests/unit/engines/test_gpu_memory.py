"""Memory of the GPU, where one is."""

import onnxruntime
import pytest

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.gpu_memory import gpu_memory
from streamserve.engines.onnx import CUDA, OnnxEngine


def test_on_the_cpu_there_is_nothing_to_tell(tmp_path):
    assert gpu_memory(OnnxEngine(models.save(models.mlp(), tmp_path), EngineSettings(device="cpu"))) is None


def test_a_loaded_model_takes_memory(tmp_path):
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("no CUDA in ONNX Runtime: there is no memory of a GPU to tell of")
    engine = OnnxEngine(models.save(models.mlp(), tmp_path), EngineSettings(device="cuda"))
    engine.warm([64])
    used = gpu_memory(engine)
    assert used is not None
    assert used() > 0
