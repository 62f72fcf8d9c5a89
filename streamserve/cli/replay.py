"""`streamserve replay`: input records scored once more by another version, beside what was predicted then.

Reads the input topic at offsets that are still there, and the predictions topic, outside of any group; writes nothing
to Kafka. With `--out` the new predictions go to a file, in the form of the predictions topic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import typer

from streamserve.cli.console import emit_json, say, show, show_table
from streamserve.cli.drift_range import Offsets, OffsetsOption, parse_range
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.options import DEFAULT_CONFIG, ConfigOption, Format, FormatOption, SetOption, parse_set
from streamserve.config.loading import load

if TYPE_CHECKING:
    from streamserve.batch import RecordBatch, Tensor, Tensors
    from streamserve.composition.trial import Bench
    from streamserve.config.settings import PipelineSettings
    from streamserve.kafka.reading import Start, StoredRecord
    from streamserve.pipeline.serving import LoadedModel
    from streamserve.recorded.compare import Comparison

BATCH = 4096
Place = tuple[str, int, int]
"""Topic, partition and offset of an input record."""


class _Position(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int


class _Prediction(msgspec.Struct, frozen=True):
    version: str
    outputs: dict[str, object]
    source: _Position

    @property
    def place(self) -> Place:
        return self.source.topic, self.source.partition, self.source.offset


Predictions = dict[Place, _Prediction]


def command(
    offsets: OffsetsOption,
    model_version: Annotated[str, typer.Option(help="latest, a number, or an alias: who scores now.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    against: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Beside which version. Default: what was predicted then.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write its predictions, one JSON a line.")] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Score a range of input records with another version, and compare."""
    if not offsets:
        raise typer.BadParameter("name at least one range", param_hint="--offsets")
    wanted = parse_range(None, None, offsets).offsets
    settings = load(config, parse_set(set_)).settings
    from streamserve.composition.trial import Bench

    bench = Bench(settings)
    with Interrupts() as stop:
        records = list(_input(settings, wanted, stop))
        new, rejects = _rescored(bench, bench.load(model_version), settings, records, out)
        if against is not None:
            old, _ = _rescored(bench, bench.load(against), settings, records, None)
        else:
            old = _predicted_then(settings, records, stop)
    comparison = _compare(old, new)
    before = Counter(old[place].version for place in old.keys() & new.keys())
    if format is Format.JSON:
        emit_json(
            {
                "records": len(records),
                "scored": len(new),
                "rejected": dict(rejects),
                "beside": dict(before),
                "outputs": comparison.document() if comparison is not None else [],
            }
        )
        return
    beside = ", ".join(f"version {version} ({count:,})" for version, count in sorted(before.items())) or "nothing"
    show(f"{len(records):,} records, {len(new):,} scored by version {model_version}; beside {beside}")
    if comparison is not None:
        show_table(*comparison.table())
    for (stage, reason), count in sorted(rejects.items()):
        say(f"{count:,} rejected: {stage} {reason}")


def _input(settings: PipelineSettings, wanted: Offsets, stop: Callable[[], bool]) -> Iterator[StoredRecord]:
    """The input records of the ranges."""
    from streamserve.kafka.clients import reader_properties
    from streamserve.kafka.reading import TopicReader

    properties = reader_properties(settings, group=f"{settings.pipeline}.replay")
    for topic in sorted({topic for topic, _ in wanted}):
        with TopicReader(properties, topic) as reader:
            extents = reader.extents()
            mine = {partition: span for (name, partition), span in wanted.items() if name == topic}
            missing = sorted(mine.keys() - extents.keys())
            if missing:
                raise typer.BadParameter(f"{topic} has no partition {missing[0]}", param_hint="--offsets")
            starts = {partition: max(first, extents[partition].low) for partition, (first, _) in mine.items()}
            ends = {partition: min(end, extents[partition].high) for partition, (_, end) in mine.items()}
            gone = sum(max(0, starts[p] - first) for p, (first, _) in mine.items())
            if gone:
                say(f"{topic}: {gone:,} offsets are gone by retention")
            ahead = [p for p, (_, end) in sorted(mine.items()) if end > extents[p].high]
            if ahead:
                say(f"{topic}: partition {', '.join(map(str, ahead))} ends before the range does")
            yield from reader.read(starts, ends, stop)


def _rescored(
    bench: Bench,
    model: LoadedModel,
    settings: PipelineSettings,
    records: Sequence[StoredRecord],
    out: Path | None,
) -> tuple[Predictions, Counter[tuple[str, str]]]:
    """What a version makes of the records, and how many it rejects, by stage and reason."""
    from streamserve.codecs import build_decoder

    decoder = build_decoder(settings)
    found: Predictions = {}
    rejects: Counter[tuple[str, str]] = Counter()
    documents: list[bytes] = []
    rest = iter(records)
    while some := list(islice(rest, BATCH)):
        events, undecodable = decoder.decode(_batch(some))
        scored = bench.score(model, events)
        rejects.update((reject.stage, reject.reason) for reject in [*undecodable, *scored.rejects])
        documents += scored.documents
        found |= {made.place: made for made in map(_decode, scored.documents)}
    if out is not None:
        out.write_bytes(b"".join(document + b"\n" for document in documents))
    return found, rejects


def _predicted_then(
    settings: PipelineSettings, records: Sequence[StoredRecord], stop: Callable[[], bool]
) -> Predictions:
    """The predictions of these records as they stand on the predictions topic; the newest of each."""
    from streamserve.kafka.clients import reader_properties
    from streamserve.kafka.reading import read_topic

    wanted = {(record.topic, record.partition, record.offset) for record in records}
    oldest_ms = min((record.timestamp_ms for record in records), default=-1)
    properties = reader_properties(settings, group=f"{settings.pipeline}.replay")
    found: Predictions = {}
    start: Start = oldest_ms if oldest_ms >= 0 else "beginning"
    for record in read_topic(properties, settings.output.topic, start, stop=stop):  # none is written before its event
        try:
            made = _decode(record.value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if made.place in wanted:
            found[made.place] = made
    return found


def _compare(old: Predictions, new: Predictions) -> Comparison | None:
    """Outputs of the records that both sides predicted."""
    from streamserve.recorded.compare import compare

    both = sorted(old.keys() & new.keys())
    if not both:
        return None
    names = [name for name in new[both[0]].outputs if name in old[both[0]].outputs]
    return compare(_columns(old, both, names), _columns(new, both, names)) if names else None


def _columns(predictions: Predictions, places: Sequence[Place], names: Sequence[str]) -> Tensors:
    return {name: _column([predictions[place].outputs.get(name) for place in places]) for name in names}


def _column(values: Sequence[object]) -> Tensor:
    """JSON values as an array: booleans, numbers (lists of them as rows), or else whatever they are."""
    if all(isinstance(value, bool) for value in values):
        return np.array(values, dtype=np.bool_)
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        column = np.empty(len(values), dtype=object)
        column[:] = [value if value is None else str(value) for value in values]
        return column


def _decode(document: bytes) -> _Prediction:
    return msgspec.json.decode(document, type=_Prediction)


def _batch(records: Sequence[StoredRecord]) -> RecordBatch:
    from streamserve.batch import Headers, RecordBatch

    headers: list[Headers | None] = [list(record.headers) or None for record in records]
    return RecordBatch(
        topic=[record.topic for record in records],
        partition=[record.partition for record in records],
        offset=[record.offset for record in records],
        timestamp_ms=[record.timestamp_ms for record in records],
        key=[record.key for record in records],
        value=[record.value for record in records],
        headers=lambda: headers,
    )
