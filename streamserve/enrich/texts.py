"""String features to string inputs, and categories to their positions.

A look-up is one dictionary's bound `get` mapped over the column. `other` stands for any value outside the
categories: as a text it is `other`, as a position it is the number of categories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import cast

import numpy as np

from streamserve.batch import Column, Tensor
from streamserve.config.settings import FeatureSettings
from streamserve.enrich.findings import Findings, text_text
from streamserve.enrich.fit import Binding

MISSING = -1
"""Code of a missing value that has no default."""
UNKNOWN = -2
"""Code of a value outside the categories that is to be rejected."""
OTHER = "other"
_LISTED = 10


class Codes:
    """Text to position among the categories of one feature."""

    def __init__(self, feature: FeatureSettings) -> None:
        categories = feature.categories or []
        self._categories = categories
        self._other = len(categories) if feature.unknown == "other" else UNKNOWN
        self._positions: dict[str | None, int] = {text: i for i, text in enumerate(categories)}
        default = cast("str | None", feature.default)
        self._positions[None] = MISSING if default is None else self._positions.get(default, self._other)

    def of(self, texts: Sequence[str | None]) -> Iterator[int]:
        """The code of each text: a position, MISSING or UNKNOWN."""
        return map(self._positions.get, texts, repeat(self._other))

    def unknown_words(self, text: str, where: str) -> str:
        """What is wrong with a text outside the categories; `where` is what to call it."""
        count = len(self._categories)
        listed = ", ".join(self._categories[:_LISTED]) + (", ..." if count > _LISTED else "")
        return f"{where} = {text_text(text)} is none of its {count} categories ({listed})"


class TextInput:
    """A string input: object[m, k] of str, or object[m] for one of a single axis."""

    def __init__(self, binding: Binding) -> None:
        self._members = [(index, feature, Codes(feature)) for index, feature in binding.members]
        self._flat = len(binding.input.shape) == 1

    def tensor(self, fields: Mapping[str, Column], count: int, findings: Findings) -> Tensor:
        tensor = np.empty((count, len(self._members)), object)
        for j, (index, feature, codes) in enumerate(self._members):
            texts = cast("list[str | None]", fields[feature.name])
            if None in texts:
                texts = self._filled(texts, index, feature, findings)
            if feature.categories is not None:
                texts = self._known(texts, index, feature, codes, findings)
            tensor[:, j] = texts
        return tensor[:, 0] if self._flat else tensor

    @staticmethod
    def _filled(texts: list[str | None], index: int, feature: FeatureSettings, findings: Findings) -> list[str | None]:
        if feature.default is None:
            detail = f"{feature.name} is missing and has no default"
            for i, text in enumerate(texts):
                if text is None:
                    findings.add(i, index, "missing_feature", detail, feature.name)
        default = cast("str | None", feature.default)
        return [default if text is None else text for text in texts]

    @staticmethod
    def _known(
        texts: list[str | None], index: int, feature: FeatureSettings, codes: Codes, findings: Findings
    ) -> list[str | None]:
        known = {None, *cast("list[str]", feature.categories)}
        if known.issuperset(texts):
            return texts
        if feature.unknown == "other":
            return [text if text in known else OTHER for text in texts]
        for i, text in enumerate(texts):
            if text not in known:
                findings.add(i, index, "schema", codes.unknown_words(cast("str", text), feature.name), feature.name)
        return texts
