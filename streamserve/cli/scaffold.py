"""What a new pipeline folder holds, made from a model's signature and a sample event.

Pure: values in, texts out; `init` reads and writes. The guesses are simple on purpose and written down as
comments where a person must look: fields of the sample fill the model's columns in their order, a field
that holds a list of numbers as long as the model's input is taken as one vector.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamserve.errors import ContractError
from streamserve.ports import Signature, TensorSpec

PARTITIONS = 4
NAMED_COLUMNS = 64
"""A wider input without a fitting sample is taken as one vector."""
_DTYPES = {
    "float32": "float32",
    "float64": "float64",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
    "str": "string",
}
_JSON_TYPES = {"string": "string", "bool": "boolean", "int32": "integer", "int64": "integer"}
_TIMES = ("event_time", "timestamp", "timestamp_ms", "ts", "time")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_WORDS_OF_YAML = frozenset({"null", "true", "false", "yes", "no", "on", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One feature: field of the event, dtype, the model input it fills, and the sample's value."""

    name: str
    dtype: str
    input: str
    sample: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """All features in one field."""

    field: str
    size: int
    dtype: str
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What was made of signature and sample.

    Attributes:
        features: the columns, or the vector field.
        id, event_time: fields of the event that look like these.
        open_questions: what could not be known.
    """

    features: tuple[Column, ...] | Vector
    id: str | None
    event_time: str | None
    open_questions: tuple[str, ...]


def draft(signature: Signature, sample: Mapping[str, object] | None) -> Draft:
    """Match the model's inputs with the fields of the sample.

    Raises:
        ContractError: an input has a dtype that no feature can have.
    """
    event = dict(sample or {})
    time = next((name for name in _TIMES if _is_epoch_ms(event.get(name))), None)
    inputs = {spec.name for spec in signature.inputs}
    ids = [name for name, value in event.items() if isinstance(value, str) and name not in inputs]
    id_ = next((name for name in ids if name == "id" or name.endswith("_id")), None)
    vector = _vector(signature, event)
    if vector is not None:
        questions = [] if vector.known else [f"features.field and size: guessed as {vector.field}"]
        return Draft(features=vector, id=id_, event_time=time, open_questions=tuple(questions))
    pool = {name: value for name, value in event.items() if name not in {time, id_}}
    columns: list[Column] = []
    questions = []
    for spec in signature.inputs:
        taken = list(_columns(spec, pool, columns))
        missing = [column.name for column in taken if column.sample is None]
        if missing:
            questions.append(f"the names of the features {', '.join(missing[:5])} ...: guessed")
        columns += taken
    return Draft(features=tuple(columns), id=id_, event_time=time, open_questions=tuple(questions))


def _is_epoch_ms(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 10**11 < value < 10**14


def _width(spec: TensorSpec) -> int:
    """Columns of an input; -1 when the model leaves it open."""
    rest = spec.shape[1:]
    return -1 if any(axis < 0 for axis in rest) else math.prod(rest)


def _vector(signature: Signature, event: Mapping[str, object]) -> Vector | None:
    if len(signature.inputs) != 1 or signature.inputs[0].dtype not in {"float32", "float64"}:
        return None
    spec = signature.inputs[0]
    width = _width(spec)
    for name, value in event.items():
        numeric = isinstance(value, list) and value and all(isinstance(x, (int, float)) for x in value)
        if isinstance(value, list) and numeric and width in {-1, len(value)}:
            return Vector(field=name, size=len(value), dtype=spec.dtype, known=True)
    numbers = sum(_fits(spec, value) for value in event.values())
    if (width == -1 and not numbers) or width > max(NAMED_COLUMNS, numbers):
        return Vector(field="features", size=max(width, 1), dtype=spec.dtype, known=False)
    return None


def _fits(spec: TensorSpec, value: object) -> bool:
    if spec.dtype == "str":
        return isinstance(value, str)
    return isinstance(value, bool) if spec.dtype == "bool" else isinstance(value, (int, float))


def _columns(spec: TensorSpec, pool: dict[str, object], taken: Sequence[Column]) -> Iterator[Column]:
    dtype = _DTYPES.get(spec.dtype)
    if dtype is None:
        raise ContractError(f"the model's input {spec.name} is {spec.dtype}; features are {', '.join(_DTYPES)}")
    width = _width(spec)
    names = [name for name, value in pool.items() if _fits(spec, value)]
    if width == 1 and (spec.name in names or not names):
        names = [spec.name]
    names = names if width < 0 else names[:width]
    names += [f"{spec.name}_{index}" for index in range(len(names), max(width, 1))]
    used = {column.name for column in taken}
    for name in names:
        unique = f"{spec.name}.{name}" if name in used else name
        yield Column(name=unique, dtype=dtype, input=spec.name, sample=pool.pop(name, None))


def files(name: str, made: Draft, signature: Signature) -> dict[str, str]:
    """Path in the folder -> text, all but the model.

    Args:
        name: of pipeline and model.
        made: from `draft`.
        signature: the model's.
    """
    events, predictions = f"{name}.events", f"{name}.predictions"
    dead, control, shadow = f"{events}.dlq", f"{name}.rollout", f"{name}.shadow"
    week, month = 7 * 86_400_000, 30 * 86_400_000
    return {
        "streamserve.yaml": _configuration(name, made, signature, (events, predictions, dead)),
        f"topics/{events}.yaml": _topic(events, name, week, schema=True, dead=dead),
        f"topics/{predictions}.yaml": _topic(predictions, name, week, schema=True),
        f"topics/{dead}.yaml": _topic(dead, name, month),
        f"topics/{control}.yaml": _topic(control, name, None),
        f"topics/{shadow}.yaml": _topic(shadow, name, week),
        f"topics/schemas/{events}-value.json": _json(_event_schema(events, made)),
        f"topics/schemas/{predictions}-value.json": _json(_prediction_schema(predictions, signature)),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _text(value: str) -> str:
    """A text as it stands in flow YAML."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML
    return value if plain else json.dumps(value.replace("$", "$$"), ensure_ascii=False)


def _configuration(name: str, made: Draft, signature: Signature, topics: tuple[str, str, str]) -> str:
    events, predictions, dead = topics
    lines = [
        "# yaml-language-server: $schema=./streamserve.schema.json",
        "version: 1",
        f"pipeline: {_text(name)}",
        "kafka:",
        "  bootstrap.servers: ${KAFKA_BOOTSTRAP:-localhost:9092}",
        "input:",
        f"  topics: [{_text(events)}]",
        "  format: json",
    ]
    if made.id:
        lines.append(f"  id: {_text(made.id)}")
    if made.event_time:
        lines.append(f"  event_time: {_text(made.event_time)}")
    lines += _features(made, several=len(signature.inputs) > 1)
    lines += [
        f"model: {{name: {_text(name)}, repository: models, version: latest}}",
        "output:",
        f"  topic: {_text(predictions)}",
    ]
    lines += _outputs(signature)
    lines += [
        f"dead_letter: {{topic: {_text(dead)}}}",
        "delivery: {guarantee: exactly_once}",
        "rollout: {} # promote, canary, shadow and rollback while the workers run",
        "# cache: {url: redis://localhost:6379/0, ttl_s: 86400}",
        "workers: 1",
    ]
    return "\n".join(lines) + "\n"


def _features(made: Draft, *, several: bool) -> Iterator[str]:
    if isinstance(made.features, Vector):
        guess = "" if made.features.known else "  # guessed: which field holds the numbers, and how many?"
        vector = made.features
        yield f"features: {{field: {_text(vector.field)}, size: {vector.size}, dtype: {vector.dtype}}}{guess}"
        return
    yield "# In the order of the model's columns. Each may have min, max and a default for missing values."
    yield "features:"
    for column in made.features:
        parts = [f"name: {_text(column.name)}", f"dtype: {column.dtype}"]
        if several and column.input != column.name:
            parts.append(f"input: {_text(column.input)}")
        note = "" if column.sample is not None else "  # guessed name"
        if column.dtype == "string":
            example = _text(str(column.sample)) if column.sample is not None else "..."
            note += f"  # its values, when they are few: categories: [{example}, ...]"
        yield f"  - {{{', '.join(parts)}}}{note}"


def _outputs(signature: Signature) -> Iterator[str]:
    names = [spec.name for spec in signature.outputs]
    yield f"  outputs: {{{', '.join(f'{_text(name)}: {_text(name)}' for name in names)}}}"
    yield f"  # threshold: {{{_text(names[0])}: {{at: 0.5, as: decision}}}}"


def _topic(topic: str, owner: str, retention_ms: int | None, *, schema: bool = False, dead: str = "") -> str:
    """A document. Without a retention the topic is compacted and has one partition, in the order of all commands."""
    kept = (
        "cleanup.policy: compact"
        if retention_ms is None
        else f"retention.ms: {retention_ms} # {retention_ms // 86_400_000} days"
    )
    annotations = [f"    streamserve.io/owner: {_text(owner)}"]
    if schema:
        annotations.append(f"    streamserve.io/schema: schemas/{topic}-value.json")
    if dead:
        annotations.append(f"    streamserve.io/dlq: {_text(dead)}")
    return "\n".join(
        [
            "apiVersion: kafka.strimzi.io/v1",
            "kind: KafkaTopic",
            "metadata:",
            f"  name: {_text(topic)}",
            "  labels:",
            "    strimzi.io/cluster: kafka",
            "  annotations:",
            *annotations,
            "spec:",
            f"  partitions: {1 if retention_ms is None else PARTITIONS}",
            "  replicas: 1 # 3 on a cluster that matters",
            "  config:",
            f"    {kept}",
            "",
        ]
    )


def _event_schema(topic: str, made: Draft) -> dict[str, object]:
    properties: dict[str, object] = {}
    if isinstance(made.features, Vector):
        size = made.features.size
        array = {"type": "array", "items": {"type": "number"}, "minItems": size, "maxItems": size}
        properties[made.features.field] = array
    else:
        for column in made.features:
            properties[column.name] = {"type": _JSON_TYPES.get(column.dtype, "number")}
    required = list(properties)
    if made.id:
        properties.setdefault(made.id, {"type": "string"})
    if made.event_time:
        properties.setdefault(made.event_time, {"type": "integer", "description": "epoch milliseconds"})
    return _object(topic, properties, required)


def _prediction_schema(topic: str, signature: Signature) -> dict[str, object]:
    source = {"topic": {"type": "string"}, "partition": {"type": "integer"}, "offset": {"type": "integer"}}
    outputs: dict[str, object] = {spec.name: {} for spec in signature.outputs}
    properties = {
        "id": {"type": "string"},
        "model": {"type": "string"},
        "version": {"type": "string"},
        "outputs": {"type": "object", "properties": outputs},
        "event_time": {"type": "integer", "description": "epoch milliseconds"},
        "source": {"type": "object", "properties": source},
    }
    return _object(topic, properties, ["id", "model", "version", "outputs"])


def _object(title: str, properties: Mapping[str, object], required: list[str]) -> dict[str, object]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
    }
