"""Mistakes in plain words: what pydantic finds wrong, said to somebody who has never heard of it.

Owns the sentences and the hints ("did you mean"); knows nothing of files. A value itself is repeated only
where a choice was misspelt: anything else could be a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic_core import ErrorDetails

from streamserve.config.base import NAME_PATTERN, TOPIC_PATTERN
from streamserve.config.document import Path
from streamserve.config.engine_settings import FUNCTION_PATTERN, SHA256_PATTERN
from streamserve.config.shape import keys_at

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of reasonable size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
_PATTERNS = {
    NAME_PATTERN: "must be lower-case letters, digits, `.` and `-`, with a letter or digit at both ends",
    TOPIC_PATTERN: "must be letters, digits, `.` and `-`; a topic name never has `_`",
    SHA256_PATTERN: "must be 64 hexadecimal digits in lower case, as `sha256sum` prints them",
    FUNCTION_PATTERN: "must be the name of a function",
}


class Finding(NamedTuple):
    """A mistake at a path."""

    path: Path
    message: str
    hint: str = ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like `word`, or nothing when none is."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A hint for a misspelt word: the nearest known one, else all of them when they are few."""
    close = nearest(word, known)
    if close:
        return f"did you mean {close}?"
    return f"known: {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""


def kind_of(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    for kind, name in ((float, "a number"), (str, "text"), (list, "a list"), (Mapping, "a mapping")):
        if isinstance(value, kind):
            return name
    return "something else"


def findings(errors: Iterable[ErrorDetails], data: object) -> list[Finding]:
    """Pydantic's errors as findings, one a path.

    Args:
        errors: from `ValidationError.errors()`.
        data: what was validated; paths are brought back to its keys (a union adds its own parts to them).
    """
    by_path: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        by_path.setdefault(_in_data(error, data), []).append(error)
    found = []
    for path, group in by_path.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in by_path)
        if deeper and all(error["type"] in _TYPES for error in group):
            continue  # the other branch of a union: its mistakes lie deeper and say more
        found.append(_finding(path, group))
    return found


def _in_data(error: ErrorDetails, data: object) -> Path:
    path: Path = ()
    parts = error["loc"]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if isinstance(data, Mapping):
            items: Mapping[str | int, object] = data
        else:
            items = dict(enumerate(data)) if isinstance(data, list) else {}
        if part in items:
            data = items[part]
        elif not (last and error["type"] in {"missing", "extra_forbidden"}):
            continue
        path = (*path, part)
    return path


def _finding(path: Path, group: list[ErrorDetails]) -> Finding:
    error = group[0]
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return Finding(path, "is missing")
    if kind == "union_tag_not_found":
        return Finding((*path, _tag(context)), "is missing")
    if kind == "union_tag_invalid":
        return Finding((*path, _tag(context)), *_choice(str(context["tag"]), str(context["expected_tags"])))
    if kind == "extra_forbidden":
        return Finding(path, "unknown key", did_you_mean(str(path[-1]), keys_at(path[:-1])))
    if all(other["type"] in _TYPES for other in group):
        wanted = list(dict.fromkeys(_TYPES[other["type"]] for other in group))
        wanted = [word for word in wanted if not (word == "a whole number" and "a number" in wanted)]
        value = error["input"]
        hint = "put it in quotes" if wanted == ["text"] and isinstance(value, (int, float)) else ""
        return Finding(path, f"must be {' or '.join(wanted)}, not {_but(value, kind)}", hint)
    return Finding(path, *_bounds(kind, context, error))


def _but(value: object, kind: str) -> str:
    if kind == "int_from_float":
        return "a number with a fraction"
    return "infinite or NaN" if kind == "finite_number" else kind_of(value)


def _bounds(kind: str, context: Mapping[str, object], error: ErrorDetails) -> tuple[str, str]:
    if kind == "literal_error":
        return _choice(str(error["input"]), str(context.get("expected", "")))
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(context.get("pattern")), "is not written as it must be"), ""
    comparisons = {
        "greater_than": ("more than", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("less than", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in comparisons:
        words, key = comparisons[kind]
        return f"must be {words} {_plain(context[key])}", ""
    if kind in {"too_short", "string_too_short"}:
        return "must not be empty", ""
    if kind in {"too_long", "string_too_long"}:
        return f"must not be longer than {_plain(context['max_length'])}", ""
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:], ""


def _tag(context: Mapping[str, object]) -> str:
    """The key that tells the sections of a union apart."""
    return str(context["discriminator"]).strip("'")


def _choice(given: str, expected: str) -> tuple[str, str]:
    """What a word must be, from pydantic's `'a', 'b' or 'c'`."""
    expected = expected.replace("'", "").replace(" or ", ", ")
    hint = nearest(given, expected.split(", "))
    return f"must be {_one_of(expected)}", f"did you mean {hint}?" if hint else ""


def _one_of(expected: str) -> str:
    return f"one of {expected}" if ", " in expected else expected


def _plain(number: object) -> str:
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)
