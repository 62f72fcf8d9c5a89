"""The conformance probe: real brokers keep every promise, the embedded one does not."""

from __future__ import annotations

import pytest

from streamserve.errors import BrokerUnavailable
from streamserve.kafka import conformance
from streamserve.kafka.conformance import Check, Report, probe

NAMES = (
    "aborted_hidden",
    "open_hidden",
    "second_init_fences",
    "stale_generation_rejected",
    "pending_offsets_wait",
    "expiry",
)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_one_real_broker_keeps_every_promise(kafka, protocol):
    report = probe({"bootstrap.servers": kafka.bootstrap}, protocol=protocol)
    assert tuple(check.name for check in report.checks) == NAMES
    assert report.checks == tuple(Check(name, kept=True) for name in NAMES)
    assert report.conforms


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_three_real_brokers_keep_every_promise(kafka3, protocol):
    report = probe({"bootstrap.servers": kafka3.bootstrap}, protocol=protocol)
    assert report.checks == tuple(Check(name, kept=True) for name in NAMES)


def test_the_embedded_broker_does_not(embedded_kafka, monkeypatch):
    monkeypatch.setattr(conformance, "EXPIRY_S", 3.0)
    monkeypatch.setattr(conformance, "TIMEOUT_S", 4.0)
    report = probe({"bootstrap.servers": embedded_kafka.bootstrap})
    assert not report.conforms
    assert {"aborted_hidden", "open_hidden", "second_init_fences", "expiry"} <= set(report.broken), report


def test_the_slow_check_may_be_left_out(kafka):
    report = probe({"bootstrap.servers": kafka.bootstrap}, expiry=False)
    assert tuple(check.name for check in report.checks) == NAMES[:-1]


def test_the_probe_leaves_no_topic_behind(kafka):
    from confluent_kafka.admin import AdminClient

    from tests.memory import until

    probe({"bootstrap.servers": kafka.bootstrap}, expiry=False)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    until(lambda: not [t for t in admin.list_topics(timeout=10).topics if t.startswith("streamserve.conformance.")])


def test_without_a_broker_it_says_so(monkeypatch):
    monkeypatch.setattr(conformance, "TIMEOUT_S", 0.5)
    with pytest.raises(BrokerUnavailable):
        probe({"bootstrap.servers": "127.0.0.1:1"})


def test_a_report_names_what_is_broken():
    report = Report((Check("a", kept=True), Check("b", kept=False, seen="why")))
    assert (report.conforms, report.broken) == (False, ("b",))
