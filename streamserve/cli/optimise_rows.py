"""Rows for `model optimize`: inputs of the model from a file, or from what workers recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from streamserve.batch import Tensors
from streamserve.config.settings import PipelineSettings, VectorSettings
from streamserve.errors import ContractError
from streamserve.ports import Signature, TensorSpec


def inputs_of_file(
    path: Path, settings: PipelineSettings | None, signature: Signature, limit: int
) -> tuple[Tensors, int]:
    """The last rows of a file, as inputs of a model.

    Args:
        path: events of the pipeline (JSON lines, CSV, NPZ, parquet); without a pipeline an NPZ file with an array per
            input of the model.
        settings: the pipeline, if there is one.
        signature: of the model.
        limit: at most so many rows.

    Returns:
        The inputs, and how many rows were left out because a worker would reject them.

    Raises:
        ContractError: it cannot be read, or does not fit the model.
    """
    if settings is None:
        return _arrays(path, signature, limit), 0
    _check_plain(settings)
    from streamserve.cli.drift_files import file_parts
    from streamserve.enrich.features import FeatureEnricher

    enricher = FeatureEnricher(settings.features, signature)
    parts: list[Tensors] = []
    held = rejected = 0
    for part in file_parts(path, settings, None):
        features, refused = enricher.enrich(part.events)
        rejected += len(part.rejects) + len(refused)
        parts.append(features.inputs)
        held += len(features)
        while held - _count(parts[0]) >= limit:
            held -= _count(parts.pop(0))
    if not held:
        raise ContractError(f"{path}: holds no row that a worker would give the model")
    inputs = {spec.name: np.concatenate([part[spec.name] for part in parts])[-limit:] for spec in signature.inputs}
    return inputs, rejected


def inputs_of_samples(
    settings: PipelineSettings, topic: str | None, signature: Signature, limit: int, stop: Callable[[], bool]
) -> tuple[Tensors, int]:
    """The newest recorded rows, as `inputs_of_file` gives them. Raises: StreamServeError."""
    _check_plain(settings)
    from streamserve.recorded.reading import recorded_inputs

    found = recorded_inputs(settings, signature, rows=limit, topic=topic, stop=stop)
    if not len(found):
        reasons = ", ".join(f"{feature}: {reason}" for _, reason, feature in found.rejected)
        raise ContractError(f"none of the recorded rows can be given to the model ({reasons})")
    return found.inputs, found.rejected.total()


def _check_plain(settings: PipelineSettings) -> None:
    """Whether features alone make the inputs. Raises: ContractError."""
    features = [] if isinstance(settings.features, VectorSettings) else settings.features
    what = "hooks.before makes" if settings.hooks.before is not None else ""
    what = what or ("sequences, padded by the batch, make" if any(feature.sequence for feature in features) else "")
    if what:
        raise ContractError(
            f"{what} the model's inputs, which events alone do not tell: give them as they reach the model, in an .npz"
            " file with an array per input (--rows), and name the --repository instead of the configuration"
        )


def _arrays(path: Path, signature: Signature, limit: int) -> Tensors:
    if path.suffix.lower() != ".npz":
        raise ContractError(
            f"{path} holds events, which only a pipeline knows how to read: name its configuration with -c, or give"
            " an .npz file with an array per input of the model"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise ContractError(f"{path} cannot be read: {error}") from error
    rows = {spec.name: _checked(path, spec, arrays) for spec in signature.inputs}
    counts = {name: len(values) for name, values in rows.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise ContractError(f"{path} must hold as many rows of each input, at least one; it holds {counts}")
    return {name: values[-limit:] for name, values in rows.items()}


def _checked(path: Path, spec: TensorSpec, arrays: Tensors) -> np.typing.NDArray[np.generic]:
    if spec.name not in arrays:
        raise ContractError(f"{path} has no array {spec.name}, an input of the model; it has {', '.join(arrays)}")
    values = arrays[spec.name]
    fits = len(values.shape) == len(spec.shape)
    fits &= all(want < 0 or want == size for want, size in zip(spec.shape, values.shape, strict=False))
    kinds = "US" if spec.dtype == "str" else np.dtype(spec.dtype).kind
    if not fits or values.dtype.kind not in kinds:
        raise ContractError(
            f"{path}: {spec.name} is {values.dtype}{list(values.shape)}, the model takes {spec.dtype}{list(spec.shape)}"
        )
    return values.astype(object if spec.dtype == "str" else spec.dtype)


def _count(rows: Tensors) -> int:
    return len(next(iter(rows.values())))
