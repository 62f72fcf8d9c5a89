"""What length buckets save on texts of mixed lengths: the share of padding, and the speed over padding to the longest.

    .venv/bin/python -m benchmarks.padding                      # about a minute
    .venv/bin/python -m benchmarks.padding --rows 2000 --rounds 3

Texts are made up, their lengths log-normal (median 40 tokens, the longest 512), integers for one model and words for
another that is the same but for its look-up. Each batch goes through the model three ways in turn: padded to its
longest text (`buckets: []`), in the default buckets, and padded to the longest that may come (`buckets: [512]`). One
thread; ratios are of one run, rounds taking turns. Outputs of all ways are held against those of each text alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.models import save, text_classifier
from benchmarks.results import keep
from streamserve.batch import F32, Tensor, Tensors
from streamserve.columns import ragged
from streamserve.config.engine_settings import EngineSettings
from streamserve.config.settings import SequenceSettings
from streamserve.engines.buckets import bucketed
from streamserve.engines.onnx import OnnxEngine
from streamserve.pipeline.sequences import PaddedInput, bucket_lengths
from streamserve.ports import Engine, TensorSpec

LONGEST, MEDIAN, SPREAD = 512, 40, 0.9
VOCABULARY, WIDTH = 5000, 128
WAYS: dict[str, list[int] | None] = {"longest_of_batch": [], "buckets": None, "longest_of_all": [LONGEST]}
ALONE = 200
"""Texts that are inferred alone, to compare."""


@dataclass(slots=True)
class Way:
    """One way to pad, and what it took."""

    engine: Engine = field(init=False)
    real: int = 0
    padding: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def padding_share(self) -> float:
        return self.padding / (self.real + self.padding)

    def count(self, real: int, padding: int) -> None:
        self.real += real
        self.padding += padding


def texts(count: int, words: list[str], seed: int = 1) -> Tensor:
    """Texts as object[count] of arrays."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(np.log(MEDIAN), SPREAD, count), 1, LONGEST).astype(np.int64)
    flat: Tensor = generator.integers(0, VOCABULARY, lengths.sum())
    return ragged(np.array(words, object)[flat] if words else flat, lengths)


def way(loaded: Engine, dtype: str, buckets: list[int] | None) -> Way:
    sequence = SequenceSettings(max_length=LONGEST, buckets=buckets)
    padded = PaddedInput(
        input=TensorSpec(name="tokens", dtype=dtype, shape=(-1, -1)),
        mask=TensorSpec(name="mask", dtype="int64", shape=(-1, -1)),
        pad="" if dtype == "str" else 0,
        lengths=bucket_lengths(sequence),
        max_length=LONGEST,
    )
    made = Way()
    made.engine = bucketed(loaded, [padded], made.count)
    return made


def outputs(engine: Engine, rows: Tensor, batch: int) -> tuple[F32, float]:
    """The scores of all rows, batch by batch, and the seconds it took."""
    started_s = time.perf_counter()
    parts: list[Tensors] = [
        engine.infer({"tokens": rows[start : start + batch]}) for start in range(0, len(rows), batch)
    ]
    seconds = time.perf_counter() - started_s
    return np.concatenate([part["scores"] for part in parts]).astype(np.float32), seconds


def measure(kind: str, rows: int, batch: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Figures of one model, printed on the way."""
    words = [f"word{i}" for i in range(VOCABULARY)] if kind == "words" else []
    model = text_classifier(words, vocabulary=VOCABULARY, width=WIDTH)
    loaded = OnnxEngine(save(model, folder, f"{kind}.onnx"), EngineSettings(device="cpu"))
    dtype = "str" if words else "int64"
    ways = {name: way(loaded, dtype, buckets) for name, buckets in WAYS.items()}
    data = texts(rows, words)
    for each in ways.values():
        each.engine.warm([1, batch])
    alone, _ = outputs(ways["buckets"].engine, data[:ALONE], 1)
    found: dict[str, F32] = {}
    for _ in range(rounds):
        for name, each in ways.items():
            each.real = each.padding = 0
            found[name], seconds = outputs(each.engine, data, batch)
            each.seconds.append(seconds)
    figures: dict[str, list[float]] = {}
    print(f"{kind}: {rows} texts in batches of {batch}")
    for name, each in ways.items():
        ratios = [a / b for a, b in zip(ways["longest_of_batch"].seconds, each.seconds, strict=True)]
        difference = float(np.abs(found[name][:ALONE] - alone).max())
        figures[f"padding.{kind}.{name}.share"] = [each.padding_share]
        figures[f"padding.{kind}.{name}.speed"] = ratios
        print(
            f"  {name:17} padding {each.padding_share:6.1%}   speed over the longest of the batch"
            f" {statistics.median(ratios):5.2f}   largest difference to batch 1: {difference:.1e}"
        )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="append the figures to results.jsonl")
    options = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("integers", "words"):
            figures |= measure(kind, options.rows, options.batch, options.rounds, Path(folder))
    if options.keep:
        keep(figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
