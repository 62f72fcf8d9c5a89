"""Environment variables and flags over the file.

Owns the names (`STREAMSERVE_INPUT__FORMAT`; in the `kafka` block `_` stands for `.`) and the reading of a
text as a value; where a value is put it leaves a note of who put it, for messages and for `config show`.
The settings' types decide later what a text means, so `3` is a number where one is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from streamserve.config.document import Path, dotted, read_document
from streamserve.config.kafka_properties import known_names
from streamserve.config.shape import forms_at, keys_at, takes_list, takes_plain_values, takes_text_only
from streamserve.config.wording import did_you_mean, nearest
from streamserve.errors import Problem

PREFIX = "STREAMSERVE_"
NOT_CONFIGURATION = frozenset(
    {
        "STREAMSERVE_CACHE_DIR",
        "STREAMSERVE_FAILPOINTS",
        "STREAMSERVE_LAST_EXIT_CODE",
        "STREAMSERVE_LAST_EXIT_SIGNAL",
        "STREAMSERVE_PII_KEY",
    }
)
"""Variables of this prefix that other parts of the project read."""
_SERVICE_LINK = re.compile(r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.+)?)")
_NOTHING = ("null", "~")


class Override(NamedTuple):
    """One value from outside the file.

    Attributes:
        path: where it goes.
        text: the value as given.
        origin: what to call its source in messages.
        source: `env` or `flag`.
    """

    path: Path
    text: str
    origin: str
    source: str


def from_environment(environ: Mapping[str, str]) -> tuple[list[Override], list[Problem]]:
    """Every override in the environment, and every variable of our prefix that is none."""
    found, problems = [], []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_CONFIGURATION or _is_service_link(name, environ[name]):
            continue
        path = _environment_path(name.removeprefix(PREFIX))
        if not forms_at(path):
            problems.append(Problem(message="no such key", file=name, path=dotted(path), hint=_near(path)))
        elif "\n" in environ[name] or "\r" in environ[name]:
            problems.append(Problem(message="the value holds a newline", file=name, path=dotted(path)))
        else:
            found.append(Override(path, environ[name], name, "env"))
    return found, problems


def from_flags(flags: Mapping[str, str]) -> tuple[list[Override], list[Problem]]:
    """Every override given by a flag, as dotted paths (`features.0.min`, `kafka.client.id`)."""
    found, problems = [], []
    for name, text in flags.items():
        head, _, rest = name.partition(".")
        path: Path = (head, rest) if head == "kafka" and rest else _steps(name.split("."))
        if forms_at(path):
            found.append(Override(path, text, "flag", "flag"))
        else:
            problems.append(Problem(message="no such key", file="flag", path=name, hint=_near(path)))
    return found, problems


def put(data: dict[str, object], override: Override) -> list[Problem]:
    """Put a value into `data`, making the mappings on its way."""
    value, problems = _read(override)
    if problems:
        return problems
    holder: object = data
    for part, following in zip(override.path[:-1], override.path[1:], strict=True):
        below = _get(holder, part)
        if not isinstance(below, (dict, list)):
            below = [] if isinstance(following, int) else {}
            if not _set(holder, part, below):
                return [_no_place(override)]
        holder = below
    return [] if _set(holder, override.path[-1], value) else [_no_place(override)]


def _environment_path(name: str) -> Path:
    head, separator, rest = name.partition("__")
    if head == "KAFKA" and separator:
        return ("kafka", _kafka_name(rest.lower()))
    return _steps(part.lower() for part in name.split("__"))


def _kafka_name(name: str) -> str:
    """The property meant: `_` stands for `.`, except where a known name has it (`sasl.password_file`)."""
    for prefix in ("consumer_", "producer_"):
        if name.startswith(prefix):
            return f"{prefix[:-1]}.{_kafka_name(name.removeprefix(prefix))}"
    known = {property_name.replace(".", "_"): property_name for property_name in known_names()}
    return known.get(name, name.replace("_", "."))


def _steps(parts: Iterable[str]) -> Path:
    return tuple(int(part) if part.isascii() and part.isdigit() and len(part) < 6 else part for part in parts)


def _is_service_link(name: str, value: str) -> bool:
    """Kubernetes sets such variables in every pod beside a Service whose name begins like our prefix."""
    rest = name.removeprefix(PREFIX)
    if "__" in rest:
        return False
    return bool(_SERVICE_LINK.fullmatch(rest)) or (rest.endswith("PORT") and "://" in value)


def _near(path: Path) -> str:
    for end in range(len(path)):
        if not forms_at(path[: end + 1]):
            known = keys_at(path[:end])
            joined = "_".join(str(part) for part in path)
            whole = nearest(joined, [f"{top}_{key}" for top in keys_at(()) for key in keys_at((top,))])
            if end == 0 and "_" in str(path[0]) and whole:
                return "between levels stands `__`"
            return did_you_mean(str(path[end]), known)
    return ""


def _read(override: Override) -> tuple[object, list[Problem]]:
    text, path = override.text.strip(), override.path
    if text in _NOTHING:
        return None, []
    if (text[:1] in {"[", "{"} and not takes_text_only(path)) or takes_plain_values(path):
        document = read_document(text, override.origin)
        problems = [Problem(message=p.message, path=dotted(path), file=override.origin) for p in document.problems]
        return document.data, problems
    if takes_list(path):
        return [part.strip() for part in text.split(",") if part.strip()], []
    return override.text, []


def _get(holder: object, part: str | int) -> object:
    if isinstance(holder, dict):
        return holder.get(part)
    if isinstance(holder, list) and isinstance(part, int) and part < len(holder):
        return holder[part]
    return None


def _set(holder: object, part: str | int, value: object) -> bool:
    if isinstance(holder, dict):
        holder[part] = value
        return True
    if isinstance(holder, list) and isinstance(part, int) and part <= len(holder):
        holder[part : part + 1] = [value]
        return True
    return False


def _no_place(override: Override) -> Problem:
    return Problem(message="there is no such place", path=dotted(override.path), file=override.origin)
