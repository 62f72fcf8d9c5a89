"""Which properties of librdkafka a pipeline may set, on which client, and why the others are refused.

Tables only; `kafka_properties` applies them. A property is allowed when its worst effect is a slow or a
failing client. Refused is what loads code or runs commands, what the delivery guarantee rests on, and what
exists for librdkafka's own tests.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Side = Literal["both", "consumer", "producer"]
Kind = Literal["text", "int", "float", "bool"]


class Property(NamedTuple):
    """An allowed property: whose it is, what it holds, and the values it may take when they are few."""

    side: Side
    kind: Kind = "text"
    choices: tuple[str, ...] = ()


_BOTH_TEXT = (
    "bootstrap.servers client.id client.rack debug "
    "ssl.cipher.suites ssl.curves.list ssl.sigalgs.list ssl.key.location ssl.key.password ssl.key.pem "
    "ssl.certificate.location ssl.certificate.pem ssl.ca.location ssl.ca.pem ssl.crl.location "
    "ssl.keystore.location ssl.keystore.password https.ca.location "
    "sasl.kerberos.service.name sasl.kerberos.principal sasl.kerberos.keytab "
    "sasl.username sasl.password sasl.oauthbearer.config sasl.oauthbearer.client.id "
    "sasl.oauthbearer.client.secret sasl.oauthbearer.scope sasl.oauthbearer.extensions "
    "sasl.oauthbearer.token.endpoint.url"
)
_BOTH_INT = (
    "message.max.bytes receive.message.max.bytes metadata.max.age.ms "
    "topic.metadata.refresh.interval.ms topic.metadata.refresh.fast.interval.ms "
    "topic.metadata.propagation.max.ms socket.timeout.ms socket.send.buffer.bytes "
    "socket.receive.buffer.bytes socket.max.fails socket.connection.setup.timeout.ms connections.max.idle.ms "
    "reconnect.backoff.ms reconnect.backoff.max.ms retry.backoff.ms retry.backoff.max.ms "
    "broker.address.ttl statistics.interval.ms log_level sasl.kerberos.min.time.before.relogin"
)
_CONSUMER_INT = (
    "session.timeout.ms heartbeat.interval.ms max.poll.interval.ms queued.min.messages "
    "queued.max.messages.kbytes fetch.wait.max.ms fetch.queue.backoff.ms fetch.error.backoff.ms "
    "fetch.min.bytes fetch.max.bytes max.partition.fetch.bytes fetch.message.max.bytes "
    "coordinator.query.interval.ms"
)
_PRODUCER_INT = (
    "transaction.timeout.ms queue.buffering.max.messages queue.buffering.max.kbytes batch.num.messages "
    "batch.size sticky.partitioning.linger.ms compression.level request.timeout.ms message.timeout.ms "
    "delivery.timeout.ms"
)
_COMPRESSION = ("none", "gzip", "snappy", "lz4", "zstd")
_MECHANISMS = ("GSSAPI", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")

ALLOWED: dict[str, Property] = {
    **{name: Property("both") for name in _BOTH_TEXT.split()},
    **{name: Property("both", "int") for name in _BOTH_INT.split()},
    **{name: Property("consumer", "int") for name in _CONSUMER_INT.split()},
    **{name: Property("producer", "int") for name in _PRODUCER_INT.split()},
    "security.protocol": Property("both", "text", ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")),
    "sasl.mechanism": Property("both", "text", _MECHANISMS),
    "sasl.mechanisms": Property("both", "text", _MECHANISMS),
    "sasl.oauthbearer.method": Property("both", "text", ("default", "oidc")),
    "ssl.endpoint.identification.algorithm": Property("both", "text", ("none", "https")),
    "enable.ssl.certificate.verification": Property("both", "bool"),
    "broker.address.family": Property("both", "text", ("any", "v4", "v6")),
    "client.dns.lookup": Property("both", "text", ("use_all_dns_ips", "resolve_canonical_bootstrap_servers_only")),
    "socket.keepalive.enable": Property("both", "bool"),
    "socket.nagle.disable": Property("both", "bool"),
    "log.connection.close": Property("both", "bool"),
    "api.version.request.timeout.ms": Property("both", "int"),
    "enable.metrics.push": Property("both", "bool"),
    "check.crcs": Property("consumer", "bool"),
    "group.protocol": Property("consumer", "text", ("classic", "consumer")),
    "group.remote.assignor": Property("consumer"),
    "partition.assignment.strategy": Property("consumer", "text", ("cooperative-sticky",)),
    "linger.ms": Property("producer", "float"),
    "queue.buffering.max.ms": Property("producer", "float"),
    "compression.type": Property("producer", "text", _COMPRESSION),
    "compression.codec": Property("producer", "text", _COMPRESSION),
}
"""Allowed properties; `<secret>_file` is allowed beside every one of `SECRETS`."""

SECRETS = (
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
)
"""Properties that may be given as `<name>_file`, and are never shown."""

FILES = (
    "ssl.key.location",
    "ssl.certificate.location",
    "ssl.ca.location",
    "ssl.crl.location",
    "ssl.keystore.location",
    "https.ca.location",
    "sasl.kerberos.keytab",
    *(f"{name}_file" for name in SECRETS),
)
"""Properties that name a file: relative to the configuration file."""

_CODE = "it loads code into the process"
_DELIVERY = "the delivery guarantee rests on it"
_MOCK = "it exists for librdkafka's own tests"

REFUSED: dict[str, tuple[str, str]] = {
    "plugin.library.paths": (_CODE, ""),
    "ssl.engine.location": (_CODE, ""),
    "ssl.engine.id": (_CODE, ""),
    "ssl.providers": (_CODE, ""),
    "interceptors": (_CODE, ""),
    "opaque": (_CODE, ""),
    "sasl.kerberos.kinit.cmd": ("it runs a command", "renew the ticket outside of this process"),
    "group.id": ("the pipeline's name is the group", "set `pipeline`"),
    "group.instance.id": ("two workers with one id would fence each other", ""),
    "enable.auto.commit": (_DELIVERY, "see `delivery`"),
    "auto.commit.enable": (_DELIVERY, "see `delivery`"),
    "auto.commit.interval.ms": (_DELIVERY, "see `delivery.commit_interval_ms`"),
    "enable.auto.offset.store": (_DELIVERY, ""),
    "isolation.level": (_DELIVERY, ""),
    "auto.offset.reset": ("it would skip records in silence", "see `input.start`"),
    "enable.partition.eof": ("the source sets it", ""),
    "transactional.id": ("the pipeline's name and the worker's slot make it", "set `pipeline`"),
    "enable.idempotence": (_DELIVERY, "see `delivery.guarantee`"),
    "enable.gapless.guarantee": (_DELIVERY, ""),
    "acks": (_DELIVERY, ""),
    "request.required.acks": (_DELIVERY, ""),
    "retries": (_DELIVERY, ""),
    "message.send.max.retries": (_DELIVERY, ""),
    "max.in.flight.requests.per.connection": (_DELIVERY, ""),
    "max.in.flight": (_DELIVERY, ""),
    "partitioner": ("a prediction goes to the partition number of its input", ""),
    "allow.auto.create.topics": ("topics are made on purpose", "see `streamserve topics apply`"),
    "enable.sasl.oauthbearer.unsecure.jwt": ("anyone can forge an unsigned token", ""),
    "test.mock.num.brokers": (_MOCK, ""),
    "test.mock.broker.rtt": (_MOCK, ""),
    "builtin.features": ("it only reports what was built in", ""),
    "metadata.broker.list": ("another name of bootstrap.servers", "use bootstrap.servers"),
}
"""Refused properties: the reason, and what to do instead."""

CLASSIC_ONLY = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")
"""Refused with `group.protocol: consumer`, where the broker holds these settings."""
