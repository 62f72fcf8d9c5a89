"""All models of one partition of the samples topic: bytes in, events out. Never raises for what the bytes hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streamserve.config.settings import PipelineSettings
from streamserve.drift.chunk import ChunkError, SampleChunk, decode
from streamserve.drift.events import Event, ReferenceLearned, State
from streamserve.drift.figures import ChunkCounts, figures
from streamserve.drift.model_monitor import ModelMonitor, References
from streamserve.drift.overview import Document, column_document, overview
from streamserve.drift.reference import Document as ReferenceDocument
from streamserve.drift.reference import Reference
from streamserve.errors import ConfigError

MAX_EARLY_LABELS = 10_000
MAX_MODELS = 100
"""Models watched in one partition; chunks of further ones are counted as foreign."""


class Monitor:
    """Watches the models of one partition.

    Args:
        settings: the pipeline; it must have a drift block.
        references: where references come from.
    """

    def __init__(self, settings: PipelineSettings, references: References) -> None:
        if settings.drift is None:
            raise ConfigError("there is no drift block in the configuration: add `drift: {}`")
        self._pipeline = settings.pipeline
        self.settings = settings
        self._drift = settings.drift
        self._references = references
        self.models: dict[str, ModelMonitor] = {}
        self.counts = ChunkCounts()
        self.newest_broken = ""
        self._early: deque[tuple[int, int, bytes | None]] = deque(maxlen=MAX_EARLY_LABELS)

    def restore(self, documents: Iterable[Mapping[str, object]]) -> int | None:
        """Take over from an earlier life.

        Args:
            documents: records of the reports topic of the models of this partition, oldest first: of kind `state` and
                `reference`; others are ignored.

        Returns:
            The samples offset from which to read again; None: from the beginning.
        """
        states: dict[str, State] = {}
        learned: dict[str, dict[str, Reference]] = {}
        for document in documents:
            if document.get("pipeline") != self._pipeline:
                continue
            content = {name: value for name, value in document.items() if name != "kind"}
            if document.get("kind") == State.kind:
                state = msgspec.convert(content, State)
                states[state.model] = state
            elif document.get("kind") == ReferenceLearned.kind:
                each = msgspec.convert(content, ReferenceLearned)
                reference = Reference.of(msgspec.convert(each.document, ReferenceDocument))
                learned.setdefault(each.model, {})[each.version] = reference
        offsets = [self._model(model).restore(state, learned.get(model, {})) for model, state in sorted(states.items())]
        return min(offsets, default=None)

    def chunk(self, data: bytes | None, offset: int, wall_ms: int) -> list[Event]:
        """Merge one message of the samples topic.

        Args:
            data: its value.
            offset: its offset.
            wall_ms: now.

        Returns:
            What there is to tell, to be published in one transaction.
        """
        if data is None or data[:1] == b"{":
            return []  # a request for a label, our own
        try:
            chunk = decode(data)
        except ChunkError as error:
            self.counts.broken += 1
            self.newest_broken = str(error)
            return []
        if not self._ours(chunk):
            self.counts.foreign += 1
            return []
        model = self._model(chunk.model)
        before = model.counts.duplicates
        events = model.chunk(chunk, offset, wall_ms)
        if self._early and model.timeline.watermark_ms is not None:  # the first one that knows what time it is
            model.labels(list(self._early))
            self._early.clear()
        if model.counts.duplicates > before:
            self.counts.duplicate += 1
        else:
            self.counts.merged += 1
        return events

    def labels(self, records: Sequence[tuple[int, int, bytes | None]]) -> None:
        """Take in messages of the labels topic: partition, offset and value of each."""
        if not self.models:
            self._early.extend(records)  # labels may be there before the first prediction
        for model in self.models.values():
            model.labels(records)

    def rebuilt(self, labels: Mapping[int, int]) -> None:
        """The rebuild is over: labels up to these positions were read."""
        for model in self.models.values():
            if model.outcomes is not None:
                model.outcomes.reread(labels)

    def overview(self, wall_ms: int) -> Document:
        """What the page shows of these models."""
        return overview(list(self.models.values()), self.counts, self.settings, wall_ms)

    def column(self, model: str, version: str, window_s: float, segment: str, name: str) -> Document | None:
        """One column in detail; None when it is not known."""
        found = self.models.get(model)
        return None if found is None else column_document(found, version, window_s, segment, name)

    def metrics(self) -> Document:
        """Figures for Prometheus: see `figures`."""
        return figures(list(self.models.values()), self.counts)

    def _ours(self, chunk: SampleChunk) -> bool:
        return chunk.pipeline == self._pipeline and (chunk.model in self.models or len(self.models) < MAX_MODELS)

    def _model(self, name: str) -> ModelMonitor:
        if name not in self.models:
            self.models[name] = ModelMonitor(self._pipeline, name, self._drift, self._references)
        return self.models[name]
