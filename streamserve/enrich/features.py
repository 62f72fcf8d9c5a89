"""Columns of events to tensors: defaults, bounds, categories, and the first problem of every bad row.

A whole input is checked with one comparison; only where that fails are the rows at fault looked at, in the
order of the features, so that each bad row gets exactly one reject, for its first feature at fault. Rows that
are rejected leave by `take`: the tensors of their neighbours are the same as without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamserve.batch import EventBatch, FeatureBatch, Reject, Tensors
from streamserve.config.settings import FeatureSettings, VectorSettings
from streamserve.enrich.findings import Findings
from streamserve.enrich.fit import Binding, bind
from streamserve.enrich.numbers import FloatInput, IntegerInput
from streamserve.enrich.sequences import SequenceInput
from streamserve.enrich.texts import TextInput
from streamserve.enrich.vectors import VectorInput
from streamserve.errors import ContractError
from streamserve.ports import Signature

Input = FloatInput | IntegerInput | TextInput | VectorInput | SequenceInput


class FeatureEnricher:
    """An `Enricher` for one model signature.

    Args:
        features: the spec, in the order of the model's columns.
        signature: the inputs to fill.

    Attributes:
        padded: the inputs that sequences fill, for whoever pads them.

    Raises:
        ContractError: the features do not fit the signature; the message holds every problem.
    """

    def __init__(self, features: Sequence[FeatureSettings] | VectorSettings, signature: Signature) -> None:
        bindings, problems = bind(features, signature)
        if problems:
            raise ContractError("The features do not fit the model: " + "; ".join(problems) + ".")
        self._inputs = [(binding.input.name, _input(binding)) for binding in bindings]
        self.padded = tuple(binding.padded for binding in bindings if binding.padded is not None)

    def enrich(self, events: EventBatch) -> tuple[FeatureBatch, list[Reject]]:
        findings = Findings()
        tensors: Tensors = {name: source.tensor(events.fields, len(events), findings) for name, source in self._inputs}
        batch = FeatureBatch(events=events, inputs=tensors)
        if not findings:
            return batch, []
        rejects = findings.rejects(events.row)
        return batch.take([i for i in range(len(events)) if i not in findings]), rejects


def _input(binding: Binding) -> Input:
    if binding.vector is not None:
        return VectorInput(binding.vector, binding.input.shape)
    if binding.padded is not None:
        return SequenceInput(binding)
    make: Callable[[Binding], Input]
    match binding.input.dtype:
        case "float32" | "float64":
            make = FloatInput
        case "str":
            make = TextInput
        case _:
            make = IntegerInput
    return make(binding)
