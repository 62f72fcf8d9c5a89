"""Short forms of the fault matrix, on real Kafka and Redis. The full ones are `scripts/faults` (docs/reliability.md)."""

from __future__ import annotations

import pytest

from tests.faults.rows import ROWS, Row, Services

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


def services(request: pytest.FixtureRequest) -> Services:
    def local(name):
        found = request.getfixturevalue(name)
        return getattr(found, "local", found) or pytest.skip("needs services of its own, not given ones")

    return Services(
        kafka=lambda: local("kafka"),
        kafka3=lambda: local("kafka3"),
        redis_url=lambda: request.getfixturevalue("redis_server").url,
    )


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_short_form(row: Row, request: pytest.FixtureRequest, kafka_jars: None):
    assert row.problems(verdict := row.run(services(request), row.short)) == [], verdict.to_json()
