"""Personal values before they are written: a keyed hash, or nothing (`drift.pii`).

The hash is BLAKE2b with the secret as its key, 16 bytes, in hexadecimal: without the secret nobody can try values
out, with it equal values stay equal, across features, workers and days, so that they can still be counted and joined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

import numpy as np

from streamserve.drift.chunk import SampledColumn, TextColumn

DIGEST_BYTES: Final = 16
MAX_KEY_BYTES: Final = 64
"""BLAKE2b takes no longer key; a longer secret is hashed first."""


class Personal:
    """Hashes personal values.

    Args:
        secret: the key, not empty where anything is hashed.
        hashed: names of features, and `id` and `key`, that are hashed.

    Attributes:
        hashed: those names.
    """

    def __init__(self, secret: bytes, hashed: Collection[str]) -> None:
        self._key = secret if len(secret) <= MAX_KEY_BYTES else hashlib.blake2b(secret).digest()
        self.hashed = frozenset(hashed)

    def text(self, value: str) -> str:
        """The hash of a text, as it stands in `id` and in text columns."""
        return self.digest(value.encode("utf-8", "surrogatepass"))

    def digest(self, value: bytes) -> str:
        """The hash of bytes."""
        return hashlib.blake2b(value, digest_size=DIGEST_BYTES, key=self._key).hexdigest()

    def ids(self, ids: list[str]) -> list[str]:
        """Event ids, hashed if they are personal."""
        return [self.text(each) for each in ids] if "id" in self.hashed else ids

    def entities(self, entities: list[bytes | None]) -> list[bytes | None]:
        """Entity keys, hashed if they are personal."""
        if "key" not in self.hashed:
            return entities
        known = {each: self.digest(each).encode() for each in set(entities) if each is not None}
        return [None if each is None else known[each] for each in entities]

    def column(self, name: str, column: SampledColumn) -> SampledColumn:
        """A column, hashed if it is personal; numbers become texts. What is missing stays missing."""
        if name not in self.hashed:
            return column
        if not isinstance(column, TextColumn):
            column = TextColumn.of([None if value != value else _number_text(value) for value in _numbers(column)])  # noqa: PLR0124
        values = tuple(None if value is None else self.text(value) for value in column.values)
        return TextColumn(codes=column.codes, values=values)


NOTHING_PERSONAL: Final = Personal(b"", ())


def _numbers(column: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> list[float]:
    return column.tolist() if column.ndim == 1 else []


def _number_text(value: float) -> str:
    """A whole number looks the same whether it came as an integer or, beside missing ones, as a float."""
    return str(int(value)) if float(value).is_integer() else repr(value)
