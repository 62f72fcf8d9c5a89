"""The configuration reference, written from the settings: `docs/configuration.md` is this text."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from streamserve.config.kafka_catalogue import ALLOWED, REFUSED, SECRETS
from streamserve.config.settings import FeatureSettings, PipelineSettings, ThresholdSettings, VectorSettings

TARGET = "docs/configuration.md"
"""Where the text belongs, relative to the repository's root."""

_INTRODUCTION = """# Configuration

<!-- Generated from streamserve/config/settings.py; changes are made there. -->

One file, `streamserve.yaml`, describes a pipeline. `streamserve lint` checks it, and everything that is
wrong is told at once, with line and column. `streamserve config show --resolved` shows what is in force
and where each value comes from.

## Precedence

Flag (`--set engine.device=cpu`) > environment > file > default.

- Environment: `STREAMSERVE_INPUT__FORMAT=msgpack` sets `input.format`: `__` stands between levels, items
  of lists go by their number (`STREAMSERVE_FEATURES__0__MIN`). In the `kafka` block `_` stands for `.`:
  `STREAMSERVE_KAFKA__BOOTSTRAP_SERVERS`. A list is written `a,b` or `[a, b]`, a mapping `{a: 1}`, nothing
  `null`. A variable of this prefix that names no key is an error; the ones that Kubernetes sets for
  services are passed over.
- Relative paths (`model.repository`, `state_dir`, every `*_file`, certificates) are relative to the
  file's folder, wherever the value comes from.

## Variables

In values, never in keys:

| form | meaning |
|---|---|
| `${VAR}` | its value; an error when it is not set |
| `${VAR:-default}` | its value, or the default when it is not set or empty |
| `${VAR:?message}` | its value, or an error with the message when it is not set or empty |
| `$$` | one `$` |

A value with a newline is refused. For secrets there are `*_file` keys: the file holds the secret, one
newline at its end is dropped. `config show`, logs and errors never show a secret.
"""

_KAFKA = """## kafka

Properties of librdkafka, verbatim, for all clients of the pipeline. A property of one side (`linger.ms`)
goes to that side alone; `consumer.` or `producer.` in front limits a common one to one side:
`consumer.client.id`.

- Allowed: {allowed}.
- Secrets may be given as files, `<property>_file`: {secrets}.
- Refused: {refused}.
- TLS without verification (`enable.ssl.certificate.verification: false`,
  `ssl.endpoint.identification.algorithm: none`) needs `kafka_insecure_tls: true`. `PLAIN` and
  `OAUTHBEARER` need TLS (`security.protocol: sasl_ssl`).
- With `group.protocol: consumer` (brokers of 4.0 and later) the broker holds `session.timeout.ms`,
  `heartbeat.interval.ms` and the assignment strategy; giving them is an error.
"""


def render(exit_codes: Mapping[int, str]) -> str:
    """The reference as Markdown, ending in a newline.

    Args:
        exit_codes: what the command line ends with, and what that means.
    """
    parts = [_INTRODUCTION, "## Top level\n", _table(PipelineSettings)]
    parts.append(_kafka())
    for name, field in PipelineSettings.model_fields.items():
        for model in _models(field.annotation):
            title = f"{name} (one vector field)" if model is VectorSettings else name
            parts.append(_section(title, model, listed=model is FeatureSettings))
            parts += _nested(name, model)
    parts.append("## Exit codes\n\n| code | meaning |\n|---|---|")
    parts[-1] += "".join(f"\n| {code} | {meaning} |" for code, meaning in exit_codes.items())
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _section(title: str, model: type[BaseModel], *, listed: bool = False) -> str:
    intro = (model.__doc__ or "").strip()
    more = " A list of these, in the order of the model's columns." if listed else ""
    return f"## {title}\n\n{intro}{more}\n\n{_table(model)}"


def _nested(title: str, model: type[BaseModel]) -> Iterator[str]:
    """The sections within a section, each under the path of its key."""
    for name, field in model.model_fields.items():
        key = f"{title}.{field.alias or name}"
        path = f"{key}.<name>" if "mapping" in _words(field.annotation) else key
        for inner in _models(field.annotation):
            kind = inner.model_fields.get("kind")
            form = (
                f" (kind {_words(kind.annotation)})"
                if kind
                else " (the long form)"
                if inner is ThresholdSettings
                else ""
            )
            yield _section(path + form, inner)
            yield from _nested(path, inner)


def _kafka() -> str:
    def names(values: object) -> str:
        return ", ".join(f"`{value}`" for value in sorted(values))  # type: ignore[call-overload]  # any iterable

    refused = ", ".join(f"`{name}` ({reason})" for name, (reason, _) in sorted(REFUSED.items()))
    return _KAFKA.format(allowed=names(ALLOWED), secrets=names(SECRETS), refused=refused)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for part in get_args(annotation):
            yield from _models(part)


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = " ".join((field.description or _first_line(field.annotation)).split())
        cells = (f"`{field.alias or name}`", _type(field), _default(field), meaning)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _first_line(annotation: object) -> str:
    for model in _models(annotation):
        return (model.__doc__ or "").strip().split("\n")[0]
    return ""


def _type(field: FieldInfo) -> str:
    bounds = []
    words = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for constraint in field.metadata:
        for key, sign in words.items():
            if getattr(constraint, key, None) is not None:
                bounds.append(f"{sign} {getattr(constraint, key):,}".replace(",", " "))
    text = _words(field.annotation)
    return f"{text}, {' and '.join(bounds)}" if bounds else text


def _words(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in {Union, types.UnionType}:
        parts = [_words(part) for part in arguments if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"mapping of name to {_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return plain.get(annotation, str(annotation)) if isinstance(annotation, type) else str(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != {} else "none"
