"""An ONNX Runtime session on memory of the device that is bound to it.

For every shape that comes, inputs get device memory once, which is written in place, so that nothing is allocated for
them in a run and their addresses never change: CUDA graphs need that. With `graphs` the outputs are fixed too, and the
runtime records the first run of a shape and replays it. It does so for the thread that recorded, and not for two at a
time, so all runs are then one thread's. Without, two callers are served at a time.

The runtime copies by its own staging memory; its Python interface has no pinned buffers. With `device` `cpu` all of
this runs without a GPU.
"""

from __future__ import annotations

from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeAlias, cast

from streamserve.batch import Tensor, Tensors
from streamserve.engines.lanes import LANES, ByShape, Lanes, Run
from streamserve.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnxruntime

GRAPH_ID = "gpu_graph_id"
NO_GRAPH = "-1"
CLOSE_S = 5.0
"""How long a close waits for runs that are under way; one that hangs on the device may never come back."""


class BoundSession:
    """Runs a session; see above.

    Args:
        session: of numbers and booleans only, since strings have no place on a device.
        outputs: their names, in the order to give them.
        device: `cuda`, or `cpu` for the same without a GPU.
        graphs: the session was made to record CUDA graphs.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, outputs: Sequence[str], device: str, *, graphs: bool
    ) -> None:
        ids = count(1)
        lanes = [_Lane(session, outputs, device, ids if graphs else None).run for _ in range(1 if graphs else LANES)]
        self._thread = _OneThread(lanes[0]) if graphs else None
        self._run = Lanes(lanes).run if self._thread is None else self._thread.run

    def run(self, inputs: Tensors) -> list[Tensor]:
        """Raises: what ONNX Runtime raises."""
        return self._run(inputs)

    def close(self) -> None:
        """End the thread, if there is one. Idempotent."""
        if self._thread is not None:
            self._thread.close()


_Calls: TypeAlias = "SimpleQueue[tuple[Tensors, Future[list[Tensor]]] | None]"
"""What is to run and where the outputs go; None ends the thread."""


class _OneThread:
    """Runs everything on one thread, which ends with the process even while a run hangs: an executor's would not."""

    def __init__(self, run: Run) -> None:
        self._calls: _Calls = SimpleQueue()
        self._lock = Lock()
        self._closed = False
        self._thread = Thread(target=_serve, args=(run, self._calls), name="onnx-graphs", daemon=True)
        self._thread.start()

    def run(self, inputs: Tensors) -> list[Tensor]:
        outputs: Future[list[Tensor]] = Future()
        with self._lock:  # nothing is put behind the end, where nobody would answer
            if self._closed:
                raise EngineError("the engine is closed")
            self._calls.put((inputs, outputs))
        return outputs.result()

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._calls.put(None)
        self._thread.join(CLOSE_S)


def _serve(run: Run, calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        inputs, outputs = call
        try:
            outputs.set_result(run(inputs))
        except BaseException as error:  # whatever it is, it is the caller's
            outputs.set_exception(error)
        del call, inputs, outputs  # a batch is not kept until the next one comes


_Bound: TypeAlias = "tuple[onnxruntime.IOBinding, dict[str, onnxruntime.OrtValue], onnxruntime.RunOptions | None]"
"""What is bound, the inputs in it, and how to run it."""


class _Lane:
    """The bound memory of one caller, by shape."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        outputs: Sequence[str],
        device: str,
        graph_ids: Iterator[int] | None,
    ) -> None:
        self._session = session
        self._outputs = outputs
        self._device = device
        self._graph_ids = graph_ids
        self._bound = ByShape[_Bound]()

    def run(self, inputs: Tensors) -> list[Tensor]:
        binding, values, options = self._bound.get(inputs, self._bind)
        for name, value in values.items():
            value.update_inplace(inputs[name])
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, options)
        return cast("list[Tensor]", binding.copy_outputs_to_cpu())

    def _bind(self, inputs: Tensors) -> _Bound:
        import onnxruntime

        binding = self._session.io_binding()
        values = {name: self._allocated(array.shape, array.dtype.type) for name, array in inputs.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, self._device)
        if self._graph_ids is None:
            return binding, values, None
        for name, value in values.items():
            value.update_inplace(inputs[name])
        self._session.run_with_iobinding(binding, _options(onnxruntime.RunOptions(), NO_GRAPH))
        for name, value in zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True):
            binding.bind_ortvalue_output(name, self._allocated(value.shape, value.dtype.type))
        return binding, values, _options(onnxruntime.RunOptions(), str(next(self._graph_ids)))

    def _allocated(self, shape: Sequence[int], dtype: type) -> onnxruntime.OrtValue:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device)


def _options(options: onnxruntime.RunOptions, graph_id: str) -> onnxruntime.RunOptions:
    options.add_run_config_entry(GRAPH_ID, graph_id)
    return options
