"""ONNX Runtime as an `Engine`.

The adapter owns one inference session. It checks at the start what would hurt later: that the provider
asked for is the one in use, that every input and output is a tensor with a free batch axis. On the hot path
it adds one length check per output and nothing else; `session.run` releases the GIL.

Libraries of custom operators are loaded only by path and digest (`engine.custom_ops`), and the runtime's own
fall back to the CPU is off: `allow_cpu_fallback` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamserve.batch import Tensor, Tensors
from streamserve.config.engine_settings import EngineSettings
from streamserve.config.pinned import pinned_file
from streamserve.engines.faults import OUT_OF_MEMORY, engine_error, short
from streamserve.engines.lanes import Run
from streamserve.engines.onnx_gpu import BoundSession
from streamserve.engines.warm_up import check_outputs, dummies, wrong_length
from streamserve.errors import ConfigError, ContractError, EngineError, EngineOutOfMemory, ModelCorrupt
from streamserve.ports import Signature, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = {"cuda": CUDA, "tensorrt": TENSORRT}
"""`engine.device` -> the provider that must then be in use."""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}
"""ONNX Runtime's names of types -> dtypes of a `TensorSpec`."""


class OnnxEngine:
    """A model in ONNX Runtime.

    Args:
        path: the model file.
        settings: device, threads, CUDA graphs, custom operators and what to do without a GPU.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        ModelCorrupt: the runtime refuses the file.
        ContractError: the provider or the signature is not what is needed.
    """

    def __init__(self, path: str | Path, settings: EngineSettings) -> None:
        session = _session(str(path), settings)
        self._provider = _checked_provider(session, settings)
        self._signature = _signature(session)
        self._outputs = [spec.name for spec in self._signature.outputs]
        self._first_input = self._signature.inputs[0].name
        self._run: Run = partial(session.run, self._outputs)
        self._bound = _bound(session, self._signature, self._provider, settings)
        if self._bound is not None:
            self._run = self._bound.run

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def provider(self) -> str:
        return self._provider

    def infer(self, inputs: Tensors) -> Tensors:
        try:
            values = self._run(inputs)
        except Exception as error:
            raise engine_error(error) from error
        rows = len(inputs[self._first_input])
        for value in values:
            if value.shape[:1] != (rows,):
                raise EngineError(wrong_length(self._outputs, values, rows))
        return dict(zip(self._outputs, values, strict=True))

    def warm(self, sizes: Sequence[int]) -> None:
        """Run every batch size once, on zeros and empty strings, and check what comes out.

        Raises:
            ContractError: an output's first axis is not the batch, or its rank or dtype is not the declared
            one. EngineError: the model fails; EngineOutOfMemory when a size does not fit.
        """
        for rows in sizes:
            try:
                values = self._run(dummies(self._signature, rows))
            except Exception as error:
                raise engine_error(error, f"warm-up with a batch of {rows} failed: ") from error
            check_outputs(self._signature.outputs, values, rows)

    def close(self) -> None:
        """Let go of the session; the engine cannot infer any more. Idempotent."""
        self._run = _closed
        if self._bound is not None:
            self._bound.close()
            self._bound = None


def _closed(_: Tensors) -> list[Tensor]:
    raise EngineError("the engine is closed")


def _session(path: str, settings: EngineSettings) -> onnxruntime.InferenceSession:
    """A session on the providers that `settings.device` names."""
    try:
        import onnxruntime
    except ImportError as error:
        extra = "gpu" if settings.device in PROVIDERS else "cpu"
        raise ConfigError(f"ONNX Runtime is not installed ({error}): pip install 'streamserve[{extra}]'") from error
    providers = _providers(onnxruntime.get_available_providers(), settings)
    options = _options(onnxruntime.SessionOptions(), settings)
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:
        text = str(error)
        if OUT_OF_MEMORY.search(text):
            raise EngineOutOfMemory(f"no memory to load {path}: {short(text)}") from error
        if "is not a registered function/op" in text or "No opset import for domain" in text:
            raise ContractError(
                f"{path} needs an operator that this ONNX Runtime lacks, nor has a library in engine.custom_ops:"
                f" {short(text)}"
            ) from error
        raise ModelCorrupt(f"ONNX Runtime cannot load {path}: {short(text)}") from error


def _options(options: onnxruntime.SessionOptions, settings: EngineSettings) -> onnxruntime.SessionOptions:
    """Sequential, on as many threads as asked for, sleeping when idle, silent."""
    import onnxruntime

    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    # A memory pattern is kept for every batch size ever seen, and here every batch may have a new one.
    options.enable_mem_pattern = False
    # Every error is raised; without this the runtime also writes each one, with its source line, to stderr.
    options.log_severity_level = 4
    # Idle pool threads would spin on the cores that the poll, write and commit threads need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for library in settings.custom_ops:
        _register(options, pinned_file(library.path, library.sha256))
    return options


def _register(options: onnxruntime.SessionOptions, library: str) -> None:
    """Load a library of custom operators: its code runs from here on."""
    try:
        options.register_custom_ops_library(library)
    except Exception as error:
        raise ConfigError(f"engine.custom_ops: {library} is no library of operators: {short(str(error))}") from error


def _providers(available: Sequence[str], settings: EngineSettings) -> list[tuple[str, dict[str, str]]]:
    """Providers in order of preference: what one of them lacks an operator for, the next one runs.

    On CUDA the search for convolution algorithms is heuristic: the exhaustive default runs anew for every
    batch size.
    """
    cpu: list[tuple[str, dict[str, str]]] = [(CPU, {})]
    if settings.device == "cpu" or CUDA not in available:
        return cpu
    cuda = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    if settings.cuda_graphs:
        cuda["enable_cuda_graph"] = "1"
    tensorrt: list[tuple[str, dict[str, str]]] = [(TENSORRT, {})] if settings.device == "tensorrt" else []
    return [*(each for each in tensorrt if TENSORRT in available), (CUDA, cuda), *cpu]


def _checked_provider(session: onnxruntime.InferenceSession, settings: EngineSettings) -> str:
    """The provider in use, if it is the one that was wanted."""
    import onnxruntime

    used: str = session.get_providers()[0]
    available = onnxruntime.get_available_providers()
    wanted = PROVIDERS.get(settings.device, CUDA if settings.device == "auto" and CUDA in available else used)
    if used != wanted and not settings.allow_cpu_fallback:
        name = "TensorRT" if wanted == TENSORRT else "CUDA"
        why = (
            f"the GPU or its {name} libraries could not be loaded"
            if wanted in available
            else f"this ONNX Runtime is built without {name}: pip install 'streamserve[gpu]'"
        )
        raise ContractError(
            f"engine.device is {settings.device}, but the model would run on {used}: {why}. To run on"
            " the CPU, set engine.device: cpu, or engine.allow_cpu_fallback: true"
        )
    return used


def _bound(
    session: onnxruntime.InferenceSession, signature: Signature, provider: str, settings: EngineSettings
) -> BoundSession | None:
    """On a GPU, the session on bound memory; None where there is nothing to bind."""
    strings = any(spec.dtype == "str" for spec in (*signature.inputs, *signature.outputs))
    if settings.cuda_graphs and (provider != CUDA or strings) and not settings.allow_cpu_fallback:
        why = "the model has strings" if strings else f"the model runs on {provider}"
        raise ContractError(f"engine.cuda_graphs is set, but {why}: graphs need CUDA, and numbers alone; leave it out")
    if provider == CPU or strings:
        return None
    graphs = settings.cuda_graphs and provider == CUDA
    return BoundSession(session, [spec.name for spec in signature.outputs], "cuda", graphs=graphs)


def _signature(session: onnxruntime.InferenceSession) -> Signature:
    """Inputs and outputs of a session, checked to be tensors with a free first axis."""
    inputs = tuple(_spec(node, "input") for node in session.get_inputs())
    if not inputs:
        raise ContractError("the model has no inputs, so it has no batch")
    for spec in inputs:
        if not spec.shape or spec.shape[0] != -1:
            raise ContractError(
                f"input {spec.name!r} has shape {list(spec.shape)}: its first axis must be the batch"
                " and free; export the model with a dynamic batch axis"
            )
    return Signature(inputs=inputs, outputs=tuple(_spec(node, "output") for node in session.get_outputs()))


def _spec(node: onnxruntime.NodeArg, kind: str) -> TensorSpec:
    dtype = DTYPES.get(node.type)
    if dtype is None:
        remedy = (
            "convert the classifier with zipmap=False"
            if node.type.startswith(("seq(map", "map"))
            else "only tensors of numbers, booleans and strings are served"
        )
        raise ContractError(f"{kind} {node.name!r} is a {node.type}: {remedy}")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(name=node.name, dtype=dtype, shape=shape)
