"""The rules for `features`: names, types, bounds, categories and defaults that fit each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from streamserve.config.document import Path
from streamserve.config.settings import FeatureSettings, PipelineSettings, SequenceSettings, VectorSettings
from streamserve.config.wording import Finding, kind_of

_INTEGER_BITS = {"int32": 31, "int64": 63}


def feature_findings(settings: PipelineSettings) -> Iterator[Finding]:
    """Every contradiction within the features, and between them and the input's format."""
    features = settings.features
    if isinstance(features, VectorSettings):
        yield from _bounds(features, ("features",))
        names = [features.field]
    else:
        names = [feature.name for feature in features]
        for name, count in Counter(names).items():
            if count > 1:
                second = [index for index, other in enumerate(names) if other == name][1]
                yield Finding(("features", second, "name"), f"{name} is given {count} times")
        for index, feature in enumerate(features):
            yield from _feature(feature, ("features", index))
    if settings.input.format == "raw":
        yield from _raw(settings, names)


def _raw(settings: PipelineSettings, names: list[str]) -> Iterator[Finding]:
    for key in ("id", "key", "event_time"):
        field = getattr(settings.input, key)
        if field is not None and field not in names:
            yield Finding(("input", key), "a raw record has no fields but the features", "leave it out")
    if isinstance(settings.features, VectorSettings):
        return
    for index, feature in enumerate(settings.features):
        if feature.dtype == "string":
            path = ("features", index, "dtype")
            yield Finding(path, "a raw record cannot hold a string", "input.format: json or msgpack")
        if feature.sequence is not None:
            path = ("features", index, "sequence")
            yield Finding(path, "raw records are all of one size", "input.format: json or msgpack")


def _feature(feature: FeatureSettings, path: Path) -> Iterator[Finding]:
    if feature.dtype in {"string", "bool"}:
        for key in ("min", "max"):
            if getattr(feature, key) is not None:
                yield Finding((*path, key), f"a {feature.dtype} has no bounds", "leave it out")
    yield from _bounds(feature, path)
    yield from _categories(feature, path)
    if feature.sequence is not None:
        yield from _sequence(feature, feature.sequence, (*path, "sequence"))
        if feature.default is not None:
            yield Finding((*path, "default"), "a sequence has no default", "sequence: {missing: empty}")
    elif feature.default is not None:
        yield from _default(feature, path)


def _bounds(feature: FeatureSettings | VectorSettings, path: Path) -> Iterator[Finding]:
    if feature.min is not None and feature.max is not None and feature.min > feature.max:
        yield Finding((*path, "min"), f"is more than max ({feature.max:g})")


def _categories(feature: FeatureSettings, path: Path) -> Iterator[Finding]:
    categories = feature.categories
    if categories is None:
        if feature.unknown == "other":
            yield Finding((*path, "unknown"), "needs categories", "list them, or leave it out")
        return
    if feature.dtype != "string":
        yield Finding((*path, "categories"), f"only a string has categories, not {feature.dtype}")
    if not categories:
        yield Finding((*path, "categories"), "must not be empty")
    for name, count in Counter(categories).items():
        if count > 1:
            yield Finding((*path, "categories"), f"{name} is given {count} times")


def _sequence(feature: FeatureSettings, sequence: SequenceSettings, path: Path) -> Iterator[Finding]:
    longest = sequence.max_length
    if sequence.min_length > longest:
        yield Finding((*path, "min_length"), f"is more than max_length ({longest})")
    if sequence.missing == "empty" and sequence.min_length > 0:
        yield Finding((*path, "missing"), f"an empty sequence is shorter than min_length ({sequence.min_length})")
    for length in sequence.buckets or ():
        if length > longest:
            yield Finding((*path, "buckets"), f"{length} is more than max_length ({longest})")
    texts = feature.dtype == "string" and feature.categories is None
    if sequence.pad is not None and isinstance(sequence.pad, str) != texts and feature.categories is None:
        hint = "put it in quotes" if texts else "a number"
        yield Finding((*path, "pad"), f"is {kind_of(sequence.pad)} in a sequence of {feature.dtype}", hint)
    if sequence.mask is not None and sequence.mask == (feature.input or feature.name):
        yield Finding((*path, "mask"), "is the input of the sequence itself")


def _default(feature: FeatureSettings, path: Path) -> Iterator[Finding]:
    here, value = (*path, "default"), feature.default
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if feature.dtype == "string":
        if not isinstance(value, str):
            yield Finding(here, f"must be text, not {kind_of(value)}", "put it in quotes")
        elif feature.categories and feature.unknown == "reject" and value not in feature.categories:
            yield Finding(here, "is none of the categories")
        return
    if feature.dtype == "bool":
        if not isinstance(value, bool):
            yield Finding(here, f"must be true or false, not {kind_of(value)}")
        return
    if not number:
        yield Finding(here, f"must be a number, not {kind_of(value)}")
    elif isinstance(value, (int, float)):
        bits = _INTEGER_BITS.get(feature.dtype)
        if bits is not None and (value != int(value) or not -(2**bits) <= value < 2**bits):
            yield Finding(here, f"is no {feature.dtype}")
        if feature.min is not None and value < feature.min:
            yield Finding(here, f"is less than min ({feature.min:g})")
        if feature.max is not None and value > feature.max:
            yield Finding(here, f"is more than max ({feature.max:g})")
