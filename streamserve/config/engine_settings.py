"""Which model, how it runs, how its batches grow: the `model`, `engine` and `hooks` blocks of `streamserve.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from streamserve.config.base import Dtype, Name, Scalar, Settings, Sizes

SHA256_PATTERN = r"^[0-9a-f]{64}$"
FUNCTION_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]


def _of_batches(shape: list[int]) -> list[int]:
    if shape[:1] != [-1] or min(shape) < -1:
        raise ValueError("the first axis is the batch: [-1, ...]; -1 stands for any size")
    return shape


class ModelSettings(Settings):
    """Which model."""

    name: Name
    """Name in the repository."""
    repository: str = "models"
    """Folder of the repository, relative to the configuration file."""
    version: str | int = "latest"
    """`latest`, a number, or an alias such as `stable`; with `rollout`, only until the first worker has started."""


class LibrarySettings(Settings):
    """A library of custom operators, which is native code."""

    path: str
    """The shared library, relative to the configuration file."""
    sha256: Sha256
    """Its digest: another file of that name is not loaded."""


class EngineSettings(Settings):
    """How the model runs."""

    runtime: Literal["auto", "onnx", "torch"] = "auto"
    """The runtime; `auto` goes by the model's files."""
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """Where it runs; `auto` takes a GPU when the runtime offers one; `tensorrt` is a provider of ONNX Runtime."""
    max_batch_size: int = Field(default=512, ge=1, le=65536)
    """Most events in one inference."""
    max_batch_bytes: int = Field(default=16_777_216, ge=1024)
    """Most bytes of record values in one batch."""
    max_delay_ms: float = Field(default=0, ge=0, le=60_000)
    """Longest wait of the first event of a batch for more; 0: it leaves as soon as the engine is free."""
    slo_ms: float | None = Field(default=None, gt=0, le=3_600_000)
    """Goal for an event's latency, counted from the record's own timestamp: bounds the batches by what they take."""
    catch_up_lag_s: float = Field(default=5.0, gt=0)
    """With `slo_ms`: records older than this (and than twice the goal) make the worker catch up: it takes the batch of
    the best throughput until nothing is late any more."""
    late: Literal["process", "dead_letter", "fallback"] = "process"
    """With `slo_ms`: what becomes of a record that cannot make it any more."""
    fallback: dict[str, Scalar | list[float]] | None = None
    """Output of the model -> value in a late record's prediction, for `late: fallback`; such predictions say
    `"fallback": true`."""
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of the runtime for one inference."""
    in_flight: int | None = Field(default=None, ge=1, le=4)
    """Batches inside the engine and around it at once; default 2 on a GPU, else 1. 2: while one is inferred, the next
    is decoded and the last encoded."""
    batch_buckets: Sizes | None = None
    """Batch sizes that batches are padded up to; default powers of two on a GPU, else none."""
    cuda_graphs: bool = False
    """Record each shape bucket once as a CUDA graph and replay it; needs a GPU and a model of fixed control flow."""
    compile: bool = False
    """Compile a PyTorch model with `torch.compile` (TorchInductor) when it is loaded."""
    memory_budget_mb: int | None = Field(default=None, ge=1)
    """Most memory of loaded models in one process; the least recently used that serve nothing are dropped for it."""
    custom_ops: list[LibrarySettings] = Field(default_factory=list)
    """Libraries of custom operators that the model needs. Their code runs in the worker."""
    allow_cpu_fallback: bool = False
    """Run on the CPU when the device asked for is not there, instead of failing at start."""


class PaddingSettings(Settings):
    """How rows of different lengths become a tensor."""

    max_length: int = Field(ge=1, le=1 << 16)
    """Longest sequence the model sees."""
    buckets: Sizes | None = None
    """Lengths that sequences are padded up to; `max_length` is always one. Default: powers of two from 8 on. `[]`: no
    buckets, a batch is padded to its longest sequence."""
    pad: Scalar | None = None
    """What stands behind the end of a sequence; default 0, false, or an empty string."""
    mask: str | None = None
    """The model input that says which positions are real: 1 or true there, 0 or false in the padding."""


class HookSettings(Settings):
    """A Python function on whole batches. Its code runs in the worker."""

    path: str
    """The file, relative to the configuration file."""
    sha256: Sha256
    """Its digest: changed code is not run."""
    function: str = Field(pattern=FUNCTION_PATTERN)
    """The function in it."""


class TensorSettings(Settings):
    """A tensor that a hook takes or gives."""

    dtype: Dtype = "float32"
    """Type of its values."""
    shape: Annotated[list[int], AfterValidator(_of_batches)]
    """Its axes; the first is the batch and -1, which stands for any size."""


class BeforeHookSettings(HookSettings):
    """A Python function on the inputs of whole batches. Its code runs in the worker."""

    inputs: dict[str, TensorSettings] | None = None
    """What the features fill for it, where that is not the model's own inputs."""
    sequences: dict[str, PaddingSettings] = Field(default_factory=dict)
    """Inputs of the model that it gives as rows of different lengths, and how they are padded."""


class AfterHookSettings(HookSettings):
    """A Python function on the outputs of whole batches. Its code runs in the worker."""

    outputs: dict[str, TensorSettings] | None = None
    """What it gives, where that is not the model's own outputs."""


class HooksSettings(Settings):
    """What is not declarative: functions before and after the model."""

    before: BeforeHookSettings | None = None
    """Inputs (name -> array of n rows) to inputs, before the model."""
    after: AfterHookSettings | None = None
    """Outputs (name -> array of n rows) to outputs, before `output.post`."""
