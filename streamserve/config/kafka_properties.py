"""The `kafka:` block: which properties pass, and which client gets which.

`check` finds every mistake in a block, `client_properties` gives each client its part as librdkafka wants
it: text only, secrets read from their files. What streamserve itself demands of a client is added by
`streamserve.kafka`. A property of one side (`linger.ms`) goes to that side alone; `consumer.` and
`producer.` in front limit a common one (`consumer.client.id`) to one side, where it wins over the common
value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from streamserve.config.kafka_catalogue import (
    ALLOWED,
    CLASSIC_ONLY,
    FILES,
    REFUSED,
    SECRETS,
    Property,
)
from streamserve.config.secret_files import read_secret
from streamserve.config.settings import PipelineSettings
from streamserve.config.wording import nearest

KafkaValue = str | int | float | bool
ClientProperties = dict[str, str]
_PREFIXES = {"consumer.": "consumer", "producer.": "producer"}


class Mistake(NamedTuple):
    """What is wrong with one property."""

    name: str
    message: str
    hint: str = ""


def client_properties(
    settings: PipelineSettings,
) -> tuple[ClientProperties, ClientProperties, ClientProperties]:
    """The user's part of the properties of consumer, producer and admin client.

    Returns:
        Three new dictionaries, safe to add to. Secrets given as `*_file` are read now.

    Raises:
        ConfigError: a secret's file cannot be read.
    """
    common: ClientProperties = {}
    sides: dict[str, ClientProperties] = {"consumer": {}, "producer": {}}
    overrides: dict[str, ClientProperties] = {"consumer": {}, "producer": {}}
    for name, value in settings.kafka.items():
        prefix, bare = _split(name)
        spec = _specification(bare)
        key, text = _resolved(bare, value)
        if prefix:
            overrides[prefix][key] = text
        elif spec is None or spec.side == "both":
            common[key] = text
        else:
            sides[spec.side][key] = text
    consumer = {**common, **sides["consumer"], **overrides["consumer"]}
    producer = {**common, **sides["producer"], **overrides["producer"]}
    return consumer, producer, common


def check(block: Mapping[str, object], *, insecure_tls: bool) -> list[Mistake]:
    """Every mistake in a `kafka:` block.

    Args:
        block: property -> value, as given.
        insecure_tls: whether `kafka_insecure_tls` allows TLS without verification.
    """
    mistakes = [mistake for name, value in block.items() for mistake in _check_one(name, value)]
    if not any(_split(name) == ("", "bootstrap.servers") for name in block):
        mistakes.append(Mistake("", "bootstrap.servers is missing", "such as localhost:9092"))
    mistakes += _check_tls(block, insecure_tls=insecure_tls)
    mistakes += _check_sasl(block)
    if any(text.lower() == "consumer" for _, text in _effective(block, "group.protocol")):
        mistakes += [
            Mistake(name, "refused with group.protocol=consumer: the broker holds this setting", "leave it out")
            for name in block
            if _split(name)[1] in CLASSIC_ONLY
        ]
    return mistakes


def known_names() -> list[str]:
    """Every name that the block takes, without prefixes."""
    return [*ALLOWED, *(f"{name}_file" for name in SECRETS)]


def is_file(name: str) -> bool:
    """Whether the property names a file."""
    return _split(name)[1] in FILES


def _split(name: str) -> tuple[str, str]:
    for prefix, side in _PREFIXES.items():
        if name.startswith(prefix):
            return side, name.removeprefix(prefix)
    return "", name


def _specification(name: str) -> Property | None:
    if name.removesuffix("_file") in SECRETS:
        return Property("both")
    return ALLOWED.get(name)


def _resolved(name: str, value: KafkaValue) -> tuple[str, str]:
    secret = name.removesuffix("_file")
    if name != secret and secret in SECRETS:
        return secret, read_secret(str(value), f"kafka.{name}")
    return name, _text(value)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_one(name: str, value: object) -> Iterator[Mistake]:
    side, bare = _split(name)
    if bare in REFUSED:
        reason, hint = REFUSED[bare]
        yield Mistake(name, f"refused: {reason}", hint)
        return
    spec = _specification(bare)
    if spec is None:
        hint = nearest(bare, known_names())
        yield Mistake(name, "unknown or not allowed property", f"did you mean {hint}?" if hint else "")
        return
    if side and spec.side not in {"both", side}:
        yield Mistake(name, f"{bare} is a property of the {spec.side}", f"write {bare}")
    if isinstance(value, (str, int, float)):
        wrong = _wrong_value(spec, _text(value))
        if wrong:
            yield Mistake(name, *wrong)


def _wrong_value(spec: Property, text: str) -> tuple[str, str] | None:
    if spec.choices:
        choices = {choice.lower() for choice in spec.choices}
        if text.lower() not in choices:
            hint = nearest(text, spec.choices)
            return f"must be one of {', '.join(spec.choices)}", f"did you mean {hint}?" if hint else ""
    if spec.kind == "bool" and text.lower() not in {"true", "false"}:
        return "must be true or false", ""
    if spec.kind in {"int", "float"}:
        try:
            _ = int(text) if spec.kind == "int" else float(text)
        except ValueError:
            return "must be a whole number" if spec.kind == "int" else "must be a number", ""
    return None


def _effective(block: Mapping[str, object], *names: str) -> Iterator[tuple[str, str]]:
    """Each given value of these properties, prefixed or not, as (name as given, text)."""
    for name, value in block.items():
        if _split(name)[1] in names:
            yield name, _text(value)


def _check_tls(block: Mapping[str, object], *, insecure_tls: bool) -> Iterator[Mistake]:
    if insecure_tls:
        return
    message = "refused: without verification anyone on the way can read and change the records"
    hint = "kafka_insecure_tls: true allows it"
    for name, text in _effective(block, "enable.ssl.certificate.verification"):
        if text.lower() == "false":
            yield Mistake(name, message, hint)
    for name, text in _effective(block, "ssl.endpoint.identification.algorithm"):
        if text.lower() != "https":
            yield Mistake(name, message, hint)


def _check_sasl(block: Mapping[str, object]) -> Iterator[Mistake]:
    for name in block:
        secret = name.removesuffix("_file")
        if name != secret and secret in block and _split(secret)[1] in SECRETS:
            yield Mistake(name, f"given beside {secret}", "leave one of them out")
    protocols = {_split(name)[0]: text.lower() for name, text in _effective(block, "security.protocol")}
    sides = ("", "consumer", "producer")
    for name, text in _effective(block, "sasl.mechanism", "sasl.mechanisms"):
        prefix = _split(name)[0]
        seen_by = {protocols.get(prefix) or protocols.get("", "plaintext")}
        if not prefix:
            seen_by |= {protocols[side] for side in sides if side in protocols}
        if text.upper() in {"PLAIN", "OAUTHBEARER"} and seen_by != {"sasl_ssl"}:
            what = "the password" if text.upper() == "PLAIN" else "the token"
            yield Mistake(
                name,
                f"refused: without TLS {text.upper()} sends {what} in the clear",
                "security.protocol: sasl_ssl",
            )
