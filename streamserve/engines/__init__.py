"""Runtimes: `build_engine` makes the one that a model's files ask for, and says which batch sizes to warm."""

from __future__ import annotations

from pathlib import Path

from streamserve.config.engine_settings import EngineSettings
from streamserve.errors import ContractError
from streamserve.ports import Engine, ModelFiles


def build_engine(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Load a model into the runtime that its file is for. The engine is not warmed yet.

    Raises:
        ConfigError: the runtime is not installed.
        ModelCorrupt: the runtime refuses the file.
        ContractError: no runtime takes such a file, or provider or signature are not what is needed.
    """
    suffix = Path(files.path).suffix
    if suffix != ".onnx":
        raise ContractError(
            f"no runtime for {suffix or 'a file without suffix'} of model {files.name}: only .onnx is served",
            model=files.name,
            version=files.version,
        )
    from streamserve.engines.onnx import OnnxEngine

    return OnnxEngine(files.path, settings)


def warm_sizes(max_batch_size: int) -> list[int]:
    """The batch sizes to run before a model is ready: powers of two up to the largest, and the largest."""
    sizes = [1 << power for power in range(max_batch_size.bit_length()) if 1 << power < max_batch_size]
    return [*sizes, max_batch_size]
