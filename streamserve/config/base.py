"""What all settings share: they are frozen, and an unknown key is an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
TOPIC_PATTERN = r"^[a-zA-Z0-9.-]+$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=128)]
Scalar = float | int | bool | str
TopicName = Annotated[str, Field(pattern=TOPIC_PATTERN, min_length=1, max_length=249)]
Dtype = Literal["float32", "float64", "int32", "int64", "bool", "string"]


def _ascending(values: list[int]) -> list[int]:
    if sorted(set(values)) != values or (values and values[0] < 1):
        raise ValueError("give each size once, from 1 on, the smallest first")
    return values


Sizes = Annotated[list[int], AfterValidator(_ascending)]
"""Sizes of batches or sequences, ascending."""


class Settings(BaseModel):
    """Base: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )
