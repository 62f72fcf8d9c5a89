"""A user's view: a pipeline of one's own, tested in memory."""

from __future__ import annotations

import importlib
import pkgutil

import orjson

import streamserve.testing
from streamserve.testing import FunctionEngine, MemoryBroker, MemoryWorker, memory_settings
from tests.memory import DOUBLE, doubled, topics


def test_events_become_predictions_and_bad_ones_dead_letters():
    broker = topics(MemoryBroker(), 2)
    for n in range(5):
        broker.produce("events", b'{"x": %d}' % n, key=b"k%d" % n, partition=n % 2)
    broker.produce("events", b"no json", partition=1)
    with MemoryWorker(memory_settings([{"name": "x"}]), FunctionEngine(doubled, DOUBLE), broker) as worker:
        predictions = broker.wait_records("predictions", 5)
        (letter,) = broker.wait_records("dead", 1)
    assert worker.failure is None
    assert {r.key: orjson.loads(r.value)["outputs"]["y"] for r in predictions} == {
        b"k0": 0,
        b"k1": 2,
        b"k2": 4,
        b"k3": 6,
        b"k4": 8,
    }
    assert letter.value == b"no json"
    assert dict(letter.headers)["streamserve.reason"] == b"decode"


def test_every_public_twin_is_exported():
    package = streamserve.testing
    defined = set()
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        defined |= {
            name
            for name, value in vars(loaded).items()
            if isinstance(value, type) and value.__module__ == loaded.__name__ and not name.startswith("_")
        }
    assert defined <= set(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
