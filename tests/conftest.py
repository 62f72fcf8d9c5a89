"""Fixtures shared by all tests: real services, started once a run, and only if a test asks for them.

`KAFKA_BOOTSTRAP` and `REDIS_URL` name services that run already; otherwise local ones are started. Where Java,
Redis or PyTorch is missing the tests are skipped, and the summary at the end says how many and why.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from streamserve.demo.kafka_jars import ensure_jars, kafka_available
from streamserve.demo.local_kafka import LocalKafka, LocalServiceError
from streamserve.demo.local_redis import LocalRedis, redis_available
from streamserve.kafka.embedded import EmbeddedKafka

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

NO_TORCH = "PyTorch is not installed: scripts/test --torch installs it (5 GB) and runs these too"
SERVICE_FIXTURES = {"kafka": "kafka", "kafka3": "kafka3", "kafka3_session": "kafka3", "redis_server": "redis"}


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """A cluster that tests may use; `local` is None when it was given by KAFKA_BOOTSTRAP."""

    bootstrap: str
    local: LocalKafka | None = None


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A server that tests may use; `local` is None when it was given by REDIS_URL."""

    url: str
    local: LocalRedis | None = None


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    """Skips when this machine cannot run a broker."""
    reason = kafka_available()
    if reason is None:
        try:
            ensure_jars()
        except LocalServiceError as error:
            reason = str(error)
    if reason is not None:
        pytest.skip(f"no Kafka: {reason}")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[KafkaAddress]:
    """One real broker for the whole run. Use `tests.services.unique` for names."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield KafkaAddress(given)
        return
    request.getfixturevalue("kafka_jars")
    with LocalKafka() as cluster:
        yield KafkaAddress(cluster.bootstrap, cluster)


@pytest.fixture(scope="session")
def kafka3_session(kafka_jars: None) -> Iterator[LocalKafka]:
    """Three real brokers for the whole run; tests take `kafka3`, which heals them afterwards."""
    with LocalKafka(3) as cluster:
        yield cluster


@pytest.fixture
def kafka3(kafka3_session: LocalKafka) -> Iterator[LocalKafka]:
    """Three real brokers, whole; a broker that the test killed or paused is back for the next test."""
    yield kafka3_session
    for broker in kafka3_session.brokers:
        if broker.alive:
            broker.resume()
        else:
            broker.restart()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisAddress]:
    """One real Redis for the whole run. Use `tests.services.unique` for keys."""
    given = os.environ.get("REDIS_URL")
    if given:
        yield RedisAddress(given)
        return
    reason = redis_available()
    if reason is not None:
        pytest.skip(f"no Redis: {reason}")
    with LocalRedis() as server:
        yield RedisAddress(server.url, server)


@pytest.fixture
def embedded_kafka() -> Iterator[EmbeddedKafka]:
    """librdkafka's mock cluster: a fifth of a second, no Java, but proves nothing about transactions."""
    with EmbeddedKafka() as cluster:
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the services that they use, so that `-m "not kafka3"` works without bookkeeping.

    Tests marked `torch` are left out where it is not installed; their modules import it inside fixtures and tests.
    """
    without_torch = importlib.util.find_spec("torch") is None
    for item in items:
        if without_torch and item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason=NO_TORCH))
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in SERVICE_FIXTURES:
                item.add_marker(SERVICE_FIXTURES[fixture])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested here."""
    reasons = Counter(
        report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        terminalreporter.section(f"{sum(reasons.values())} tests skipped")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5d}  {reason.removeprefix('Skipped: ')}")
