"""A version's drift reference is looked at when the version is loaded, and never again by the flush thread."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from benchmarks import models
from streamserve.app import Slot, build_sampler
from streamserve.batch import ModelIdentity
from streamserve.clock import SystemClock
from streamserve.composition.models import resolve_model
from streamserve.errors import ModelCorrupt
from streamserve.kafka.facts import TopicFacts
from streamserve.pipeline.assignment import Assignment
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing import memory_settings
from streamserve.worker.quarantine import Quarantine
from tests.unit.drift.scored import batch, line


@pytest.fixture
def settings(tmp_path):
    models.save(models.mlp(seed=1), tmp_path / "m" / "1")
    return memory_settings(
        [{"name": f"x{i}"} for i in range(16)],
        model={"name": "m", "repository": str(tmp_path), "version": 1},
        engine={"max_batch_size": 4},
        drift={"samples_per_s": "all"},
    )


@pytest.fixture
def builder(settings, tmp_path):
    """As a slot has it."""
    slot = Slot(settings, "w-0", 0, Log.open())
    metrics = VersionMetrics(CollectorRegistry(), pipeline="p", model="m", version="1")
    with ExitStack() as stack:
        yield slot._builder(stack, tmp_path, Quarantine.load(tmp_path, "w-0"), None, metrics)


def test_a_broken_reference_is_a_refused_load(settings, builder, tmp_path):
    (tmp_path / "m" / "1" / "reference.json").write_text("{")
    with pytest.raises(ModelCorrupt, match=r"reference\.json"):
        builder.build(resolve_model(settings))


def test_the_first_sample_of_a_version_reads_no_file(settings, builder, tmp_path):
    builder.build(resolve_model(settings))
    (tmp_path / "m" / "1" / "reference.json").write_text("{")  # broken after the load
    facts = TopicFacts(partitions={"events": 1, "memory.samples": 1}, max_bytes={"memory.samples": 1 << 20})
    sampler = build_sampler(settings, facts, builder, Assignment(SystemClock()))
    taken = batch(line(0, 0, 3), bad=(0, 1, 2), model=ModelIdentity(name="m", version="1"))
    assert sampler.sample([(taken, [])], 0.0, 0) is not None
