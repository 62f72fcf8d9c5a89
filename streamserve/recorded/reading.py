"""The newest recorded rows of a pipeline, read from its samples topic outside of any group."""

from __future__ import annotations

from collections.abc import Callable

from streamserve.config.drift_topics import drift_topics
from streamserve.config.settings import PipelineSettings
from streamserve.drift.chunk import ChunkError, SampleChunk, decode
from streamserve.errors import ContractError
from streamserve.kafka.clients import reader_properties
from streamserve.kafka.reading import StoredRecord, TopicReader
from streamserve.ports import Signature
from streamserve.recorded.rows import RecordedRows, check_recorded, recorded_rows

FIRST_CHUNKS = 16
"""Chunks looked at first; four times as many each time they hold too few rows."""


def recorded_inputs(
    settings: PipelineSettings,
    signature: Signature,
    *,
    rows: int,
    version: str | None = None,
    topic: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> RecordedRows:
    """The newest rows on the samples topic, as inputs of this signature.

    Args:
        settings: the pipeline.
        signature: what the features fill, the model's or what the hook before it takes; the model need not be the one
            that scored the rows.
        rows: at most so many.
        version: only rows that this version scored; default all but those of a shadow.
        topic: the samples topic; default the pipeline's.
        stop: asked now and then; ends the reading early.

    Raises:
        BrokerUnavailable: no broker answers.
        SourceError: there is no such topic.
        ConfigError: `drift.pii` keeps a feature out of the samples.
        ContractError: the topic holds no rows of the pipeline's model, or they do not fit.
    """
    check_recorded(settings)
    topic = topic or drift_topics(settings).samples
    chunks = _newest(settings, topic, rows, version, stop)
    if not chunks:
        whose = f"version {version}" if version is not None else f"model {settings.model.name}"
        raise ContractError(
            f"{topic} holds no sampled rows of {whose}: run the pipeline with a `drift` block for a while, or give"
            " events from a file"
        )
    return recorded_rows(chunks, settings, signature, rows=rows)


def _newest(
    settings: PipelineSettings, topic: str, rows: int, version: str | None, stop: Callable[[], bool]
) -> list[SampleChunk]:
    """The newest chunks with at least `rows` rows between them, or all there are; in the order of their writing."""
    chunks: dict[str, SampleChunk] = {}

    def wanted(record: StoredRecord) -> bool:
        try:
            chunk = decode(record.value or b"")
        except ChunkError:
            return False
        mine = (chunk.pipeline, chunk.model) == (settings.pipeline, settings.model.name) and len(chunk) > 0
        if not mine or (chunk.role == "shadow" if version is None else chunk.version != version):
            return False
        chunks[record.position] = chunk
        return True

    count = FIRST_CHUNKS
    with TopicReader(reader_properties(settings, group=f"{settings.pipeline}.recorded"), topic) as reader:
        extents = reader.extents()
        while True:
            chunks.clear()
            found = [chunks[record.position] for record in reader.newest(count, extents, wanted, stop)]
            if len(found) < count or sum(map(len, found)) >= rows:
                return found
            count *= 4
