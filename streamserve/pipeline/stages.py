"""What happens to one batch between poll and produce: decode, enrich, infer, encode.

Pure but for the engine. The stages run in the compute thread, one batch at a time; every row comes out as a
prediction or as a reject, and the law *consumed = predicted + rejected* is checked here for every batch, because a
row that vanishes would be committed and lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from time import perf_counter

from streamserve.batch import (
    CacheBatch,
    EventBatch,
    Headers,
    OutboundBatch,
    Positions,
    RecordBatch,
    Reject,
    SampleBatch,
    TopicPartition,
)
from streamserve.errors import StreamServeError
from streamserve.pipeline.infer import InferStage
from streamserve.ports import Decoder, Encoder, Enricher, RejectEncoder
from streamserve.telemetry.metrics import WorkerMetrics

CacheEntries = Callable[[EventBatch, OutboundBatch], CacheBatch]
"""Makes cache entries of encoded predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """A batch that is ready to be written.

    Attributes:
        records: where it came from; carries the epochs.
        positions: the position after it, per partition that is still ours.
        outbound: predictions first, then dead letters, if any.
        consumed: how many records, predicted or rejected.
        predicted: how many predictions.
        rejects: all rejects.
        cache: entries for the cache once all of it is committed.
        samples: what the drift monitor's samples are taken of, when there is one.
    """

    records: RecordBatch
    positions: Positions
    outbound: tuple[OutboundBatch, ...]
    consumed: int
    predicted: int
    rejects: list[Reject]
    cache: CacheBatch | None
    samples: SampleBatch | None = None

    def without(self, stale: set[TopicPartition]) -> ScoredBatch | None:
        """The batch less the rows of partitions that are no longer ours; None when nothing is left."""
        left = {tp: position for tp, position in self.positions.items() if tp not in stale}
        if not left:
            return None
        places = zip(self.records.topic, self.records.partition, strict=True)
        keep = {row for row, place in enumerate(places) if place in left}
        rejects = [reject for reject in self.rejects if reject.row in keep]
        return replace(
            self,
            positions=left,
            outbound=tuple(part.take(_positions_of(keep, part.row)) for part in self.outbound),
            consumed=len(keep),
            predicted=len(keep) - len(rejects),
            rejects=rejects,
            cache=self.cache.take(_positions_of(keep, self.cache.row)) if self.cache else None,
            samples=self.samples.without(stale) if self.samples is not None else None,
        )


def _positions_of(keep: set[int], rows: list[int]) -> list[int]:
    return [i for i, row in enumerate(rows) if row in keep]


class Stages:
    """The compute thread's work on one batch.

    Args:
        decoder, enricher, infer, encoder, reject_encoder: the stages.
        max_output_bytes: a larger prediction would be refused by the brokers, and becomes a reject instead.
        metrics: counts and durations.
        cache_entries: makes the cache's part, when there is a cache.
        sampled: whether samples will be taken of the batches.
    """

    def __init__(
        self,
        *,
        decoder: Decoder,
        enricher: Enricher,
        infer: InferStage,
        encoder: Encoder,
        reject_encoder: RejectEncoder,
        max_output_bytes: int,
        metrics: WorkerMetrics,
        cache_entries: CacheEntries | None = None,
        sampled: bool = False,
    ) -> None:
        self._decoder = decoder
        self._enricher = enricher
        self._infer = infer
        self._encoder = encoder
        self._reject_encoder = reject_encoder
        self._max_output_bytes = max_output_bytes
        self._metrics = metrics
        self._cache_entries = cache_entries
        self._sampled = sampled

    def score(self, records: RecordBatch) -> ScoredBatch:
        """Every row to a prediction or a dead letter."""
        metrics = self._metrics
        start_s = perf_counter()
        events, rejects = self._decoder.decode(records)
        decoded_s = perf_counter()
        features, bad = self._enricher.enrich(events)
        rejects += bad
        enriched_s = perf_counter()
        predictions, bad = self._infer.run(features)
        rejects += bad
        inferred_s = perf_counter()
        outbound, bad = self._encoder.encode(predictions)
        rejects += bad
        if self._may_be_oversized(outbound):
            outbound, bad = self._without_oversized(outbound)
            rejects += bad
        cache = self._cache_entries(predictions.events, outbound) if self._cache_entries and len(outbound) else None
        rejects.sort(
            key=attrgetter("row")
        )  # each stage added its own; dead letters stand in the order of their records
        letters = (self._reject_encoder.encode(records, rejects),) if rejects else ()
        encoded_s = perf_counter()

        if len(outbound) + len(rejects) != len(records):
            raise StreamServeError(
                f"{len(records)} records became {len(outbound)} predictions and {len(rejects)} rejects; nothing of the"
                " batch is committed. This is a defect of a stage: please report it"
            )
        metrics.decode_seconds.observe(decoded_s - start_s)
        metrics.enrich_seconds.observe(enriched_s - decoded_s)
        metrics.infer_seconds.observe(inferred_s - enriched_s)
        metrics.encode_seconds.observe(encoded_s - inferred_s)
        metrics.batch_size.observe(len(features))
        metrics.inference_executions.inc()
        return ScoredBatch(
            records=records,
            positions=records.next_positions(),
            outbound=(outbound, *letters) if len(outbound) else letters,
            consumed=len(records),
            predicted=len(outbound),
            rejects=rejects,
            cache=cache,
            samples=SampleBatch(predictions=predictions, row=outbound.row) if self._sampled else None,
        )

    def _may_be_oversized(self, outbound: OutboundBatch) -> bool:
        longest = max(map(len, filter(None, outbound.value)), default=0)
        longest += max(map(len, filter(None, outbound.key)), default=0)
        longest += max(map(_header_bytes, filter(None, outbound.headers or ())), default=0)
        return longest > self._max_output_bytes

    def _without_oversized(self, outbound: OutboundBatch) -> tuple[OutboundBatch, list[Reject]]:
        keep, rejects = [], []
        headers = outbound.headers or [None] * len(outbound)
        for i, (key, value, extra) in enumerate(zip(outbound.key, outbound.value, headers, strict=True)):
            size = len(key or b"") + len(value or b"") + _header_bytes(extra or [])
            if size <= self._max_output_bytes:
                keep.append(i)
                continue
            detail = f"the prediction has {size} bytes, {outbound.topic} takes {self._max_output_bytes}"
            rejects.append(Reject(row=outbound.row[i], stage="encode", reason="too_large", detail=detail))
        return (outbound.take(keep), rejects) if rejects else (outbound, rejects)


def _header_bytes(headers: Headers) -> int:
    return sum([len(name) + len(value or b"") for name, value in headers])
