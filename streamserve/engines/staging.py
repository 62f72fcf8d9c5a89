"""The way of a batch to a GPU and back.

For every shape that comes, buffers are made once: pinned ones on the host, which the device copies from and to by
itself, and fixed ones on the device. Copying in, computing and copying out have streams of their own and wait for each
other by events, so that while one batch is computed, the next is copied in and the last one out. That takes two
callers: each of two lanes has its own buffers, and a third caller waits. With `graphs` a shape's computation is
captured once as a CUDA graph, and replayed: one launch instead of one for every kernel.

Shapes are few: batches are padded to buckets first (`padding`). PyTorch has the same streams and events for the CPU,
where they do nothing, so all of this runs without a GPU too.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from types import ModuleType

import numpy as np
import torch

from streamserve.batch import Tensor, Tensors
from streamserve.engines.lanes import LANES, ByShape, Lanes
from streamserve.engines.torch_program import Compute, TorchTensors

RUNS_BEFORE_CAPTURE = 2
"""Runs that let libraries make their workspaces, which must not happen during a capture."""

_CAPTURE = Lock()
"""PyTorch allows one capture at a time in a process, whatever the model."""


class Staging:
    """Runs a program on a device, for two callers at a time.

    Args:
        program: the model.
        device: where it runs.
        graphs: capture and replay; the model's control flow must not depend on its data.
    """

    def __init__(self, program: Compute, device: torch.device, *, graphs: bool) -> None:
        compute = _Device(program, device, graphs=graphs)
        self._lanes = Lanes([_Lane(compute, device).run for _ in range(LANES)])

    def run(self, inputs: Tensors) -> list[Tensor]:
        """Inputs by name to outputs in the order of the program's. Raises: what PyTorch raises."""
        with torch.inference_mode():
            return self._lanes.run(inputs)


class _Lane:
    """The buffers of one caller, by shape."""

    def __init__(self, compute: _Device, device: torch.device) -> None:
        self._api = _api(device)
        self._device = device
        self._compute = compute
        self._copy_in, self._copy_out = self._api.Stream(), self._api.Stream()
        self._pool = compute.memory_pool()
        self._buffers = ByShape[_Buffers]()

    def run(self, inputs: Tensors) -> list[Tensor]:
        buffers = self._buffers.get(inputs, self._prepared)
        buffers.fill(inputs)
        with self._api.stream(self._copy_in):
            for name, tensor in buffers.device_inputs.items():
                tensor.copy_(buffers.host_inputs[name], non_blocking=True)
        outputs = self._compute.between(self._copy_in, buffers, self._copy_out)
        with self._api.stream(self._copy_out):
            for host, output in zip(buffers.host_outputs, outputs, strict=True):
                host.copy_(output, non_blocking=True)
        _wait(self._device, self._copy_out)
        return [host.numpy().copy() for host in buffers.host_outputs]

    def _prepared(self, inputs: Tensors) -> _Buffers:
        """Buffers for a shape that comes for the first time, or was not seen lately."""
        host = {name: self._pinned(torch.from_numpy(array.copy())) for name, array in inputs.items()}
        device = {name: tensor.to(self._device, copy=True) for name, tensor in host.items()}
        outputs, compute = self._compute.prepared(device, self._pool)
        return _Buffers(host, device, [self._pinned(output.to("cpu", copy=True)) for output in outputs], compute)

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().pin_memory() if self._device.type == "cuda" else tensor.contiguous()


class _Device:
    """The stream that computes, shared by the lanes: one batch is queued after the other, each as a whole."""

    def __init__(self, program: Compute, device: torch.device, *, graphs: bool) -> None:
        self._api = _api(device)
        self._program = program
        self._device = device
        self._graphs = graphs
        self._stream = self._api.Stream()
        self._turn = Lock()

    def memory_pool(self) -> object:
        """Memory for the graphs of one lane, which never run at the same time."""
        return torch.cuda.graph_pool_handle() if self._graphs and self._device.type == "cuda" else None

    def between(self, before: torch.Stream, buffers: _Buffers, after: torch.Stream) -> list[torch.Tensor]:
        """Queue the computation, after what is queued on `before`; `after` waits for it."""
        with self._turn:
            self._follow(before, self._stream)
            with self._api.stream(self._stream):
                outputs = buffers.compute(buffers.device_inputs)
            self._follow(self._stream, after)
        return outputs

    def prepared(self, device_inputs: TorchTensors, pool: object) -> tuple[list[torch.Tensor], Compute]:
        """The outputs for these inputs, and how to compute them again whenever the inputs have changed in place."""
        with self._turn:
            self._follow(self._api.current_stream(), self._stream)
            with self._api.stream(self._stream):
                for _ in range(RUNS_BEFORE_CAPTURE):
                    outputs = self._program(device_inputs)
            _wait(self._device, self._stream)
            return outputs, self._captured(device_inputs, pool) if self._graphs else self._program

    def _captured(self, device_inputs: TorchTensors, pool: object) -> Compute:
        """The program on these inputs as a graph. Its outputs stay where they are, and are good until it runs again."""
        if self._device.type != "cuda":
            return _Fixed(self._program, device_inputs)
        graph = torch.cuda.CUDAGraph()
        # Another model may be inferring meanwhile, in another thread: that one may allocate.
        with (
            _CAPTURE,
            torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            outputs = self._program(device_inputs)
        return _Replay(graph, outputs)

    def _follow(self, earlier: torch.Stream, later: torch.Stream) -> None:
        """What is queued on `later` from now on starts when what is queued on `earlier` is done."""
        event = self._api.Event()
        event.record(earlier)
        later.wait_event(event)


class _Buffers:
    """Memory for one shape, and the computation on it."""

    __slots__ = ("_views", "compute", "device_inputs", "host_inputs", "host_outputs")

    def __init__(
        self,
        host_inputs: TorchTensors,
        device_inputs: TorchTensors,
        host_outputs: Sequence[torch.Tensor],
        compute: Compute,
    ) -> None:
        self.host_inputs = host_inputs
        self.device_inputs = device_inputs
        self.host_outputs = host_outputs
        self.compute = compute
        self._views = {name: tensor.numpy() for name, tensor in host_inputs.items()}

    def fill(self, inputs: Tensors) -> None:
        for name, view in self._views.items():
            np.copyto(view, inputs[name])


class _Replay:
    """A captured graph as a program."""

    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: list[torch.Tensor]) -> None:
        self._graph = graph
        self._outputs = outputs

    def __call__(self, _: TorchTensors) -> list[torch.Tensor]:
        self._graph.replay()
        return self._outputs


class _Fixed:
    """What a replay is, without a GPU: the same inputs every time, and outputs that stay where they are."""

    def __init__(self, program: Compute, inputs: TorchTensors) -> None:
        self._program = program
        self._inputs = inputs
        self._outputs = [output.clone() for output in program(inputs)]

    def __call__(self, _: TorchTensors) -> list[torch.Tensor]:
        for fixed, output in zip(self._outputs, self._program(self._inputs), strict=True):
            fixed.copy_(output)
        return self._outputs


def _wait(device: torch.device, stream: torch.Stream) -> None:
    """Wait, asleep and without the interpreter's lock, until a stream has done what is queued."""
    event = torch.cuda.Event(blocking=True) if device.type == "cuda" else torch.cpu.Event()
    event.record(stream)
    event.synchronize()


def _api(device: torch.device) -> ModuleType:
    """`torch.cuda`, or `torch.cpu` with streams and events that do nothing."""
    api: ModuleType = torch.cuda if device.type == "cuda" else torch.cpu
    return api
