"""The `kafka:` block, written for librdkafka, in the words of aiokafka: what Faust's consumer connects with.

What says who we are and whom we trust is translated or refused, never dropped in silence. What tunes librdkafka alone
(queue sizes, socket buffers) has no meaning here and is left out.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from streamserve.config.kafka_properties import client_properties
from streamserve.config.settings import PipelineSettings
from streamserve.errors import ConfigError, Problem

SESSION_TIMEOUT_MS = 10_000
"""A sidecar that is silent for so long loses its partitions. The broker allows 6 s and more by default."""
MECHANISMS = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"})
UNTRANSLATABLE = {
    "ssl.keystore.location": "give ssl.certificate.location and ssl.key.location instead",
    "ssl.keystore.password": "give ssl.certificate.location and ssl.key.location instead",
    "ssl.curves.list": "leave it out",
    "ssl.sigalgs.list": "leave it out",
    "sasl.kerberos.keytab": "use SCRAM or client certificates",
    "sasl.kerberos.principal": "use SCRAM or client certificates",
}
_NUMBERS = {
    "metadata.max.age.ms": "metadata_max_age_ms",
    "connections.max.idle.ms": "connections_max_idle_ms",
    "retry.backoff.ms": "retry_backoff_ms",
}

ClientSettings = dict[str, Any]


def aiokafka_settings(settings: PipelineSettings) -> ClientSettings:
    """Keyword arguments of an `AIOKafkaConsumer` that joins a group, connection and session only.

    Raises:
        ConfigError: a property has no translation, or a file cannot be read.
    """
    user = client_properties(settings)[0]
    problems = [
        Problem(path=f"kafka.{name}", message="the sidecar's client cannot use this property", hint=hint)
        for name, hint in UNTRANSLATABLE.items()
        if name in user
    ]
    if problems:
        raise ConfigError(problems)
    session_ms = int(user.get("session.timeout.ms", SESSION_TIMEOUT_MS))
    found: ClientSettings = {
        "bootstrap_servers": [server.strip() for server in user["bootstrap.servers"].split(",") if server.strip()],
        "client_id": user.get("client.id", f"{settings.pipeline}.sidecar"),
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": int(user.get("heartbeat.interval.ms", max(1, session_ms // 4))),
        "request_timeout_ms": max(40_000, session_ms + 10_000),
    }
    if "client.rack" in user:
        found["client_rack"] = user["client.rack"]
    found |= {ours: int(user[theirs]) for theirs, ours in _NUMBERS.items() if theirs in user}
    return {**found, **_security(user)}


def _security(user: Mapping[str, str]) -> ClientSettings:
    protocol = user.get("security.protocol", "plaintext").upper()
    found: ClientSettings = {"security_protocol": protocol}
    if protocol in {"SSL", "SASL_SSL"}:
        found["ssl_context"] = _tls(user)
    if protocol.startswith("SASL"):
        found |= _sasl(user)
    return found


def _sasl(user: Mapping[str, str]) -> ClientSettings:
    mechanism = user.get("sasl.mechanisms", user.get("sasl.mechanism", "GSSAPI")).upper()
    if mechanism not in MECHANISMS:
        raise ConfigError(
            [
                Problem(
                    path="kafka.sasl.mechanism",
                    message=f"the sidecar's client cannot use {mechanism}",
                    hint=f"it takes {', '.join(sorted(MECHANISMS))}, or client certificates",
                )
            ]
        )
    missing = [name for name in ("sasl.username", "sasl.password") if name not in user]
    if missing:
        raise ConfigError([Problem(path=f"kafka.{name}", message=f"missing for {mechanism}") for name in missing])
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user["sasl.username"],
        "sasl_plain_password": user["sasl.password"],
    }


def _tls(user: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        _trust(context, user)
        _identity(context, user)
        if "ssl.cipher.suites" in user:
            context.set_ciphers(user["ssl.cipher.suites"])
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigError(f"kafka: TLS cannot be set up: {error}; check the ssl.* files and passwords") from error
    if user.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif user.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    return context


def _trust(context: ssl.SSLContext, user: Mapping[str, str]) -> None:
    """Certificates that vouch for brokers; the system's, when none are given."""
    location = user.get("ssl.ca.location", "probe")
    if location != "probe":
        context.load_verify_locations(**{"capath" if Path(location).is_dir() else "cafile": location})
    if "ssl.ca.pem" in user:
        context.load_verify_locations(cadata=user["ssl.ca.pem"])
    if "ssl.crl.location" in user:
        context.load_verify_locations(cafile=user["ssl.crl.location"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _identity(context: ssl.SSLContext, user: Mapping[str, str]) -> None:
    """Our own certificate and key."""
    with contextlib.ExitStack() as stack:
        certificate = user.get("ssl.certificate.location")
        key = user.get("ssl.key.location")
        if "ssl.certificate.pem" in user:
            certificate = stack.enter_context(_as_file(user["ssl.certificate.pem"]))
        if "ssl.key.pem" in user:
            key = stack.enter_context(_as_file(user["ssl.key.pem"]))
        if certificate is not None:
            # A function, so that a key without a password never asks the terminal for one.
            context.load_cert_chain(certificate, key, password=lambda: user.get("ssl.key.password", ""))


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """The text in a file that only we can read, for as long as Python's ssl needs to load it."""
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text.replace("\\n", "\n"))
        yield path
    finally:
        Path(path).unlink()
