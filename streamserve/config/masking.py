"""Secrets out of sight: for `config show`, logs, metadata and errors.

By name (`sasl.password`, `*.secret`), and by form: the password inside a URL, wherever it stands. The names
of `*_file` keys are no secrets and stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from streamserve.config.kafka_catalogue import SECRETS

MASK = "***"
_WORDS = re.compile(r"(?:^|[._-])(?:password|passwd|secret|token|pem|api[._-]?key|jaas[._-]config)$", re.IGNORECASE)
_PUBLIC = frozenset({"ssl.certificate.pem", "ssl.ca.pem"})
# Greedy up to the last @: a password may hold one.
_URL = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/:@]*):(?P<password>[^\s/]*)@")
_QUERY = re.compile(r"(?P<name>[?&](?:password|token|secret)=)[^&\s]+", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<name>\b(?:[\w.-]*[._-])?(?:password|secret|token))(?P<sep>['\"]?\s*=\s*|['\"]\s*:\s*)(?P<quote>['\"]?)[^\s,;'\"}&]+",
    re.IGNORECASE,
)


def is_secret(key: str) -> bool:
    """Whether the value of the key `key` must not be shown."""
    bare = key.removeprefix("consumer.").removeprefix("producer.")
    return bare not in _PUBLIC and (bare in SECRETS or bool(_WORDS.search(bare)))


def mask_url(url: str) -> str:
    """The text with the password of every URL in it masked: `redis://user:***@host/0`."""
    masked = _URL.sub(rf"\g<scheme>\g<user>:{MASK}@", url)
    return _QUERY.sub(rf"\g<name>{MASK}", masked)


def mask_text(text: str) -> str:
    """A message of any origin, with URLs and `password=...` pairs masked."""
    return _PAIR.sub(rf"\g<name>\g<sep>\g<quote>{MASK}", mask_url(text))


def mask(value: object, key: str = "") -> object:
    """A copy of a tree of plain values in which no secret is left.

    Args:
        value: mappings, lists, text, numbers.
        key: the key it stands under.
    """
    if isinstance(value, Mapping):
        return {name: mask(inner, str(name)) for name, inner in value.items()}
    if value is None or value == "":
        return value
    if is_secret(key):
        return MASK
    if isinstance(value, (list, tuple)):
        return [mask(inner) for inner in value]
    return mask_url(value) if isinstance(value, str) else value
