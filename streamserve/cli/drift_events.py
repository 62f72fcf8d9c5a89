"""An event topic as events of a pipeline: committed records, read by the pipeline's own decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from streamserve.batch import RecordBatch
from streamserve.cli.drift_range import Range
from streamserve.cli.drift_scoring import EventPart
from streamserve.codecs import build_decoder
from streamserve.config.settings import PipelineSettings
from streamserve.kafka.clients import reader_properties
from streamserve.kafka.reading import StoredRecord, TopicReader

PART_RECORDS: Final = 4096


def topic_parts(settings: PipelineSettings, topic: str, wanted: Range, stop: Callable[[], bool]) -> Iterator[EventPart]:
    """The events of a topic from the start of a range to the topic's end.

    Args:
        settings: the pipeline.
        topic: in the pipeline's input format.
        wanted: records from an hour before its start are read, and all after that: an event may come late.
        stop: asked at least every 0.2 s.

    Raises:
        BrokerUnavailable: no broker answers.
        SourceError: the topic does not exist, or a record cannot be read.
    """
    decoder = build_decoder(settings)
    with TopicReader(reader_properties(settings, group=f"{settings.pipeline}.drift"), topic) as reader:
        extents = reader.extents()
        since_ms = wanted.reads_from_ms
        starts = reader.positions("beginning" if since_ms is None else since_ms, extents)
        records = reader.read(starts, {partition: extent.high for partition, extent in extents.items()}, stop)
        while some := list(islice(records, PART_RECORDS)):
            events, rejects = decoder.decode(_batch(some))
            yield EventPart(events=events, rejects=rejects)


def _batch(records: list[StoredRecord]) -> RecordBatch:
    return RecordBatch(
        topic=[record.topic for record in records],
        partition=[record.partition for record in records],
        offset=[record.offset for record in records],
        timestamp_ms=[record.timestamp_ms for record in records],
        key=[record.key for record in records],
        value=[record.value for record in records],
    )
