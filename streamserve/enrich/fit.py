"""Do the configured features fit the model? Found out once, before the first record.

`bind` assigns every feature to the model input it fills and collects what does not fit; each problem says
what is wrong, where, and how to mend it. It looks at names, widths and dtypes only, never at data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from streamserve.config.settings import FeatureSettings, SequenceSettings, VectorSettings
from streamserve.pipeline.sequences import PaddedInput, length_problems, padded_input
from streamserve.ports import Signature, TensorSpec

CARRIES: dict[str, frozenset[str]] = {
    "float32": frozenset({"float32", "int32", "int64", "bool"}),
    "float64": frozenset({"float64", "int32", "int64", "bool"}),
    "int64": frozenset({"int64", "int32", "bool"}),
    "int32": frozenset({"int32", "bool"}),
    "bool": frozenset({"bool"}),
    "str": frozenset({"string"}),
}
"""Feature dtypes that an input of a dtype takes. A string with categories also fills any number input."""
NUMBER_INPUTS = frozenset({"float32", "float64", "int64", "int32"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One model input and what fills it.

    Attributes:
        input: the input.
        members: the features, in column order, each with its position in the spec.
        vector: the vector field, if that is what fills it.
        padded: how it is padded, if a sequence fills it.
    """

    input: TensorSpec
    members: tuple[tuple[int, FeatureSettings], ...] = ()
    vector: VectorSettings | None = None
    padded: PaddedInput | None = None


def check_features(features: Sequence[FeatureSettings] | VectorSettings, signature: Signature) -> list[str]:
    """Every reason why these features cannot feed a model of this signature; empty when they can."""
    return bind(features, signature)[1]


def bind(features: Sequence[FeatureSettings] | VectorSettings, signature: Signature) -> tuple[list[Binding], list[str]]:
    """Assign features to inputs. Returns: the bindings in the order of the inputs, and all problems."""
    masks = mask_names(features)
    inputs = {spec.name: spec for spec in signature.inputs if spec.name not in masks}
    problems: list[str] = []
    members: dict[str, list[tuple[int, FeatureSettings]]] = {name: [] for name in inputs}
    bindings: list[Binding] = []
    homeless: dict[str | None, list[str]] = {}
    if isinstance(features, VectorSettings):
        target = _target(features.field, features.input, inputs, homeless)
        if target is not None:
            problems += _vector_problems(features, target)
            bindings.append(Binding(input=target, vector=features))
    else:
        for index, feature in enumerate(features):
            problems += _feature_problems(feature)
            target = _target(feature.name, feature.input, inputs, homeless)
            if target is not None:
                members[target.name].append((index, feature))
                problems += _dtype_problems(feature, target)
        for name, group in members.items():
            if any(feature.sequence for _, feature in group):
                padded, found = _sequence(inputs[name], group, signature)
                bindings.append(Binding(input=inputs[name], members=tuple(group), padded=padded))
                problems += found
            elif group:
                bindings.append(Binding(input=inputs[name], members=tuple(group)))
                problems += _width_problems(inputs[name], group)
        problems += length_problems([binding.padded for binding in bindings if binding.padded])
    problems += _target_problems(homeless, inputs)
    filled = {binding.input.name for binding in bindings}
    problems += [
        f"model input {name} is filled by no feature; add features with `input: {name}`"
        for name in inputs
        if name not in filled
    ]
    return bindings, problems


def _target(
    name: str, chosen: str | None, inputs: dict[str, TensorSpec], homeless: dict[str | None, list[str]]
) -> TensorSpec | None:
    """The input that a feature fills; one without is noted in `homeless`, by the input that it names."""
    if chosen is None and len(inputs) == 1:
        return next(iter(inputs.values()))
    target = inputs.get(name if chosen is None else chosen)
    if target is None:
        homeless.setdefault(chosen, []).append(name)
    return target


def _target_problems(homeless: dict[str | None, list[str]], inputs: dict[str, TensorSpec]) -> list[str]:
    """One problem for all features that are wrong in the same way."""
    known = ", ".join(inputs)
    problems = []
    for chosen, names in homeless.items():
        one = len(names) == 1
        who = f"feature {names[0]}" if one else f"{len(names)} features ({_listed(names)})"
        if chosen is None:
            problems.append(f"{who} could fill any of the model's inputs {known}; say which with `input:`")
        else:
            verb = "names" if one else "name"
            problems.append(f"{who} {verb} the input {chosen}, but the model's inputs are {known}")
    return problems


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def _sequence(
    target: TensorSpec, group: Sequence[tuple[int, FeatureSettings]], signature: Signature
) -> tuple[PaddedInput | None, list[str]]:
    """How the sequence among `group` is padded into `target`, and every reason why it cannot be."""
    if len(group) > 1:
        names = ", ".join(feature.name for _, feature in group)
        return None, [f"a sequence fills its input alone, but {names} all fill input {target.name}; say `input:`"]
    feature = group[0][1]
    return padded_input(f"sequence {feature.name}", cast("SequenceSettings", feature.sequence), target, signature)


def mask_names(features: Sequence[FeatureSettings] | VectorSettings) -> set[str]:
    """The model inputs that are masks of sequences: no feature fills them."""
    if isinstance(features, VectorSettings):
        return set()
    return {each.sequence.mask for each in features if each.sequence is not None and each.sequence.mask is not None}


def _vector_problems(vector: VectorSettings, target: TensorSpec) -> list[str]:
    what = f"vector {vector.field} ({vector.dtype}, size {vector.size})"
    problems = []
    if target.dtype != vector.dtype:
        hint = f"set `dtype: {target.dtype}`" if target.dtype in {"float32", "float64"} else "use a list"
        problems.append(f"{what} cannot fill input {target.name}, {target}: {hint}")
    size = 1
    for axis in target.shape[1:]:
        size *= axis
    free = any(axis < 0 for axis in target.shape[1:])
    fits = len(target.shape) == 2 if free else len(target.shape) >= 2 and size == vector.size
    if not fits:
        problems.append(f"{what} does not have the size of input {target.name}, {target}; set `size`")
    return problems


def _width_problems(target: TensorSpec, group: Sequence[tuple[int, FeatureSettings]]) -> list[str]:
    names = _listed([feature.name for _, feature in group])
    what = f"input {target.name}, {target}"
    match target.shape:
        case (_,):
            width = 1
        case (_, axis):
            width = len(group) if axis < 0 else axis
        case _:
            return [f"{what}: a list of features fills inputs of one or two axes; use one vector field"]
    if width != len(group):
        return [f"{what} takes {width} features, but {len(group)} are given: {names}"]
    return []


def _dtype_problems(feature: FeatureSettings, target: TensorSpec) -> list[str]:
    if target.dtype not in CARRIES:
        return [f"input {target.name} has dtype {target.dtype}, which no feature can fill; convert the model"]
    coded = feature.dtype == "string" and feature.categories is not None and target.dtype in NUMBER_INPUTS
    if coded or feature.dtype in CARRIES[target.dtype]:
        return []
    hint = "give it `categories`" if feature.dtype == "string" else f"declare `dtype: {_native(target.dtype)}`"
    what = f"feature {feature.name} has dtype {feature.dtype}"
    return [f"{what}, but input {target.name} is {target}; {hint}"]


def _native(dtype: str) -> str:
    return "string" if dtype == "str" else dtype


def _feature_problems(feature: FeatureSettings) -> list[str]:
    """What a feature contradicts in itself."""
    name, default = feature.name, feature.default
    numeric = feature.dtype not in {"string", "bool"}
    problems = []
    if not numeric and (feature.min is not None or feature.max is not None):
        problems.append(f"feature {name} is a {feature.dtype}: `min` and `max` are for numbers; remove them")
    if feature.min is not None and feature.max is not None and feature.min > feature.max:
        problems.append(f"feature {name} has `min` {feature.min:g} above `max` {feature.max:g}")
    if feature.categories is not None and feature.dtype != "string":
        problems.append(f"feature {name} has `categories`, which are for `dtype: string`")
    if feature.categories is not None and len(set(feature.categories)) != len(feature.categories):
        problems.append(f"feature {name} lists a category twice")
    if default is None:
        return problems
    if feature.sequence is not None:
        return [*problems, f"feature {name} is a sequence and has a `default`; use `sequence: {{missing: empty}}`"]
    if not _is_of(default, feature.dtype):
        problems.append(f"feature {name} has the default {default!r}, which is no {feature.dtype}")
    elif numeric and not _within(feature, float(default)):
        problems.append(f"feature {name} has the default {default!r}, outside its own `min` and `max`")
    elif feature.unknown == "reject" and default not in _categories(feature, default):
        problems.append(f"feature {name} has the default {default!r}, which is none of its categories")
    return problems


def _categories(feature: FeatureSettings, default: object) -> Sequence[object]:
    return [default] if feature.categories is None else feature.categories


def _is_of(default: object, dtype: str) -> bool:
    if dtype in {"string", "bool"}:
        return isinstance(default, str if dtype == "string" else bool)
    if isinstance(default, bool) or not isinstance(default, int | float):
        return False
    return dtype.startswith("float") or float(default).is_integer()


def _within(feature: FeatureSettings, value: float) -> bool:
    above = feature.min is None or value >= feature.min
    return above and (feature.max is None or value <= feature.max)
