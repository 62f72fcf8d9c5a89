"""The infer stage: features in, predictions out, whatever a row does to the engine.

It puts three defences around `Engine.infer`. A row that makes the engine *fail* is found by bisection
(`poison`). A row that makes the engine *die* cannot be found in this process: the stage notes in a journal
which records are inside the engine, and after a crash the next life of the worker is told by a quarantine
which records to infer one by one and which never again. Both are ports of this module; the worker owns
them.

An exception out of `run` leaves the journal's entry standing on purpose: if the process ends over it, its
next life goes row by row through that batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from streamserve.batch import (
    FeatureBatch,
    ModelIdentity,
    PredictionBatch,
    RecordBatch,
    Reject,
    Tensors,
)
from streamserve.pipeline.poison import BatchBound, empty_outputs, infer_isolating
from streamserve.ports import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What is known against rows of one `RecordBatch`.

    Attributes:
        alone: rows that were inside the engine, among others, when it crashed.
        never: row -> why the engine must not see it again.
    """

    alone: frozenset[int]
    never: Mapping[int, str]


class Journal(Protocol):
    """Where it is written what the native engine is working on."""

    def enter(self, records: RecordBatch, rows: Sequence[int]) -> None:
        """These rows of `records` go into the engine now. Must be readable after this process was killed."""
        ...

    def leave(self) -> None:
        """They came out again, one way or the other."""
        ...


class Suspects(Protocol):
    """What earlier crashes taught."""

    def split(self, records: RecordBatch) -> Suspicion | None:
        """What is known against these records; None, at once, when there is nothing."""
        ...


class NothingKnown:
    """Journal and suspects where no other life of the process reads what was in the engine, or was told of any."""

    def enter(self, records: RecordBatch, rows: Sequence[int]) -> None:
        """Nothing is noted."""

    def leave(self) -> None:
        """Nothing is struck out."""

    def split(self, records: RecordBatch) -> Suspicion | None:  # noqa: ARG002  port
        """No record is suspect."""
        return None


class InferStage:
    """Runs one engine; used by one thread at a time.

    Args:
        engine: a warmed engine.
        journal, quarantine: the two sides of crash recovery.
        bound: the memory bound of this engine.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        quarantine: Suspects,
        bound: BatchBound,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._quarantine = quarantine
        self._bound = bound

    @property
    def engine(self) -> Engine:
        """The engine it runs."""
        return self._engine

    def beside(self, journal: Journal, quarantine: Suspects) -> InferStage:
        """A stage of the same engine behind another journal, for another thread; not for both at the same time."""
        return InferStage(self._engine, journal, quarantine, BatchBound())

    def run(self, features: FeatureBatch, identity: ModelIdentity) -> tuple[PredictionBatch, list[Reject]]:
        """Predict every row that can be predicted.

        Args:
            features: the rows.
            identity: goes on every prediction.

        Returns:
            The predictions, in order, and a reject (stage `infer`) for every other row.

        Raises:
            EngineError: the device failed, not a row; the worker has to end.
        """
        events = features.events
        suspicion = self._quarantine.split(events.origin)
        started_s = perf_counter()
        if suspicion is None:
            outputs, kept, rejects = self._together(features)
        else:
            outputs, kept, rejects = self._one_by_one(features, suspicion)
        predictions = PredictionBatch(
            events=events if len(kept) == len(events) else events.take(kept),
            outputs=outputs,
            model=identity,
            infer_s=perf_counter() - started_s,
        )
        return predictions, rejects

    def _together(self, features: FeatureBatch) -> tuple[Tensors, Sequence[int], list[Reject]]:
        """The normal path: the whole batch under one journal entry."""
        events = features.events
        self._journal.enter(events.origin, events.row)
        result = infer_isolating(self._engine, features, self._bound)
        self._journal.leave()
        return result

    def _one_by_one(self, features: FeatureBatch, suspicion: Suspicion) -> tuple[Tensors, Sequence[int], list[Reject]]:
        """Suspects each alone in journal and engine, quarantined rows not at all, the others together."""
        rows = features.events.row
        rejects = [
            Reject(row=row, stage="infer", reason="infer", detail=suspicion.never[row])
            for row in rows
            if row in suspicion.never
        ]
        groups = [[i] for i, row in enumerate(rows) if row in suspicion.alone and row not in suspicion.never]
        others = [i for i, row in enumerate(rows) if row not in suspicion.alone and row not in suspicion.never]
        if others:
            groups.append(others)
        kept: list[int] = []
        parts: list[Tensors] = []
        for group in groups:
            outputs, passed, failed = self._together(features.take(group))
            rejects += failed
            if passed:
                kept += [group[i] for i in passed]
                parts.append(outputs)
        return _in_order(parts, kept, self._engine), sorted(kept), rejects


def _in_order(parts: list[Tensors], kept: list[int], engine: Engine) -> Tensors:
    """Outputs of groups of rows, put back into the order of the rows."""
    if not parts:
        return empty_outputs(engine.signature)
    order = np.argsort(np.asarray(kept, dtype=np.intp))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
