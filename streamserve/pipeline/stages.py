"""What happens to one batch between poll and produce: decode, enrich, infer, encode.

Pure but for the engine. Every row comes out as a prediction or as a reject, and the law *consumed = predicted +
rejected* is checked here for every batch, because a row that vanishes would be committed and lost.

A batch goes through three steps, so that one batch can be prepared while another is in the engine: `prepare` (decode,
look up the deployment, sort out late records, route, enrich), `infer`, `finish` (post-process, encode, dead letters).
The rows of one route are a leg; without a canary, an experiment or late records there is one leg, and no row is copied
for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from time import perf_counter
from typing import Protocol

from streamserve.batch import (
    CacheBatch,
    EventBatch,
    FeatureBatch,
    Headers,
    ModelIdentity,
    OutboundBatch,
    Positions,
    PredictionBatch,
    RecordBatch,
    Reject,
    SampleBatch,
    TopicPartition,
)
from streamserve.errors import StreamServeError
from streamserve.pipeline.lateness import Admission, Lateness, LateRows
from streamserve.pipeline.ratio import Tally
from streamserve.pipeline.serving import Deployment, Deployments, Route
from streamserve.ports import Decoder, RejectEncoder
from streamserve.telemetry.metrics import WorkerMetrics

CacheEntries = Callable[[EventBatch, OutboundBatch], CacheBatch]
"""Makes cache entries of encoded predictions."""
RejectEncoders = Callable[[ModelIdentity], RejectEncoder]
"""The encoder of dead letters that name this model."""

BEFORE_ROUTES = frozenset({"poll", "decode"})
"""Stages that know no version: their rejects are the records' own fault."""

TIMING_SHARE = 1 / 8
"""Of the time that versions other than the stable one take, so much goes into timing the stable one on their rows: on
one batch in eight when they are as fast, on every batch when they are eight times slower."""


class Shadow(Protocol):
    """Scores what was scored once more, beside; must return at once and never raise."""

    def offer(self, route: Route, events: EventBatch, predictions: Sequence[PredictionBatch]) -> None:
        """These events, as decoded, and what was predicted for them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLeg:
    """What one version made of its rows.

    Attributes:
        model: who.
        metrics: its own.
        row: rows of the records whose predictions are produced, ascending.
        rejects: the other rows of it.
        inferred: how many rows the model got in one call, and `infer_s`, how many seconds that took.
        stable_s: seconds that the stable version takes for the same rows, when it was timed.
        samples: what the drift monitor's samples are taken of, when there is one.
    """

    model: ModelIdentity
    metrics: WorkerMetrics
    row: list[int]
    rejects: list[Reject]
    inferred: int = 0
    infer_s: float = 0.0
    stable_s: float | None = None
    samples: SampleBatch | None = None

    def without(self, keep: set[int], stale: set[TopicPartition]) -> ScoredLeg:
        """The leg less the rows of partitions that are no longer ours."""
        return replace(
            self,
            row=[row for row in self.row if row in keep],
            rejects=[reject for reject in self.rejects if reject.row in keep],
            samples=self.samples.without(stale) if self.samples is not None else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """A batch that is ready to be written.

    Attributes:
        records: where it came from; carries the epochs.
        positions: the position after it, per partition that is still ours.
        outbound: predictions first, then dead letters, if any; rows ascending in each.
        consumed: how many records, predicted or rejected.
        legs: what each version made of it; a row is in one of them.
        events: what was decoded of it and went to the models.
        cache: entries for the cache once all of it is committed.
        revision: of the deployment that scored it.
        late: rows that could not make the latency goal any more; None when none was.
        compute_s: seconds of the three steps together, waiting between them left out.
        ready_s: when it was finished, on the clock of `time.perf_counter`.
    """

    records: RecordBatch
    positions: Positions
    outbound: tuple[OutboundBatch, ...]
    consumed: int
    legs: tuple[ScoredLeg, ...]
    cache: CacheBatch | None
    events: EventBatch | None = None
    revision: int = -1
    late: LateRows | None = None
    compute_s: float = 0.0
    ready_s: float = 0.0

    @property
    def predicted(self) -> int:
        """How many predictions."""
        return sum(len(leg.row) for leg in self.legs)

    @property
    def tally(self) -> Tally:
        """What speaks against the records or the stable version; rejects of the others are the guard's business.

        Records that came too late speak against neither.
        """
        late = len(self.late.rows) if self.late is not None and self.late.outcome == "dead_letter" else 0
        own = [leg for leg in self.legs if leg.model.version == self.legs[0].model.version]
        refused = sum(reject.stage in BEFORE_ROUTES for leg in own for reject in leg.rejects)
        rejects = sum(len(leg.rejects) for leg in own) - refused
        return Tally(
            records=self.consumed,
            refused=refused,
            scored=sum(len(leg.row) for leg in own) + rejects,
            rejects=rejects - late,
        )

    @property
    def rejects(self) -> list[Reject]:
        """All rejects, in the order of their rows."""
        if len(self.legs) == 1:
            return self.legs[0].rejects
        return sorted((reject for leg in self.legs for reject in leg.rejects), key=attrgetter("row"))

    def without(self, stale: set[TopicPartition]) -> ScoredBatch | None:
        """The batch less the rows of partitions that are no longer ours; None when nothing is left."""
        left = {tp: position for tp, position in self.positions.items() if tp not in stale}
        if not left:
            return None
        places = zip(self.records.topic, self.records.partition, strict=True)
        keep = {row for row, place in enumerate(places) if place in left}
        return replace(
            self,
            positions=left,
            outbound=tuple(part.take(_positions_of(keep, part.row)) for part in self.outbound),
            consumed=len(keep),
            legs=tuple(leg.without(keep, stale) for leg in self.legs),
            cache=self.cache.take(_positions_of(keep, self.cache.row)) if self.cache else None,
            late=LateRows(self.late.outcome, [row for row in self.late.rows if row in keep]) if self.late else None,
        )


def _positions_of(keep: set[int], rows: list[int]) -> list[int]:
    return [i for i, row in enumerate(rows) if row in keep]


@dataclass(slots=True)
class Leg:
    """The rows of one route on their way.

    Attributes:
        route: where they go.
        features: what the model gets; rows that failed before are in `rejects`.
        predictions: what it gave, once it has; late records have their fallback from the start.
        rejects: grows from step to step.
        stable_s: see `ScoredLeg`.
    """

    route: Route
    features: FeatureBatch
    rejects: list[Reject]
    predictions: PredictionBatch | None = None
    stable_s: float | None = None


@dataclass(slots=True)
class Job:
    """A batch on its way through the steps.

    Attributes:
        records: the batch.
        deployment: who scores it.
        events: what was decoded of it and goes to the models.
        refused: rejects from before the routes: undecodable or too late.
        legs: by route.
        late: see `ScoredBatch`.
        spent_s: seconds of the steps so far.
    """

    records: RecordBatch
    deployment: Deployment
    events: EventBatch
    refused: list[Reject]
    legs: list[Leg] = field(default_factory=list)
    late: LateRows | None = None
    spent_s: float = 0.0


class Stages:
    """The work on one batch.

    Args:
        decoder: records to events, whoever scores them.
        deployments: says what serves now.
        reject_encoders: dead letters, by model.
        max_output_bytes: a larger prediction would be refused by the brokers, and becomes a reject instead.
        cache_entries: makes the cache's part, when there is a cache.
        sampled: whether samples will be taken of the batches.
        shadow: where a shadow's work goes.
        lateness: sorts late records out, when there is a latency goal.
        timed: whether the stable version is timed on the rows of the others now and then, for the guard.
    """

    def __init__(
        self,
        *,
        decoder: Decoder,
        deployments: Deployments,
        reject_encoders: RejectEncoders,
        max_output_bytes: int,
        cache_entries: CacheEntries | None = None,
        sampled: bool = False,
        shadow: Shadow | None = None,
        lateness: Lateness | None = None,
        timed: bool = False,
    ) -> None:
        self._decoder = decoder
        self._deployments = deployments
        self._reject_encoders = reject_encoders
        self._max_output_bytes = max_output_bytes
        self._cache_entries = cache_entries
        self._sampled = sampled
        self._shadow = shadow
        self._lateness = lateness
        self._timed = timed
        self._credit_s = 0.0
        self._timing_s = 0.0

    def score(self, records: RecordBatch) -> ScoredBatch:
        """Every row to a prediction or a dead letter: all three steps."""
        job = self.prepare(records)
        self.infer(job)
        return self.finish(job)

    def prepare(self, records: RecordBatch) -> Job:
        """Records to the inputs of the models that serve now."""
        deployment = self._deployments.current
        start_s = perf_counter()
        events, refused = self._decoder.decode(records)
        deployment.routes[0].model.metrics.decode_seconds.observe(perf_counter() - start_s)
        job = Job(records, deployment, events, refused)
        fallback = _admitted(job, self._lateness.admit(events)) if self._lateness is not None else []
        job.legs = [*(_enriched(route, part) for route, part in deployment.parts(job.events)), *fallback]
        job.spent_s = perf_counter() - start_s
        return job

    def infer(self, job: Job) -> None:
        """Inputs to outputs."""
        for leg in job.legs:
            if leg.predictions is not None:
                continue
            start_s = perf_counter()
            model = leg.route.model
            leg.predictions, bad = model.infer.run(leg.features, leg.route.identity)
            leg.rejects += bad
            model.metrics.infer_seconds.observe(perf_counter() - start_s)
            model.metrics.batch_size.observe(len(leg.features))
            model.metrics.inference_executions.inc()
            job.spent_s += perf_counter() - start_s
        if self._timed and len(job.legs) > 1:
            if self._credit_s >= self._timing_s:  # not for this batch's own time: the slow ones would be preferred
                self._timing_s = _time_stable(job)
                self._credit_s = max(0.0, min(self._credit_s, 2 * self._timing_s) - self._timing_s)
            self._credit_s += TIMING_SHARE * sum(leg.predictions.infer_s for leg in job.legs[1:] if leg.predictions)

    def finish(self, job: Job) -> ScoredBatch:
        """Outputs to records, and whatever did not make it to dead letters.

        Raises:
            StreamServeError: a stage lost or invented a row.
        """
        records = job.records
        start_s = perf_counter()
        written: list[OutboundBatch] = []
        letters: list[OutboundBatch] = []
        caches: list[CacheBatch] = []
        legs: list[ScoredLeg] = []
        predictions: list[PredictionBatch] = []
        for number, leg in enumerate(job.legs):
            made, outbound = self._encoded(leg)
            if not made.model.fallback:
                predictions.append(made)
            rejects = sorted([*job.refused, *leg.rejects] if number == 0 else leg.rejects, key=attrgetter("row"))
            if len(outbound):
                written.append(outbound)
                if self._cache_entries is not None:
                    caches.append(self._cache_entries(made.events, outbound))
            if rejects:
                letters.append(self._reject_encoders(leg.route.identity).encode(records, rejects))
            samples = _samples(made, outbound.row, rejects, alone=len(job.legs) == 1) if self._sampled else None
            legs.append(
                ScoredLeg(
                    model=leg.route.identity,
                    metrics=leg.route.model.metrics,
                    row=outbound.row,
                    rejects=rejects,
                    inferred=len(leg.features),
                    infer_s=leg.predictions.infer_s if leg.predictions is not None else 0.0,
                    stable_s=leg.stable_s,
                    samples=samples,
                )
            )
        if sum(map(len, written)) + sum(map(len, letters)) != len(records):
            raise StreamServeError(
                f"{len(records)} records became {sum(map(len, written))} predictions and {sum(map(len, letters))}"
                " rejects; nothing of the batch is committed. This is a defect of a stage: please report it"
            )
        legs[0].metrics.encode_seconds.observe(perf_counter() - start_s)
        if self._shadow is not None and job.deployment.shadow is not None:
            self._shadow.offer(job.deployment.shadow, job.events, predictions)
        return ScoredBatch(
            records=records,
            positions=records.next_positions(),
            outbound=(*_merged(written), *_merged(letters)),
            consumed=len(records),
            legs=tuple(legs),
            cache=CacheBatch.concat(caches) if caches else None,
            events=job.events,
            revision=job.deployment.revision,
            late=job.late,
            compute_s=job.spent_s + perf_counter() - start_s,
            ready_s=perf_counter(),
        )

    def _encoded(self, leg: Leg) -> tuple[PredictionBatch, OutboundBatch]:
        """A leg's predictions as records; rows that cannot be written join its rejects."""
        model, predictions = leg.route.model, leg.predictions
        if predictions is None:
            raise StreamServeError("a batch was finished before it was inferred. This is a defect: please report it")
        if model.after is not None:
            predictions, bad = model.after(predictions)
            leg.rejects += bad
        outbound, bad = model.encoder.encode(predictions)
        leg.rejects += bad
        if self._may_be_oversized(outbound):
            outbound, bad = self._without_oversized(outbound)
            leg.rejects += bad
        return predictions, outbound

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


def _admitted(job: Job, admission: Admission) -> list[Leg]:
    """Late records leave the job's events for the dead letters, or for legs whose predictions are there already."""
    job.events, job.late = admission.events, admission.late
    job.refused += admission.rejects
    legs: list[Leg] = []
    if admission.fallback is None:
        return legs
    for route, events in job.deployment.parts(admission.fallback):
        if not len(events):
            continue
        fallback = route.model.fallback
        if fallback is None:
            raise StreamServeError("a version serves without its fallback. This is a defect: please report it")
        identity = replace(route.identity, fallback=True)
        predictions = PredictionBatch(events=events, outputs=fallback.outputs(len(events)), model=identity)
        features = FeatureBatch(events=events.take([]), inputs={})
        legs.append(Leg(Route(route.model, identity), features, [], predictions))
    return legs


def _enriched(route: Route, events: EventBatch) -> Leg:
    """The inputs of a route's rows."""
    start_s = perf_counter()
    model = route.model
    features, rejects = model.enricher.enrich(events)
    if model.before is not None:
        features, bad = model.before(features)
        rejects = rejects + bad
    model.metrics.enrich_seconds.observe(perf_counter() - start_s)
    return Leg(route, features, rejects)


def _time_stable(job: Job) -> float:
    """What the stable version takes for the rows of the others; its answers are dropped. Returns: seconds of it all."""
    stable = job.legs[0].route
    took_s = 0.0
    for leg in job.legs[1:]:
        if leg.route.identity.fallback:
            continue
        features = _enriched(stable, leg.features.events).features
        answers, _ = stable.model.infer.run(features, stable.identity)
        leg.stable_s = answers.infer_s
        took_s += answers.infer_s
    return took_s


def _samples(predictions: PredictionBatch, row: list[int], rejects: list[Reject], *, alone: bool) -> SampleBatch:
    """What is sampled of a leg; of a fallback's, nothing. The only leg has all rows, and no list of them is made."""
    routed = None if alone else sorted([*row, *(reject.row for reject in rejects)])
    return SampleBatch(predictions=predictions, row=[] if predictions.model.fallback else row, routed=routed)


def _merged(parts: list[OutboundBatch]) -> list[OutboundBatch]:
    """Records of several legs to one topic as one, in the order of their rows: partitions keep their order."""
    if len(parts) <= 1:
        return parts
    whole = OutboundBatch.concat(parts)
    return [whole.take(sorted(range(len(whole)), key=whole.row.__getitem__))]


def _header_bytes(headers: Headers) -> int:
    return sum([len(name) + len(value or b"") for name, value in headers])
