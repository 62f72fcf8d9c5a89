"""A version of the pipeline's model, from its files to a model that may serve.

Everything that can be wrong with a version is found here, before it is let near an event: files and digests (the
repository), the runtime's refusal (the engine), inputs that the features do not fill, outputs that `output` does not
fit, and outputs that are not finite (the rehearsal). Whatever fails, the engine is closed and its memory given back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.config.settings import PipelineSettings
from streamserve.engines import build_engine, on_gpu, warm_sizes
from streamserve.engines.buckets import bucketed
from streamserve.engines.padding import OnPadding
from streamserve.engines.transforms import build_transforms, encoded_outputs, fed_signature, hook_sequences
from streamserve.enrich.features import FeatureEnricher
from streamserve.pipeline.fallback import Fallback
from streamserve.pipeline.infer import InferStage, Journal, Suspects
from streamserve.pipeline.latency_model import Timing, timed_warm_up
from streamserve.pipeline.poison import BatchBound
from streamserve.pipeline.rehearsal import rehearse
from streamserve.pipeline.serving import LoadedModel
from streamserve.ports import Encoder, Engine, ModelFiles, Signature, TensorSpec
from streamserve.registry.repository import FolderRepository
from streamserve.telemetry.versions import VersionMetrics


def resolve_model(settings: PipelineSettings, version: str | None = None) -> ModelFiles:
    """The model version that `version` means, digests checked; without one, what the settings mean."""
    wanted = str(settings.model.version) if version is None else version
    return open_repository(settings).resolve(settings.model.name, wanted)


def open_repository(settings: PipelineSettings) -> FolderRepository:
    """The repository of the pipeline's models."""
    return FolderRepository(settings.model.repository, custom_operators=bool(settings.engine.custom_ops))


def reference_hash(settings: PipelineSettings, version: str) -> str:
    """Hash of the drift reference beside a version; empty when there is none. Raises: ModelCorrupt."""
    from streamserve.registry.references import FolderReferences

    reference = FolderReferences(settings.model.repository).find(settings.model.name, version)
    return reference.hash if reference is not None else ""


def load_engine(settings: PipelineSettings, files: ModelFiles, on_padding: OnPadding | None = None) -> Engine:
    """The engine with that model."""
    return build_engine(files, settings.engine, on_padding)


def check_fit(settings: PipelineSettings, signature: Signature) -> None:
    """Whether a model of this signature can serve the pipeline, as far as can be told without loading it.

    Raises:
        ContractError: features, fallback, post-processing or `output` do not fit.
    """
    FeatureEnricher(settings.features, fed_signature(settings, signature))
    hook_sequences(settings, signature)
    Fallback.of(settings.engine, signature.outputs)
    build_encoder(settings, encoded_outputs(settings, signature), None)


def build_encoder(
    settings: PipelineSettings, outputs: Sequence[TensorSpec], partition_count: Callable[[str], int] | None
) -> Encoder:
    """The encoder of a version's predictions."""
    return JsonPredictionEncoder(
        settings.output,
        outputs,
        entity_header=settings.input.key is not None,
        partition_count=partition_count,
    )


class ModelBuilder:
    """Makes versions ready to serve.

    Args:
        settings: the pipeline.
        load: files to an engine that is not warmed and tells of batches that it pads.
        journal, quarantine: the two sides of crash recovery, shared by all versions.
        metrics: by version.
        partition_count: partitions of an input topic, where predictions tell it.
        reference: hash of the drift reference beside a version, where samples tell it.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        *,
        load: Callable[[ModelFiles, OnPadding], Engine],
        journal: Journal,
        quarantine: Suspects,
        metrics: VersionMetrics,
        partition_count: Callable[[str], int] | None = None,
        reference: Callable[[str], str] | None = None,
    ) -> None:
        self._settings = settings
        self._load = load
        self._journal = journal
        self._quarantine = quarantine
        self._metrics = metrics
        self._partition_count = partition_count
        self._reference = reference
        self._outputs: dict[str, Sequence[TensorSpec]] = {}
        self._references: dict[str, str] = {}

    def build(self, files: ModelFiles) -> LoadedModel:
        """Load, warm and rehearse it.

        Raises:
            ConfigError, ModelCorrupt, ContractError, EngineError: it cannot serve this pipeline; nothing of it stays
                loaded.
        """
        if self._reference is not None:  # read here, where a broken one is a refused load, not in the flush thread
            self._references[files.version] = self._reference(files.version)
        engine = self._load(files, partial(self._metrics.of(files.version).padded, "batch"))
        try:
            model = self.assembled(files, engine)
            model = replace(model, warmed=self._warmed(model.infer.engine))
            rehearse(model, self._settings.input.topics[0])
        except BaseException:
            engine.close()
            raise
        return model

    def _warmed(self, engine: Engine) -> tuple[Timing, ...]:
        """Warm it; timed when a latency goal needs to know before the first batch what batches take."""
        sizes = warm_sizes(self._settings.engine.max_batch_size)
        if self._settings.engine.slo_ms is not None:
            return timed_warm_up(engine, sizes)
        engine.warm(sizes)
        return ()

    def outputs(self, version: str) -> Sequence[TensorSpec]:
        """What the predictions of a version hold that was built, though it may be gone since."""
        return self._outputs[version]

    def reference(self, version: str) -> str:
        """Hash of the drift reference that stood beside a version when it was built last; empty: there was none."""
        return self._references[version]

    def assembled(self, files: ModelFiles, engine: Engine) -> LoadedModel:
        """Everything around an engine.

        Raises:
            ConfigError: a hook cannot be loaded.
            ContractError: features, post-processing or `output` do not fit the engine's signature.
        """
        settings, metrics = self._settings, self._metrics.of(files.version)
        enricher = FeatureEnricher(settings.features, fed_signature(settings, engine.signature))
        sequences = (*enricher.padded, *hook_sequences(settings, engine.signature))
        padded = {each.input.name: each for each in sequences}
        engine = bucketed(engine, list(padded.values()), partial(metrics.padded, "length"), every_shape=on_gpu(engine))
        transforms = build_transforms(settings, engine.signature)
        self._outputs[files.version] = transforms.outputs
        return LoadedModel(
            name=files.name,
            version=files.version,
            sha256=files.sha256,
            enricher=enricher,
            infer=InferStage(
                engine, self._journal, self._quarantine, BatchBound(on_change=metrics.batch_bound_rows.set)
            ),
            encoder=build_encoder(settings, transforms.outputs, self._partition_count),
            before=transforms.before,
            after=transforms.after,
            metrics=metrics,
            fallback=Fallback.of(settings.engine, engine.signature.outputs),
        )
