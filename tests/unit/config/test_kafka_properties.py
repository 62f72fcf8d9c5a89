"""The allow-list of the `kafka:` block."""

from __future__ import annotations

import pytest

from streamserve.config.kafka_catalogue import ALLOWED, REFUSED
from streamserve.config.kafka_properties import check, client_properties
from streamserve.config.settings import PipelineSettings
from streamserve.errors import ConfigError

BOOTSTRAP = {"bootstrap.servers": "b:1"}


def told(block, *, insecure_tls=False) -> list[str]:
    found = check({**BOOTSTRAP, **block}, insecure_tls=insecure_tls)
    return [f"{name}: {message}" + (f" ({hint})" if hint else "") for name, message, hint in found]


def settings(kafka) -> PipelineSettings:
    return PipelineSettings.model_validate(
        {
            "pipeline": "p",
            "kafka": {**BOOTSTRAP, **kafka},
            "input": {"topics": ["a"]},
            "features": [{"name": "x"}],
            "model": {"name": "m"},
            "output": {"topic": "o"},
            "dead_letter": {"topic": "d"},
        }
    )


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize("prefix", ["", "consumer.", "producer."])
def test_what_is_refused_is_refused_with_its_reason(name, prefix):
    assert told({prefix + name: "x"})[0].startswith(f"{prefix}{name}: refused: {REFUSED[name][0]}")


def test_nothing_is_both_allowed_and_refused():
    assert not set(ALLOWED) & set(REFUSED)


def test_librdkafka_knows_every_allowed_property():
    from confluent_kafka import KafkaException, Producer

    unknown = []
    for name in ALLOWED:
        try:
            Producer({name: "no such value"})
        except KafkaException as error:
            if "No such configuration property" in str(error):
                unknown.append(name)
    assert unknown == []


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"linger.mss": 1}, "linger.mss: unknown or not allowed property (did you mean linger.ms?)"),
        ({"linger.ms": "soon"}, "linger.ms: must be a number"),
        ({"fetch.min.bytes": 1.5}, "fetch.min.bytes: must be a whole number"),
        ({"check.crcs": "maybe"}, "check.crcs: must be true or false"),
        (
            {"security.protocol": "sasl_ss"},
            "security.protocol: must be one of plaintext, ssl, sasl_plaintext, sasl_ssl (did you mean sasl_ssl?)",
        ),
        (
            {"consumer.linger.ms": 1},
            "consumer.linger.ms: linger.ms is a property of the producer (write linger.ms)",
        ),
        (
            {"enable.ssl.certificate.verification": False},
            (
                "enable.ssl.certificate.verification: refused: without verification anyone on the way can read and "
                "change the records (kafka_insecure_tls: true allows it)"
            ),
        ),
        (
            {"consumer.ssl.endpoint.identification.algorithm": "none"},
            (
                "consumer.ssl.endpoint.identification.algorithm: refused: without verification anyone on the way can "
                "read and change the records (kafka_insecure_tls: true allows it)"
            ),
        ),
        (
            {"sasl.mechanism": "PLAIN", "security.protocol": "sasl_plaintext"},
            "sasl.mechanism: refused: without TLS PLAIN sends the password in the clear (security.protocol: sasl_ssl)",
        ),
        (
            {
                "sasl.mechanisms": "PLAIN",
                "security.protocol": "sasl_ssl",
                "producer.security.protocol": "sasl_plaintext",
            },
            "sasl.mechanisms: refused: without TLS PLAIN sends the password in the clear (security.protocol: sasl_ssl)",
        ),
        (
            {"group.protocol": "consumer", "session.timeout.ms": 1},
            "session.timeout.ms: refused with group.protocol=consumer: the broker holds this setting (leave it out)",
        ),
        (
            {"sasl.password": "x", "sasl.password_file": "y"},
            "sasl.password_file: given beside sasl.password (leave one of them out)",
        ),
    ],
)
def test_a_mistake_has_its_words(block, expected):
    assert told(block) == [expected]


@pytest.mark.parametrize(
    "block",
    [
        {
            "sasl.mechanism": "PLAIN",
            "security.protocol": "SASL_SSL",
            "sasl.username": "u",
            "sasl.password": "p",
        },
        {"sasl.mechanism": "SCRAM-SHA-256", "security.protocol": "sasl_plaintext"},
        {"group.protocol": "consumer"},
        {"consumer.client.id": "x", "linger.ms": 0.5, "statistics.interval.ms": 1000},
    ],
)
def test_what_is_common_passes(block):
    assert told(block) == []


def test_insecure_tls_has_its_own_key():
    assert told({"enable.ssl.certificate.verification": "false"}, insecure_tls=True) == []


def test_bootstrap_servers_are_needed():
    assert check({}, insecure_tls=False)[0].message == "bootstrap.servers is missing"


def test_each_client_gets_its_part():
    kafka = {
        "client.id": "c",
        "consumer.client.id": "reader",
        "linger.ms": 5,
        "fetch.min.bytes": 1,
        "socket.keepalive.enable": True,
    }
    consumer, producer, admin = client_properties(settings(kafka))
    common = {**BOOTSTRAP, "socket.keepalive.enable": "true"}
    assert consumer == {**common, "client.id": "reader", "fetch.min.bytes": "1"}
    assert producer == {**common, "client.id": "c", "linger.ms": "5"}
    assert admin == {**common, "client.id": "c"}


def test_a_secret_comes_from_its_file(tmp_path):
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    _, _, admin = client_properties(settings({"sasl.password_file": str(path)}))
    assert admin["sasl.password"] == "s3cret"
    path.unlink()
    with pytest.raises(ConfigError, match=r"kafka\.sasl\.password_file: cannot read the file"):
        client_properties(settings({"sasl.password_file": str(path)}))
