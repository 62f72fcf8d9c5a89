"""What stands around an engine by configuration: hooks before and after it, and post-processing.

Each of them changes the signature that its neighbour sees: features fill what the first hook takes, the encoder writes
what the last step gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamserve.batch import PredictionBatch, Reject
from streamserve.config.engine_settings import TensorSettings
from streamserve.config.settings import PipelineSettings, VectorSettings
from streamserve.engines.hooks import After, Before, load_hook
from streamserve.pipeline.post import PostProcessing
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
    if before is None or before.inputs is None:
        return signature
    masks = _masks(settings)
    own = tuple(spec for spec in signature.inputs if spec.name in masks and spec.name not in before.inputs)
    return Signature(inputs=(*_specs(before.inputs), *own), outputs=signature.outputs)


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
    if isinstance(settings.features, VectorSettings):
        return set()
    return {each.sequence.mask for each in settings.features if each.sequence is not None and each.sequence.mask}


def _specs(tensors: Mapping[str, TensorSettings]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype="str" if tensor.dtype == "string" else tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    )
