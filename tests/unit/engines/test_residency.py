"""Loaded versions under a budget, with real sessions: who is dropped, when, and that the memory comes back."""

import gc
import io

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from benchmarks import models
from streamserve.composition.models import ModelBuilder
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.memory import resident_bytes
from streamserve.engines.onnx import OnnxEngine
from streamserve.engines.residency import Residency
from streamserve.errors import EngineError, ModelCorrupt
from streamserve.telemetry.logs import Log
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing import MemoryFiles, memory_settings

MIB = 1 << 20
CPU = EngineSettings(device="cpu", max_batch_size=64)
SIZES = (16, 1024, 1024, 1)
"""About 4 MiB of weights."""


class Nothing:
    def enter(self, records, rows):
        pass

    def leave(self):
        pass

    def split(self, records):
        return None


@pytest.fixture
def world(tmp_path):
    return lambda budget_mb, **options: World(tmp_path, budget_mb, **options)


class World:
    """A residency over files of real models, `sizes` each."""

    def __init__(self, folder, budget_mb, sizes=SIZES, measure=lambda: 0):
        self.folder = folder
        self.sizes = sizes
        self.registry = CollectorRegistry()
        self.metrics = VersionMetrics(self.registry, pipeline="p", model="m", version="1")
        self.log = io.StringIO()
        settings = memory_settings({"field": "x", "size": 16}, engine={"max_batch_size": 64})
        builder = ModelBuilder(
            settings,
            load=lambda files, _on_padding: OnnxEngine(files.path, CPU),
            journal=Nothing(),
            quarantine=Nothing(),
            metrics=self.metrics,
        )
        self.residency = Residency(
            self.files,
            builder.build,
            budget_bytes=budget_mb * MIB if budget_mb is not None else None,
            metrics=self.metrics,
            log=Log.open(stream=self.log, format="json"),
            measure=measure,
        )

    def files(self, version):
        path = self.folder / f"{version}.onnx"
        if not path.exists():
            models.save(models.mlp(self.sizes, seed=int(version)), self.folder, path.name)
        return MemoryFiles(name="m", version=version, path=str(path), size_bytes=path.stat().st_size)

    def serve(self, version):
        """Load it and have it alone serve, as a switch does."""
        model = self.residency.get(version, serving=set(self.residency.versions[-1:]))
        self.residency.keep([version], [version])
        return model

    def value(self, name, version):
        return self.registry.get_sample_value(
            f"streamserve_{name}", {"pipeline": "p", "model": "m", "version": version}
        )


def rows(n=8):
    return {"x": np.ones((n, 16), np.float32)}


def test_two_models_under_a_budget_that_fits_one_evict_and_reload_with_the_metric_right(world):
    world = world(6)
    for version in ("1", "2", "1", "2"):
        world.serve(version)
    assert (world.value("model_loads_total", "1"), world.value("model_loads_total", "2")) == (2, 2)
    assert (world.value("model_evictions_total", "1"), world.value("model_evictions_total", "2")) == (2, 1)
    assert world.residency.versions == ("2",)
    assert world.value("models_loaded", "1") == 1
    assert world.value("model_memory_bytes", "1") is None
    assert world.value("model_memory_bytes", "2") > 4 * MIB


def test_what_fits_stays_and_a_way_back_needs_no_load(world):
    world = world(10)
    for version in ("1", "2", "1", "2"):
        world.serve(version)
    assert (world.value("model_loads_total", "1"), world.value("model_evictions_total", "1")) == (1, 0)
    assert world.value("models_loaded", "1") == 2


def test_the_least_recently_used_goes_first(world):
    world = world(10)
    for version in ("1", "2", "1", "3"):
        world.serve(version)
    assert world.residency.versions == ("1", "3")


def test_what_serves_is_never_dropped_though_it_is_larger_than_the_budget(world):
    world = world(1)
    first = world.serve("1")
    assert world.residency.versions == ("1",)
    first.infer.engine.infer(rows())
    assert not world.residency.fits("2")


def test_without_a_budget_what_is_needed_stays_and_nothing_else(world):
    world = world(None)
    world.serve("1")
    world.residency.get("2", serving=["1"])
    world.residency.keep(["2"], ["2", "1"])
    assert set(world.residency.versions) == {"1", "2"}
    world.residency.keep(["2"], ["2"])
    assert world.residency.versions == ("2",)


def test_an_engine_is_closed_only_when_the_last_batch_has_let_go_of_its_model(world):
    world = world(6)
    on_its_way = world.serve("1")
    engine = on_its_way.infer.engine
    world.serve("2")
    world.residency.sweep()
    engine.infer(rows())
    del on_its_way
    gc.collect()
    world.residency.sweep()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(rows())


def test_what_a_version_takes_is_what_memory_grew_by_and_at_least_its_files(world):
    readings = iter([100 * MIB, 130 * MIB, 130 * MIB, 130 * MIB])
    world = world(None, measure=lambda: next(readings))
    world.residency.get("1", serving=[])
    assert world.value("model_memory_bytes", "1") == 30 * MIB
    world.residency.get("2", serving=[])
    assert world.value("model_memory_bytes", "2") == world.files("2").size_bytes


def test_a_version_that_cannot_be_loaded_is_counted_and_leaves_nothing(world):
    """Triton #8969: failed loads leak for ever."""
    world = world(None, measure=resident_bytes)
    path = world.folder / "7.onnx"
    world.files("7")
    path.write_bytes(path.read_bytes()[:-1000])
    for _ in range(3):
        with pytest.raises(ModelCorrupt):
            world.residency.get("7", serving=[])
    assert world.value("model_load_failures_total", "7") == 3
    assert world.value("model_loads_total", "7") == 0
    assert world.residency.versions == ()


@pytest.mark.slow
def test_after_a_hundred_swaps_under_a_budget_memory_is_what_it_was_after_ten(world):
    """Triton #5841, #4966, #6836: memory that is not given back at an unload."""
    world = world(6, measure=resident_bytes)
    resident = []
    for cycle in range(100):
        world.serve(str(1 + cycle % 2)).infer.engine.infer(rows(64))
        resident.append(resident_bytes())
    assert resident[99] - resident[9] < 20 * MIB
