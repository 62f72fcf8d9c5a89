"""What late records get in place of a prediction: one row of every output, from `engine.fallback`, fitted to a model.

It stands in for the model alone: post-processing, thresholds and encoding are those of every prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamserve.batch import Tensor, Tensors
from streamserve.config.base import Scalar
from streamserve.config.engine_settings import EngineSettings
from streamserve.errors import ContractError
from streamserve.ports import TensorSpec


@dataclass(frozen=True, slots=True)
class Fallback:
    """A model's outputs for records that it has no time for: `values[name]` is one row, in the output's dtype."""

    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, settings: EngineSettings, outputs: Sequence[TensorSpec]) -> Fallback | None:
        """The fallback of a model with these outputs; None unless late records get one.

        Raises:
            ContractError: an output has no value, or one that is not of its kind or shape.
        """
        if settings.slo_ms is None or settings.late != "fallback":
            return None
        given = settings.fallback or {}
        names = [spec.name for spec in outputs]
        problems = [f"{name} is no output of the model; these are {', '.join(names)}" for name in given.keys() - names]
        values: dict[str, Tensor] = {}
        for spec in outputs:
            try:
                values[spec.name] = _row(spec, given[spec.name])
            except KeyError:
                problems.append(f"there is no value for the model's output {spec.name}")
            except ValueError as error:
                problems.append(f"{spec.name}: {error}")
        if problems:
            raise ContractError("engine.fallback does not fit the model: " + "; ".join(sorted(problems)) + ".")
        return cls(values)

    def outputs(self, rows: int) -> Tensors:
        """Outputs of so many rows."""
        return {name: np.repeat(value[np.newaxis], rows, axis=0) for name, value in self.values.items()}


def _row(spec: TensorSpec, value: Scalar | list[float]) -> Tensor:
    """One row of an output. Raises: ValueError: the value is of another kind or shape."""
    array = np.array(value, dtype=object if isinstance(value, str) else None)
    wanted = "str" if spec.dtype == "str" else np.dtype(spec.dtype).kind
    if not {"str": "O", "b": "b", "i": "iu", "u": "iu"}.get(wanted, "fiu").count(array.dtype.kind):
        raise ValueError(f"{value!r} is no {spec.dtype}")
    axes = spec.shape[1:]
    if array.ndim == 0:
        return np.full([max(size, 1) for size in axes], array[()], dtype=object if wanted == "str" else spec.dtype)
    free = sum(size < 0 for size in axes)
    if free > 1 or (not free and array.size != np.prod(axes, dtype=int)):
        raise ValueError(f"{len(array)} values do not fill a row of shape {list(axes)}")
    return array.astype(spec.dtype).reshape(axes)
