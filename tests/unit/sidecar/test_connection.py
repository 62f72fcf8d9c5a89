"""What the `kafka:` block becomes for aiokafka, and what is refused."""

from __future__ import annotations

import ssl
import subprocess

import pytest

from streamserve.errors import ConfigError
from streamserve.sidecar.connection import aiokafka_settings
from tests.unit.drift.streams import settings


def translated(**kafka):
    block = {"bootstrap.servers": "a:1, b:2", **{name.replace("_", "."): value for name, value in kafka.items()}}
    return aiokafka_settings(settings().model_copy(update={"kafka": block}))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that vouches for itself, and its encrypted key."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=test"]
    command += ["-passout", "pass:sesame", "-out", str(files[0]), "-keyout", str(files[1]), "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return files


def test_a_plain_connection_and_a_session_that_is_shorter_than_a_request():
    found = translated()
    assert found["bootstrap_servers"] == ["a:1", "b:2"]
    assert found["security_protocol"] == "PLAINTEXT"
    assert found["session_timeout_ms"] < found["request_timeout_ms"]
    assert found["heartbeat_interval_ms"] * 3 <= found["session_timeout_ms"]
    assert "ssl_context" not in found


def test_the_users_session_and_names_are_taken():
    found = translated(session_timeout_ms="45000", heartbeat_interval_ms=3000, client_id="me", client_rack="r1")
    assert found["session_timeout_ms"] == 45_000
    assert found["request_timeout_ms"] == 55_000
    assert found["heartbeat_interval_ms"] == 3000
    assert (found["client_id"], found["client_rack"]) == ("me", "r1")


def test_scram_over_tls():
    found = translated(
        security_protocol="sasl_ssl", sasl_mechanism="SCRAM-SHA-512", sasl_username="u", sasl_password="p"
    )
    assert found["security_protocol"] == "SASL_SSL"
    assert found["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (found["sasl_plain_username"], found["sasl_plain_password"]) == ("u", "p")
    assert found["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert found["ssl_context"].check_hostname


def test_client_certificates_from_files_and_from_text(certificate):
    public, private = certificate
    trusted = {"security_protocol": "ssl", "ssl_ca_location": str(public), "ssl_key_password": "sesame"}
    found = translated(**trusted, ssl_certificate_location=str(public), ssl_key_location=str(private))
    assert [each["subject"] for each in found["ssl_context"].get_ca_certs()] != []
    assert translated(**trusted, ssl_certificate_pem=public.read_text(), ssl_key_pem=private.read_text())


@pytest.mark.parametrize("password", [{}, {"ssl_key_password": "wrong"}])
def test_a_key_that_does_not_open_is_a_configuration_error_and_asks_nobody(certificate, password):
    public, private = certificate
    with pytest.raises(ConfigError, match="TLS cannot be set up"):
        translated(
            security_protocol="ssl", ssl_certificate_location=str(public), ssl_key_location=str(private), **password
        )


def test_a_missing_file_is_a_configuration_error():
    with pytest.raises(ConfigError, match="TLS cannot be set up"):
        translated(security_protocol="ssl", ssl_ca_location="/nowhere.pem")


def test_verification_is_left_out_only_when_that_is_said():
    unverified = translated(security_protocol="ssl", enable_ssl_certificate_verification=False)["ssl_context"]
    assert unverified.verify_mode == ssl.CERT_NONE
    nameless = translated(security_protocol="ssl", ssl_endpoint_identification_algorithm="none")["ssl_context"]
    assert (nameless.verify_mode, nameless.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize("mechanism", ["GSSAPI", "OAUTHBEARER"])
def test_a_mechanism_without_translation_is_refused(mechanism):
    with pytest.raises(ConfigError, match=rf"kafka.sasl.mechanism: .* cannot use {mechanism}"):
        translated(security_protocol="sasl_ssl", sasl_mechanism=mechanism, sasl_username="u", sasl_password="p")


def test_every_property_without_translation_is_told():
    with pytest.raises(ConfigError) as refused:
        translated(ssl_keystore_location="k", ssl_curves_list="X25519")
    assert [problem.path for problem in refused.value.problems] == [
        "kafka.ssl.keystore.location",
        "kafka.ssl.curves.list",
    ]


def test_what_tunes_librdkafka_alone_is_left_out():
    assert translated(queued_min_messages=1, socket_nagle_disable=True, fetch_wait_max_ms=5) == translated()
