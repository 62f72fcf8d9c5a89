"""Engines measured by themselves: every size runs, on rows as a worker would give them."""

from __future__ import annotations

import time

import numpy as np

from streamserve.engines.benchmark import CaseResult, SizeResult, cases, measure, synthetic
from streamserve.pipeline.latency_model import Line
from streamserve.pipeline.sequences import PaddedInput
from streamserve.ports import Signature, TensorSpec
from streamserve.testing import FunctionEngine

WORDS = TensorSpec(name="words", dtype="int64", shape=(-1, -1))
DENSE = TensorSpec(name="dense", dtype="float32", shape=(-1, 3))
MASK = TensorSpec(name="mask", dtype="bool", shape=(-1, -1))
TEXT = TensorSpec(name="text", dtype="str", shape=(-1, 1))
Y = TensorSpec(name="y", dtype="float32", shape=(-1,))
PADDED = [PaddedInput(input=WORDS, mask=MASK, pad=0, lengths=(4, 8), max_length=8)]


def test_made_up_rows_have_the_shapes_and_types_of_the_inputs_and_no_masks():
    rows = synthetic(Signature(inputs=(WORDS, DENSE, MASK, TEXT), outputs=(Y,)), PADDED)
    assert sorted(rows) == ["dense", "text", "words"]
    assert (rows["dense"].shape[1:], rows["dense"].dtype) == ((3,), np.float32)
    assert rows["dense"].std() > 0.5
    assert (rows["text"].shape[1:], rows["text"][0, 0]) == ((1,), "")
    assert {len(row) for row in rows["words"]} == {4, 8}


def test_rows_are_measured_by_the_length_that_they_are_padded_to():
    words = np.array([np.zeros(n, np.int64) for n in (1, 4, 5, 8, 3)], dtype=object)
    dense = np.arange(15, dtype=np.float32).reshape(5, 3)
    found = cases({"words": words, "dense": dense}, PADDED)
    assert {length: rows["dense"][:, 0].tolist() for length, rows in found.items()} == {4: [0, 3, 12], 8: [6, 9]}


def test_without_sequences_there_is_one_case():
    rows = {"dense": np.zeros((5, 3), np.float32)}
    assert cases(rows, []) == {None: rows}


def test_every_size_runs_and_the_line_is_the_engines():
    def costly(inputs):
        time.sleep(0.002 + 0.001 * len(inputs["x"]))
        return {"probability": np.zeros((len(inputs["x"]), 1), np.float32)}

    engine = FunctionEngine(costly)
    (result,) = measure(engine, {None: {"x": np.zeros((7, 16), np.float32)}}, [1, 4, 16], 0.3)
    assert [size.rows for size in result.sizes] == [1, 4, 16]
    assert set(engine.batches) == {1, 4, 16}
    assert all(size.runs >= 3 and size.p50_s <= size.p99_s for size in result.sizes)
    assert sum(size.runs for size in result.sizes) + 3 == len(engine.batches)
    assert result.line.row_s >= 0


def test_the_best_size_is_the_smallest_that_is_all_but_the_fastest():
    sizes = [
        SizeResult(rows=rows, runs=3, p50_s=1, p99_s=1, rows_per_s=rows_per_s)
        for rows, rows_per_s in [(1, 10), (8, 70), (64, 99), (512, 100)]
    ]
    assert CaseResult(length=None, sizes=sizes, line=Line(1e-3, 0)).best.rows == 64
