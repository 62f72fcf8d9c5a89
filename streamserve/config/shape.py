"""What may stand where in the configuration: the tree of keys that the settings' types span.

Answers two questions about a path: does it exist, and which keys are its siblings. Environment variables,
flags and the hints for unknown keys ask here.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel

from streamserve.config.document import Path
from streamserve.config.settings import PipelineSettings


def forms_at(path: Path) -> list[object]:
    """The types that a value at `path` may have; none where the path does not exist."""
    forms = list(_forms(PipelineSettings))
    for part in path:
        forms = [inner for form in forms for child in _children(form, part) for inner in _forms(child)]
    return forms


def keys_at(path: Path) -> list[str]:
    """The fixed keys of the mapping at `path`."""
    return [key for form in forms_at(path) for key in _fields(form)]


def takes_list(path: Path) -> bool:
    """Whether a list, and no plain text, stands at `path`."""
    forms = forms_at(path)
    return any(get_origin(form) is list for form in forms) and str not in forms


def takes_text_only(path: Path) -> bool:
    """Whether text, and nothing else but null, stands at `path`."""
    return set(forms_at(path)) - {type(None)} == {str}


def takes_plain_values(path: Path) -> bool:
    """Whether text and numbers both may stand at `path`, so that `3` and `"3"` differ."""
    forms = forms_at(path)
    return str in forms and (int in forms or float in forms)


def _forms(annotation: object) -> Iterator[object]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _forms(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for part in get_args(annotation):
            yield from _forms(part)
    else:
        yield annotation


def _is_model(form: object) -> bool:
    return isinstance(form, type) and issubclass(form, BaseModel)


def _fields(form: object) -> dict[str, object]:
    if not (isinstance(form, type) and issubclass(form, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in form.model_fields.items()}


def _children(form: object, part: str | int) -> Iterator[object]:
    if _is_model(form):
        fields = _fields(form)
        if isinstance(part, str) and part in fields:
            yield fields[part]
    elif get_origin(form) is dict and isinstance(part, str):
        yield get_args(form)[1]
    elif get_origin(form) is list and isinstance(part, int):
        yield get_args(form)[0]
