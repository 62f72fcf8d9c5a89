"""What is measured, what is refused, what is told."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from benchmarks import models
from streamserve.config.engine_settings import EngineSettings
from streamserve.engines.onnx import OnnxEngine
from streamserve.optimise.measure import Measured, Size, measure, size_of
from streamserve.optimise.report import card, metrics, table
from streamserve.optimise.verdict import Tolerance, problems, warnings
from streamserve.recorded.compare import compare

CPU = EngineSettings(device="cpu")


def measured(*, ratio=0.5, size=50, a=(0.2, 0.6), b=(0.2, 0.61)):
    return Measured(
        before=Size(bytes=100, gzip_bytes=90),
        after=Size(bytes=size, gzip_bytes=45),
        latency_before_s={1: 1e-4, 512: 1e-2},
        latency_after_s={1: 2e-4, 512: ratio * 1e-2},
        comparison=compare({"y": np.array(a)}, {"y": np.array(b)}, {"y": 0.5}),
    )


def test_both_versions_are_measured_on_the_same_rows(tmp_path):
    paths = [models.save(models.mlp(seed=seed), tmp_path / str(seed)) for seed in (0, 1)]
    engines = [OnnxEngine(path, CPU) for path in paths]
    rows = {"x": np.random.default_rng(0).normal(size=(700, 16)).astype(np.float32)}
    found = measure((engines[0], [paths[0]]), (engines[1], [paths[1]]), rows, sizes=(1, 8))
    assert found.comparison.rows == 700
    assert set(found.latency_before_s) == set(found.latency_after_s) == {1, 8}
    assert min(*found.latency_before_s.values(), *found.latency_after_s.values()) > 0
    expected = engines[0].infer(rows)["probability"] - engines[1].infer(rows)["probability"]
    assert found.comparison.difference("max") == pytest.approx(np.abs(expected).max(), rel=1e-3)


def test_sizes_are_of_all_files(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(b"x" * 1000)
    found = size_of(files)
    assert found.bytes == 2000
    assert len(gzip.compress(b"x" * 1000)) <= found.gzip_bytes < 100


@pytest.mark.parametrize(
    ("found", "tolerance", "words"),
    [
        (measured(), Tolerance(difference=0.02), []),
        (measured(), Tolerance(difference=0.005), ["differ by 0.01 (max over 2 rows), over the tolerance of 0.005"]),
        (measured(), Tolerance(difference=0.006, kind="mean"), []),
        (measured(b=(0.2, 0.4)), Tolerance(difference=1, agreement=0.9), ["50.00% of the rows decide alike"]),
        (measured(b=(0.2, np.nan)), Tolerance(difference=1), ["1 of 2 rows have outputs", "differ by inf"]),
        (measured(ratio=1.2), Tolerance(difference=1, faster=True), ["a batch of 512 takes 1.20 times as long"]),
        (measured(size=120), Tolerance(difference=1, smaller=True), ["no smaller: 120 bytes, 100 before"]),
    ],
)
def test_what_is_refused(found, tolerance, words):
    said = problems(found, tolerance)
    assert len(said) == len(words)
    assert all(word in sentence for word, sentence in zip(words, said, strict=True))


def test_a_version_that_is_larger_or_slower_is_told_plainly():
    assert warnings(measured(), Tolerance(difference=1)) == []
    said = warnings(measured(ratio=1.5, size=200), Tolerance(difference=1))
    assert said == [
        "it is no smaller: 200 bytes, 100 before",
        "it is no faster: a batch of 512 takes 1.50 times as long as before",
    ]


def test_figures_for_people_for_the_manifest_and_for_the_card():
    found = measured()
    assert table(found)[0] == ["file", "100 bytes", "50 bytes", "0.50"]
    assert table(found)[-1] == ["batch of 512", "10 ms", "5 ms", "0.50"]
    kept = metrics(found)
    assert kept["optimize_rows"] == 2
    assert kept["optimize_difference_max"] == pytest.approx(0.01)
    assert kept["optimize_agreement"] == 1
    assert kept["optimize_latency_ratio_1"] == 2
    text = card("m: optimize int8 of version 3", {"int8": "3 matrices in 8 bits"}, found)
    assert text.startswith("# m: optimize int8 of version 3\n\n- `int8`: 3 matrices in 8 bits\n")
    assert "| file | 100 bytes | 50 bytes | 0.50 |" in text
