"""The JSON Schema of `streamserve.yaml`, for editors: `streamserve.schema.json` beside this module.

Where a number or a boolean is wanted a value may also be a text with a variable, and the schema says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from streamserve.config.kafka_catalogue import ALLOWED, SECRETS
from streamserve.config.settings import PipelineSettings

TARGET = "streamserve/config/streamserve.schema.json"
"""Where the text belongs, relative to the repository's root."""

_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def schema() -> dict[str, object]:
    """The schema, draft 2020-12."""
    made = PipelineSettings.model_json_schema(by_alias=True)
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "streamserve pipeline"
    block = made["properties"]["kafka"]
    properties = [*ALLOWED, *(f"{name}_file" for name in SECRETS)]
    block["propertyNames"] = {
        "enum": [prefix + name for prefix in ("", "consumer.", "producer.") for name in properties]
    }
    block["required"] = ["bootstrap.servers"]
    variable = _with_variables(made)
    return variable if isinstance(variable, dict) else made


def render() -> str:
    """The schema as JSON, ending in a newline."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _with_variables(node: object) -> object:
    if isinstance(node, list):
        return [_with_variables(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    made = {key: _with_variables(value) for key, value in node.items()}
    if made.get("type") in {"number", "integer", "boolean"} or ("enum" in made and "title" in made):
        notes = {key: made.pop(key) for key in ("title", "description", "default") if key in made}
        return {**notes, "anyOf": [made, _VARIABLE]}
    return made
