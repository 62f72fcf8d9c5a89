"""What stands around an engine by configuration: hooks before and after it, and post-processing.

Each of them changes the signature that its neighbour sees: features fill what the first hook takes, the encoder writes
what the last step gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamserve.batch import PredictionBatch, Reject
from streamserve.config.engine_settings import PaddingSettings, TensorSettings
from streamserve.config.settings import PipelineSettings, VectorSettings
from streamserve.engines.hooks import After, Before, load_hook
from streamserve.errors import ContractError
from streamserve.pipeline.post import PostProcessing
from streamserve.pipeline.sequences import PaddedInput, length_problems, padded_input
from streamserve.pipeline.serving import AfterModel, BeforeModel
from streamserve.ports import Signature, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Transforms:
    """What happens around one engine.

    Attributes:
        before, after: None where nothing happens.
        outputs: what there is to be encoded.
    """

    before: BeforeModel | None
    after: AfterModel | None
    outputs: tuple[TensorSpec, ...]


def fed_signature(settings: PipelineSettings, signature: Signature) -> Signature:
    """What the features fill: the engine's inputs, or what `hooks.before` says it takes, and the sequences' masks."""
    before = settings.hooks.before
    if before is None:
        return signature
    made = {padding.mask for padding in before.sequences.values()}
    if before.inputs is None:
        left = tuple(spec for spec in signature.inputs if spec.name not in made)
        return Signature(inputs=left, outputs=signature.outputs)
    masks = _masks(settings) - made - set(before.inputs)
    own = tuple(spec for spec in signature.inputs if spec.name in masks)
    return Signature(inputs=(*_specs(before.inputs), *own), outputs=signature.outputs)


def hook_sequences(settings: PipelineSettings, signature: Signature) -> tuple[PaddedInput, ...]:
    """The inputs that `hooks.before` gives as rows of different lengths.

    Raises:
        ContractError: they do not fit.
    """
    given = settings.hooks.before.sequences if settings.hooks.before is not None else {}
    inputs = {spec.name: spec for spec in signature.inputs}
    padded: list[PaddedInput] = []
    problems: list[str] = []
    for name, padding in given.items():
        if name not in inputs:
            problems.append(f"{name} is no input of the model, which has {', '.join(inputs)}")
            continue
        found, more = padded_input(f"sequence {name}", padding, inputs[name], signature)
        problems += more
        padded += [found] if found is not None else []
    problems += length_problems(padded)
    if problems:
        raise ContractError("hooks.before.sequences does not fit the model: " + "; ".join(problems) + ".")
    return tuple(padded)


def encoded_outputs(settings: PipelineSettings, signature: Signature) -> tuple[TensorSpec, ...]:
    """What there is to be encoded, found out without running a hook.

    Raises:
        ContractError: `output.post` does not fit.
    """
    return PostProcessing(settings.output.post, _hooked(settings, signature)).outputs


def build_transforms(settings: PipelineSettings, signature: Signature) -> Transforms:
    """Hooks and post-processing around an engine of this signature.

    Raises:
        ConfigError: a hook is not what was pinned, and nothing of it has run; or it cannot be loaded.
        ContractError: `output.post` does not fit.
    """
    hooks = settings.hooks
    outputs = _hooked(settings, signature)
    post = PostProcessing(settings.output.post, outputs)
    before: BeforeModel | None = None
    if hooks.before is not None:
        masks = _masks(settings)
        gives = [spec for spec in signature.inputs if spec.name not in masks]
        before = Before(load_hook(hooks.before, "before"), gives)
    steps: list[AfterModel] = []
    if hooks.after is not None:
        steps.append(After(load_hook(hooks.after, "after"), outputs))
    if settings.output.post:
        steps.append(post)
    return Transforms(before=before, after=_one_after_the_other(steps), outputs=post.outputs)


def _hooked(settings: PipelineSettings, signature: Signature) -> tuple[TensorSpec, ...]:
    """The outputs behind the hook."""
    after = settings.hooks.after
    return signature.outputs if after is None or after.outputs is None else _specs(after.outputs)


def _one_after_the_other(steps: list[AfterModel]) -> AfterModel | None:
    if len(steps) < 2:
        return steps[0] if steps else None
    first, second = steps

    def both(predictions: PredictionBatch) -> tuple[PredictionBatch, list[Reject]]:
        predictions, rejects = first(predictions)
        predictions, more = second(predictions)
        return predictions, rejects + more

    return both


def _masks(settings: PipelineSettings) -> set[str]:
    """Inputs that are filled around the engine, by nobody else."""
    features, before = settings.features, settings.hooks.before
    sequences: list[PaddingSettings] = list(before.sequences.values()) if before is not None else []
    if not isinstance(features, VectorSettings):
        sequences += [feature.sequence for feature in features if feature.sequence is not None]
    return {sequence.mask for sequence in sequences if sequence.mask is not None}


def _specs(tensors: Mapping[str, TensorSettings]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype="str" if tensor.dtype == "string" else tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    )
