"""A version of the pipeline's model, from its files to a model that may serve.

Everything that can be wrong with a version is found here, before it is let near an event: files and digests (the
repository), the runtime's refusal (the engine), inputs that the features do not fill, outputs that `output` does not
fit, and outputs that are not finite (the rehearsal). Whatever fails, the engine is closed and its memory given back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamserve.codecs.prediction import JsonPredictionEncoder
from streamserve.config.settings import PipelineSettings
from streamserve.drift.sampler import SampledVersion
from streamserve.engines import build_engine, warm_sizes
from streamserve.enrich.features import FeatureEnricher
from streamserve.pipeline.infer import InferStage, Journal, Suspects
from streamserve.pipeline.poison import BatchBound
from streamserve.pipeline.rehearsal import rehearse
from streamserve.pipeline.serving import LoadedModel
from streamserve.ports import Encoder, Engine, ModelFiles, Signature, TensorSpec
from streamserve.registry.references import FolderReferences
from streamserve.registry.repository import FolderRepository
from streamserve.telemetry.versions import VersionMetrics


def resolve_model(settings: PipelineSettings, version: str | None = None) -> ModelFiles:
    """The model version that `version` means, digests checked; without one, what the settings mean."""
    wanted = str(settings.model.version) if version is None else version
    return open_repository(settings).resolve(settings.model.name, wanted)


def open_repository(settings: PipelineSettings) -> FolderRepository:
    """The repository of the pipeline's models."""
    return FolderRepository(settings.model.repository, custom_operators=bool(settings.engine.custom_ops))


def load_engine(settings: PipelineSettings, files: ModelFiles) -> Engine:
    """The engine with that model."""
    return build_engine(files, settings.engine)


def build_encoder(
    settings: PipelineSettings, signature: Signature, partition_count: Callable[[str], int] | None
) -> Encoder:
    """The encoder of a version's predictions."""
    return JsonPredictionEncoder(
        settings.output,
        signature.outputs,
        entity_header=settings.input.key is not None,
        partition_count=partition_count,
    )


class ModelBuilder:
    """Makes versions ready to serve.

    Args:
        settings: the pipeline.
        journal, quarantine: the two sides of crash recovery, shared by all versions.
        metrics: by version.
        partition_count: partitions of an input topic, where predictions tell it.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        *,
        journal: Journal,
        quarantine: Suspects,
        metrics: VersionMetrics,
        partition_count: Callable[[str], int] | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._quarantine = quarantine
        self._metrics = metrics
        self._partition_count = partition_count
        self._outputs: dict[str, Sequence[TensorSpec]] = {}

    def resolve(self, version: str) -> ModelFiles:
        """The files of a version, digests checked. Raises: ModelNotFound, ModelCorrupt."""
        return resolve_model(self._settings, version)

    def build(self, files: ModelFiles) -> LoadedModel:
        """Load, warm and rehearse it.

        Raises:
            ConfigError, ModelCorrupt, ContractError, EngineError: it cannot serve this pipeline; nothing of it stays
                loaded.
        """
        engine = load_engine(self._settings, files)
        try:
            model = self._assembled(files, engine)
            engine.warm(warm_sizes(self._settings.engine.max_batch_size))
            rehearse(model, self._settings.input.topics[0])
        except BaseException:
            engine.close()
            raise
        self._outputs[files.version] = engine.signature.outputs
        return model

    def sampled(self, version: str) -> SampledVersion:
        """What the drift monitor's samples tell of a version that was built; it may be gone since."""
        reference = FolderReferences(self._settings.model.repository).find(self._settings.model.name, version)
        return SampledVersion(outputs=self._outputs[version], reference=reference.hash if reference is not None else "")

    def _assembled(self, files: ModelFiles, engine: Engine) -> LoadedModel:
        settings = self._settings
        return LoadedModel(
            name=files.name,
            version=files.version,
            sha256=files.sha256,
            enricher=FeatureEnricher(settings.features, engine.signature),
            infer=InferStage(engine, self._journal, self._quarantine, BatchBound()),
            encoder=build_encoder(settings, engine.signature, self._partition_count),
            metrics=self._metrics.of(files.version),
        )
