"""How batches are made: the growing batch, and with a latency goal what bounds it and sorts out late records."""

from __future__ import annotations

from typing import NamedTuple

from streamserve.clock import Clock
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines import on_gpu
from streamserve.pipeline.batcher import Batcher
from streamserve.pipeline.lateness import Lateness
from streamserve.pipeline.serving import Deployment
from streamserve.pipeline.slo import SloPlanner
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics

MAILBOX_BATCHES = 4
"""Full batches that may wait between poll and compute."""


class Batching(NamedTuple):
    """The parts; the last two are None without `engine.slo_ms`, and nothing is done for a goal then."""

    batcher: Batcher
    slo: SloPlanner | None = None
    lateness: Lateness | None = None


def build_batching(engine: EngineSettings, metrics: VersionMetrics, clock: Clock, log: Log) -> Batching:
    """The parts for these settings."""
    slo = None
    if engine.slo_ms is not None:
        slo = SloPlanner(
            slo_s=engine.slo_ms / 1000,
            catch_up_lag_s=engine.catch_up_lag_s,
            max_rows=engine.max_batch_size,
            clock=clock,
            metrics=metrics,
            log=log,
        )
    batcher = Batcher(
        max_size=engine.max_batch_size,
        max_bytes=engine.max_batch_bytes,
        max_delay_s=engine.max_delay_ms / 1000,
        capacity=MAILBOX_BATCHES * engine.max_batch_size,
        planner=slo,
    )
    return Batching(batcher, slo, Lateness(engine.late, slo, clock) if slo is not None else None)


def in_flight(engine: EngineSettings, deployment: Deployment) -> int:
    """Most batches between mailbox and outbox: what is set, else 2 on a GPU, where the cores are free meanwhile."""
    return engine.in_flight or (2 if on_gpu(deployment.routes[0].model.infer.engine) else 1)
