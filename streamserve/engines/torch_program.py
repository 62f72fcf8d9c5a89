"""A PyTorch model from its file: `torch.export` archives (`.pt2`) and TorchScript (`.ts`).

Both become a `Program`, a function of tensors by name. An archive knows the names, dtypes and shapes of its inputs, so
they are held against the declared signature here; TorchScript knows names alone, and the warm-up finds the rest.

Loading either runs code of the file. Whether that may happen is the repository's decision, and made before.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from zipfile import is_zipfile

import torch

from streamserve.engines.faults import OUT_OF_MEMORY, short
from streamserve.errors import ConfigError, ContractError, EngineOutOfMemory, ModelCorrupt
from streamserve.ports import Signature, TensorSpec

TorchTensors = Mapping[str, torch.Tensor]
Compute = Callable[[TorchTensors], list[torch.Tensor]]
"""Inputs by name, on the device of the model -> outputs, in the order of the signature."""
Call = Callable[[TorchTensors], Any]


class Program:
    """A loaded model, a `Compute` in inference mode. `load_program` makes it.

    Args:
        module: what holds the weights.
        call: runs it.
        outputs: as declared.
    """

    def __init__(self, module: torch.nn.Module, call: Call, outputs: Sequence[TensorSpec]) -> None:
        self._module = module
        self._call = call
        self._outputs = outputs

    def __call__(self, tensors: TorchTensors) -> list[torch.Tensor]:
        with torch.inference_mode():
            return _in_order(self._call(tensors), self._outputs)

    def close(self) -> None:
        """Free the weights now: a module and its graph hold each other, and would wait for a full collection."""
        vars(self._module).clear()


def load_program(path: str, signature: Signature, device: torch.device, *, compiled: bool) -> Program:
    """Load a model onto a device.

    Args:
        path: `.pt2` or `.ts`.
        signature: what is declared of it; without names of outputs a tuple could not be told apart.
        device: where it runs, wherever it was exported.
        compiled: compile it with `torch.compile`; the first run of it then takes a while.

    Raises:
        ModelCorrupt: PyTorch refuses the file, or it holds something else than what is declared.
        ContractError: the batch axis is fixed.
        ConfigError: TorchScript cannot be compiled.
    """
    if not is_zipfile(path):
        raise ModelCorrupt(f"{path} is not a torch archive")
    if path.endswith(".pt2"):
        module, call = _exported(path, signature, device, compiled=compiled)
    elif compiled:
        raise ConfigError(f"engine.compile is for torch.export archives (.pt2), and {path} is TorchScript")
    else:
        module, call = _script(path, signature, device)
    return Program(module, call, signature.outputs)


def _exported(path: str, signature: Signature, device: torch.device, *, compiled: bool) -> tuple[torch.nn.Module, Call]:
    with _loading(path):
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
    order = program.graph_signature.user_inputs
    examples = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    _check_names(path, signature, order, order)
    for spec in signature.inputs:
        _check_input(path, spec, examples[spec.name])
    structure = program.call_spec.in_spec
    vars(program).clear()  # it has the weights too, and holds itself
    # `forward` has the program's own guards; calling the module would also print every failure to stderr.
    forward = torch.compile(module, dynamic=True, options={"compile_threads": 1}) if compiled else module.forward

    def call(tensors: TorchTensors) -> Any:
        positional, named = structure.unflatten([tensors[name] for name in order])
        return forward(*positional, **named)

    return module, call


def _script(path: str, signature: Signature, device: torch.device) -> tuple[torch.nn.Module, Call]:
    with _loading(path):
        module = torch.jit.load(path, map_location=device).eval()
    arguments = module.forward.schema.arguments[1:]
    _check_names(
        path,
        signature,
        [argument.name for argument in arguments],
        [argument.name for argument in arguments if not argument.has_default_value()],
    )
    return module, lambda tensors: module(**tensors)


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """Load without the runtime's notes on stderr; map what it raises."""
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; the documentation says so
            yield
    except Exception as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise EngineOutOfMemory(f"no memory to load {path}: {short(str(error))}") from error
        raise ModelCorrupt(f"PyTorch cannot load {path}: {short(str(error))}") from error
    finally:
        log.setLevel(level)


def _check_names(path: str, signature: Signature, known: Sequence[str], required: Iterable[str]) -> None:
    declared = [spec.name for spec in signature.inputs]
    if not set(required) <= set(declared) <= set(known):
        raise ModelCorrupt(f"{path} takes the inputs {', '.join(known)}; declared are {', '.join(declared) or 'none'}")
    if not signature.outputs:
        raise ModelCorrupt(f"{path}: no outputs are declared, and a torch file does not name them")


def _check_input(path: str, spec: TensorSpec, example: object) -> None:
    """Hold a declared input against the tensor that the program was exported with."""
    if not isinstance(example, torch.Tensor):
        raise ContractError(f"{path}: input {spec.name!r} is no tensor but a {type(example).__name__}")
    shape = tuple(size if isinstance(size, int) else -1 for size in example.shape)
    if not shape or shape[0] != -1:
        raise ContractError(
            f"input {spec.name!r} of {path} has shape {list(shape)}: its first axis must be the batch and free;"
            f" export with dynamic_shapes={{{spec.name!r}: {{0: torch.export.Dim('batch', min=1, max=65536)}}}}"
        )
    dtype = dtype_name(example.dtype)
    fits = len(shape) == len(spec.shape) and all(
        theirs in (-1, ours) for theirs, ours in zip(shape, spec.shape, strict=True)
    )
    if not fits or dtype != spec.dtype:
        raise ModelCorrupt(
            f"{path}: input {spec.name!r} is {dtype}{list(shape)}, declared is {spec.dtype}{list(spec.shape)}"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """The numpy name of a dtype, which for all that numpy has is torch's own."""
    return str(dtype).removeprefix("torch.")


def _in_order(result: Any, outputs: Sequence[TensorSpec]) -> list[torch.Tensor]:
    """What a model returned, a tensor, a tuple or a dict of them, in the order of the signature."""
    if isinstance(result, torch.Tensor):
        result = (result,)
    if isinstance(result, Mapping):
        missing = [spec.name for spec in outputs if spec.name not in result]
        if missing:
            raise ContractError(f"the model gives the outputs {', '.join(map(str, result))}, not {', '.join(missing)}")
        values = [result[spec.name] for spec in outputs]
    elif isinstance(result, Sequence) and len(result) == len(outputs):
        values = list(result)
    else:
        count = len(result) if isinstance(result, Sequence) else type(result).__name__
        raise ContractError(f"the model gives {count} outputs, {len(outputs)} are declared")
    for spec, value in zip(outputs, values, strict=True):
        if not isinstance(value, torch.Tensor):
            raise ContractError(f"output {spec.name!r} is no tensor but a {type(value).__name__}")
    return values
