"""Hooks: Python functions of the user's on whole batches, before and after the model.

The file is read once: the bytes whose digest was checked are the bytes that are compiled and run, in a namespace of
their own. A function takes and gives a dictionary of arrays with a row per event, in order. What it gives is held
against the signature; a row it says it cannot take is a reject, and when it fails in any other way the batch is
bisected, so that the rows at fault are rejected and nobody else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import numpy as np

from streamserve.batch import FeatureBatch, PredictionBatch, Reject, Tensor, Tensors
from streamserve.columns import ragged
from streamserve.config.engine_settings import HookSettings
from streamserve.config.pinned import pinned_bytes
from streamserve.errors import ConfigError
from streamserve.hooks import RowError
from streamserve.ports import TensorSpec

HookFunction = Callable[[Tensors], object]
"""As users write it: arrays to arrays, by name."""
DETAIL_CHARACTERS = 300


def load_hook(settings: HookSettings, side: str) -> HookFunction:
    """Run the file of a hook and take its function.

    Args:
        settings: the `hooks.before` or `hooks.after` block.
        side: `before` or `after`.

    Raises:
        ConfigError: the file is not there or is another than the one that was pinned, and then nothing of it has run;
            or it fails, or has no such function.
    """
    where = f"hooks.{side}"
    code = pinned_bytes(settings.path, settings.sha256)
    module = ModuleType(f"streamserve_hook_{settings.sha256[:16]}")
    module.__file__ = settings.path
    sys.modules[module.__name__] = module  # dataclasses and pickle look a module up by its name
    try:
        exec(compile(code, settings.path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  pinned by digest
    except Exception as error:
        raise ConfigError(f"{where}.path: {settings.path} fails: {_told(error)}") from error
    function = getattr(module, settings.function, None)
    if not callable(function):
        raise ConfigError(f"{where}.function: {settings.path} has no function {settings.function}")
    return cast("HookFunction", function)


class Before:
    """A hook before the model; a value for `LoadedModel.before`.

    Args:
        function: of the user's.
        gives: the model's inputs, but for the masks of sequences.
    """

    def __init__(self, function: HookFunction, gives: Sequence[TensorSpec]) -> None:
        self._hook = Hook(function, gives, "hooks.before")

    def __call__(self, features: FeatureBatch) -> tuple[FeatureBatch, list[Reject]]:
        run = self._hook.run(features.inputs, len(features))
        events = features.events if not run.fallen else features.events.take(run.kept)
        return FeatureBatch(events=events, inputs=run.tensors), run.rejects(features.events.row)


class After:
    """A hook after the model; a value for `LoadedModel.after`.

    Args:
        function: of the user's.
        gives: the outputs that it gives.
    """

    def __init__(self, function: HookFunction, gives: Sequence[TensorSpec]) -> None:
        self._hook = Hook(function, gives, "hooks.after")

    def __call__(self, predictions: PredictionBatch) -> tuple[PredictionBatch, list[Reject]]:
        run = self._hook.run(predictions.outputs, len(predictions))
        events = predictions.events if not run.fallen else predictions.events.take(run.kept)
        made = PredictionBatch(events=events, outputs=run.tensors, model=predictions.model, infer_s=predictions.infer_s)
        return made, run.rejects(predictions.events.row)


@dataclass(frozen=True, slots=True)
class HookRun:
    """What a hook made of a batch.

    Attributes:
        tensors: of the rows that are kept.
        kept: their positions, ascending.
        fallen: position -> why, of the others.
    """

    tensors: Tensors
    kept: list[int]
    fallen: dict[int, str]

    def rejects(self, rows: Sequence[int]) -> list[Reject]:
        """The others as rejects; `rows` maps positions to rows of the origin."""
        return [
            Reject(row=rows[position], stage="infer", reason="transform", detail=why[:DETAIL_CHARACTERS])
            for position, why in sorted(self.fallen.items())
        ]


class Hook:
    """A function with its promise.

    Args:
        function: of the user's.
        gives: what it must give.
        where: its name in messages.
    """

    def __init__(self, function: HookFunction, gives: Sequence[TensorSpec], where: str) -> None:
        self._function = function
        self._gives = gives
        self._where = where

    def run(self, tensors: Tensors, count: int) -> HookRun:
        """Call it, without the rows that it cannot take."""
        kept = list(range(count))
        fallen: dict[int, str] = {}
        while kept:
            part = tensors if not fallen else _taken(tensors, kept)
            try:
                return HookRun(self._call(part, len(kept)), kept, fallen)
            except Exception as error:
                bad = _row_errors(error, len(kept))
                if bad is None:
                    survey = self._survey(part, len(kept))
                    if not survey.fallen:  # too much at once: each half passes
                        return self._joined(survey, kept, fallen)
                    bad = survey.fallen
                fallen |= {kept[i]: why for i, why in bad.items()}
                kept = [position for i, position in enumerate(kept) if i not in bad]
        return HookRun({spec.name: _nothing(spec) for spec in self._gives}, [], fallen)

    def _call(self, tensors: Tensors, count: int) -> Tensors:
        """What the function gives for so many rows, checked."""
        given = self._function({name: _read_only(tensor) for name, tensor in tensors.items()})
        if not isinstance(given, Mapping):
            raise TypeError(f"gave {type(given).__name__}, a dictionary of arrays is expected")
        names = [spec.name for spec in self._gives]
        if sorted(given) != sorted(names):
            raise TypeError(f"gave {', '.join(map(str, given)) or 'nothing'}; expected are {', '.join(names)}")
        fresh = list(tensors.values())
        return {spec.name: self._checked(spec, given[spec.name], count, fresh) for spec in self._gives}

    def _checked(self, spec: TensorSpec, value: object, count: int, fresh: Sequence[Tensor]) -> Tensor:
        """An array that the function gave, as one that is C-contiguous and that it cannot write into any more.

        Args:
            spec: what it must be.
            value: what it is.
            count: rows.
            fresh: the arrays that the function was given, which nobody uses again.

        Raises:
            TypeError, ValueError: it is no such array.
            RowError: some of its rows are no sequences.
        """
        if not isinstance(value, np.ndarray):
            raise TypeError(f"gave {type(value).__name__} as {spec.name}, an array is expected")
        if value.shape[:1] != (count,):
            raise ValueError(f"gave {spec.name} with shape {list(value.shape)} for {count} rows")
        if spec.dtype == "str" and value.dtype.kind == "U":
            value = value.astype(object)
        if value.dtype == object and value.ndim == 1 and len(spec.shape) == 2:
            return self._sequences(spec, value)
        if value.dtype.name != _dtype(spec):
            raise TypeError(f"gave {spec.name} as {value.dtype}, expected is {spec.dtype}")
        fits = value.ndim == len(spec.shape) and all(
            size in (-1, found) for size, found in zip(spec.shape[1:], value.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(f"gave {spec.name} with shape {list(value.shape)}, expected is {spec}")
        if any(np.may_share_memory(value, tensor) for tensor in fresh):
            return np.ascontiguousarray(value)
        return value.copy(order="C")

    def _sequences(self, spec: TensorSpec, rows: Tensor) -> Tensor:
        """Rows of different lengths, for the length buckets, copied. Raises: RowError."""
        dtype = _dtype(spec)
        wanted = f"expected is an array of {spec.dtype} with one axis"
        bad = {
            i: f"{self._where} gave {_described(row)} in {spec.name}, {wanted}"
            for i, row in enumerate(rows)
            if not _is_sequence(row, dtype)
        }
        if bad:
            raise RowError(bad)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return ragged(np.concatenate(list(rows), dtype=dtype, casting="unsafe"), lengths)

    def _survey(self, tensors: Tensors, count: int) -> _Survey:
        """The rows at fault of a batch that fails as a whole, by bisection."""
        survey = _Survey([], {})
        middle = count // 2
        ahead = [(middle, count), (0, middle)] if count > 1 else [(0, 1)]
        while ahead:
            start, stop = ahead.pop()
            rows = stop - start
            try:
                survey.parts.append(self._call(_taken(tensors, range(start, stop)), rows))
            except Exception as error:
                bad = _row_errors(error, rows)
                if bad is not None:
                    survey.fallen.update({start + i: why for i, why in bad.items()})
                elif rows == 1:
                    survey.fallen[start] = f"{self._where}: {_told(error)}"
                else:
                    middle = start + rows // 2
                    ahead += [(middle, stop), (start, middle)]
        return survey

    def _joined(self, survey: _Survey, kept: list[int], fallen: dict[int, str]) -> HookRun:
        """The parts of a batch that passes in parts only."""
        try:
            joined = {spec.name: np.concatenate([part[spec.name] for part in survey.parts]) for spec in self._gives}
        except ValueError as error:
            why = f"{self._where} fails for {len(kept)} rows at once, and its parts do not fit together: {error}"
            return HookRun({spec.name: _nothing(spec) for spec in self._gives}, [], fallen | dict.fromkeys(kept, why))
        return HookRun(joined, kept, fallen)


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a bisection found: the outputs of parts that passed, in order, and why single rows do not."""

    parts: list[Tensors]
    fallen: dict[int, str]


def _row_errors(error: Exception, count: int) -> dict[int, str] | None:
    """The rows that the function rejects itself; None when it failed otherwise."""
    if not isinstance(error, RowError):
        return None
    told = {int(row): str(why) for row, why in error.rows.items() if 0 <= row < count}
    return told or None


def _taken(tensors: Tensors, rows: Sequence[int]) -> Tensors:
    index = np.asarray(rows, dtype=np.intp)
    return {name: tensor[index] for name, tensor in tensors.items()}


def _read_only(tensor: Tensor) -> Tensor:
    """A view that cannot be written to: a batch that is bisected is given to the function again."""
    view = tensor.view()
    view.flags.writeable = False
    return view


def _is_sequence(row: object, dtype: str) -> bool:
    """Whether it is an array of one axis with values of that kind; an empty one may be of any dtype."""
    if not isinstance(row, np.ndarray) or row.ndim != 1:
        return False
    return not row.size or np.can_cast(row.dtype, dtype, "same_kind")


def _described(row: object) -> str:
    return f"{row.dtype}{list(row.shape)}" if isinstance(row, np.ndarray) else type(row).__name__


def _nothing(spec: TensorSpec) -> Tensor:
    return np.empty((0, *(max(size, 0) for size in spec.shape[1:])), _dtype(spec))


def _dtype(spec: TensorSpec) -> str:
    return "object" if spec.dtype == "str" else spec.dtype


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
