"""Runtimes: `build_engine` makes the one that a model's files ask for, and says which batch sizes to warm."""

from __future__ import annotations

from pathlib import Path

from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.padding import OnPadding, PaddedEngine
from streamserve.errors import ConfigError, ContractError
from streamserve.ports import Engine, ModelFiles

RUNTIMES = {".onnx": "onnx", ".ort": "onnx", ".pt2": "torch", ".ts": "torch"}
"""Suffix of a model's file -> the runtime that takes it."""


def build_engine(files: ModelFiles, settings: EngineSettings, on_padding: OnPadding | None = None) -> Engine:
    """Load a model into the runtime that its file is for. The engine is not warmed yet.

    Args:
        files: the model. A repository has found it fit to be loaded.
        settings: the runtime, the device, the sizes of batches.
        on_padding: told of batches that were padded to `batch_buckets`.

    Raises:
        ConfigError: the runtime is not installed.
        ModelCorrupt: the runtime refuses the file.
        ContractError: no runtime takes such a file, or runtime, provider or signature are not what is needed.
    """
    engine = _loaded(files, settings)
    buckets = _buckets(settings, gpu=on_gpu(engine))
    return PaddedEngine(engine, buckets, on_padding or (lambda _real, _padding: None)) if buckets else engine


def on_gpu(engine: Engine) -> bool:
    """Whether a GPU does the work."""
    return "CPU" not in engine.provider


def warm_sizes(max_batch_size: int) -> list[int]:
    """The batch sizes to run before a model is ready: powers of two up to the largest, and the largest."""
    sizes = [1 << power for power in range(max_batch_size.bit_length()) if 1 << power < max_batch_size]
    return [*sizes, max_batch_size]


def _loaded(files: ModelFiles, settings: EngineSettings) -> Engine:
    suffix = Path(files.path).suffix
    runtime = RUNTIMES.get(suffix)
    if runtime is None:
        raise ContractError(
            f"no runtime for {suffix or 'a file without suffix'} of model {files.name}: served are"
            f" {', '.join(RUNTIMES)}",
            model=files.name,
            version=files.version,
        )
    if settings.runtime not in ("auto", runtime):
        raise ContractError(
            f"engine.runtime is {settings.runtime}, but {Path(files.path).name} of model {files.name} version"
            f" {files.version} is for {runtime}: set engine.runtime: auto",
            model=files.name,
            version=files.version,
        )
    if runtime == "onnx":
        from streamserve.engines.onnx import OnnxEngine

        return OnnxEngine(files.path, settings)
    try:
        from streamserve.engines.torch_engine import TorchEngine
    except ImportError as error:
        raise ConfigError(f"PyTorch is not installed ({error}): pip install 'streamserve[torch]'") from error
    return TorchEngine(files.path, files.signature, settings)


def _buckets(settings: EngineSettings, *, gpu: bool) -> list[int]:
    """The sizes that batches are padded to, the largest batch always among them; none to leave them as they come."""
    largest = settings.max_batch_size
    if settings.batch_buckets is None:
        return warm_sizes(largest) if gpu else []
    return sorted({*(size for size in settings.batch_buckets if size < largest), largest})
