"""Which fields of an event are read, and as what: the one place that turns settings into field types.

An `EventLayout` is made once, at construction of a decoder. It owns the names, the roles (feature, vector,
id, entity key, event time) and the struct type that msgspec decodes into; it refuses settings under which one
field would have to be two things at once. It knows no encoding: `json`, `msgpack` and `raw` share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from streamserve.config.settings import FeatureSettings, PipelineSettings, VectorSettings
from streamserve.errors import ConfigError, Problem

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EVENT_TIME_MIN_MS = -62_135_596_800_000
"""0001-01-01T00:00:00Z: an earlier event time is a mistake."""
EVENT_TIME_MAX_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: a later one is a mistake, such as microseconds."""

Int64 = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]
FIELD_TYPES: dict[str, object] = {
    "float32": float | None,
    "float64": float | None,
    "int32": Int64 | None,
    "int64": Int64 | None,
    "bool": bool | None,
    "string": str | None,
}
"""Wire type per feature dtype. The narrower range of int32 is the enricher's business."""
SEQUENCE_TYPES: dict[str, object] = {
    "float32": list[float] | None,
    "float64": list[float] | None,
    "int32": list[Int64] | None,
    "int64": list[Int64] | None,
    "bool": list[bool] | None,
    "string": list[str] | None,
}
"""Wire type per dtype of a sequence."""
FLOAT_DTYPES = frozenset({"float32", "float64"})
TEXT = str | Int64 | None
"""An id or entity key: text, or an integer whose decimal digits are the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLayout:
    """The fields that are read, in the order of the struct's fields.

    Attributes:
        names: field names in the event, each once.
        types: the msgspec type of each.
        features: name and dtype of each flat feature; they are the first fields. Empty with a vector.
        floats: positions of the flat features of float types.
        vector: the vector field, which then is the first field.
        id, key, event_time: position in `names` of the fields with these roles; None takes the record's own.
    """

    names: tuple[str, ...]
    types: tuple[object, ...]
    features: tuple[FeatureSettings, ...]
    floats: tuple[int, ...]
    vector: VectorSettings | None
    id: int | None
    key: int | None
    event_time: int | None

    @staticmethod
    def of(settings: PipelineSettings) -> EventLayout:
        """The layout of a pipeline. Raises: ConfigError with every conflict found."""
        spec = settings.features
        vector = spec if isinstance(spec, VectorSettings) else None
        features = () if isinstance(spec, VectorSettings) else tuple(spec)
        fields: dict[str, object] = {}
        problems: list[Problem] = []
        if vector is not None:
            fields[vector.field] = list[float] | None
        for feature in features:
            if feature.name in fields:
                problems.append(Problem(path=f"features.{feature.name}", message="is listed twice"))
            types = FIELD_TYPES if feature.sequence is None else SEQUENCE_TYPES
            fields[feature.name] = types[feature.dtype]
        for role, name, wanted, dtypes in (
            ("id", settings.input.id, TEXT, ("string", "int32", "int64")),
            ("key", settings.input.key, TEXT, ("string", "int32", "int64")),
            ("event_time", settings.input.event_time, Int64 | None, ("int64",)),
        ):
            if name is not None and not _shares(fields, name, wanted, [FIELD_TYPES[d] for d in dtypes]):
                message = f"the field {name} is also a feature of another type"
                hint = f"as {role} it must be of dtype {' or '.join(dtypes)}"
                problems.append(Problem(path=f"input.{role}", message=message, hint=hint))
        if problems:
            raise ConfigError(problems)
        names = tuple(fields)
        role_of = {name: position for position, name in enumerate(names)}
        return EventLayout(
            names=names,
            types=tuple(fields.values()),
            features=features,
            floats=tuple(i for i, each in enumerate(features) if each.sequence is None and each.dtype in FLOAT_DTYPES),
            vector=vector,
            id=None if settings.input.id is None else role_of[settings.input.id],
            key=None if settings.input.key is None else role_of[settings.input.key],
            event_time=None if settings.input.event_time is None else role_of[settings.input.event_time],
        )

    def struct_type(self) -> type[msgspec.Struct]:
        """The struct that holds one event; absent and null fields are None."""
        fields = [(f"field_{i}", kind, None) for i, kind in enumerate(self.types)]
        rename = {f"field_{i}": name for i, name in enumerate(self.names)}
        try:
            return msgspec.defstruct("Event", fields, rename=rename, gc=False)
        except (ValueError, TypeError) as error:
            raise ConfigError([Problem(path="features", message=f"a field name cannot be used: {error}")]) from error


def _shares(fields: dict[str, object], name: str, wanted: object, allowed: list[object]) -> bool:
    """Add the field of a role, or say whether the feature of that name can serve as it."""
    if name not in fields:
        fields[name] = wanted
        return True
    return fields[name] in allowed or fields[name] == wanted
