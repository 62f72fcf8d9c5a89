"""The rules for `output.post`, `output.outputs` and `output.threshold` as far as they show without the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from streamserve.config.document import Path
from streamserve.config.settings import PipelineSettings, SoftmaxStep, ThresholdSettings, TopKStep
from streamserve.config.wording import Finding


def output_findings(settings: PipelineSettings) -> Iterator[Finding]:
    """Names that are given twice or not at all, labels that cannot be."""
    outputs = settings.output.outputs
    names = set(outputs or ())
    if outputs is not None and not outputs:
        yield Finding(("output", "outputs"), "must not be empty", "leave it out for all outputs")
    for name, threshold in settings.output.threshold.items():
        path = ("output", "threshold", name)
        if outputs and name not in outputs:
            yield Finding(path, "is no name in output.outputs", f"known: {', '.join(sorted(outputs))}")
        given = threshold.name if isinstance(threshold, ThresholdSettings) else None
        decision = given or f"{name}_decision"
        if decision in names:
            yield Finding(path, f"its boolean {decision} has the name of another output", "name it with `as`")
        names.add(decision)
    yield from _steps(settings)


def _steps(settings: PipelineSettings) -> Iterator[Finding]:
    steps = settings.output.post
    made: set[str] = set()
    for name, step in steps.items():
        path: Path = ("output", "post", name)
        if step.of == name or (step.of in steps and step.of not in made):
            yield Finding((*path, "of"), f"{step.of} is made later", "list the steps in the order they run in")
        made.add(name)
        if isinstance(step, TopKStep) and step.values is not None:
            if step.values in steps or step.values in made:
                yield Finding((*path, "values"), f"{step.values} is the name of another output", "name another")
            made.add(step.values)
        if isinstance(step, SoftmaxStep) or step.labels is None:
            continue
        for label, count in Counter(step.labels).items():
            if count > 1:
                yield Finding((*path, "labels"), f"{label} is given {count} times")
        if isinstance(step, TopKStep) and step.k > len(step.labels):
            yield Finding((*path, "k"), f"is more than there are labels ({len(step.labels)})")
