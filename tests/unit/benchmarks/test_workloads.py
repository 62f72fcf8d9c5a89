"""A workload is the same in every format, for the hand-written loop and for the worker's decoder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import get_args

import numpy as np
import pytest

from benchmarks.__main__ import CASES, main
from benchmarks.handwritten import READERS
from benchmarks.workloads import DISTINCT, WORKLOADS, Format, formatted, perceptron
from streamserve.codecs import build_decoder
from streamserve.config.loading import load
from tests.records import batch

FORMATS = get_args(Format)


@dataclass(frozen=True)
class Record:
    """As much of a client's message as a reader uses."""

    content: bytes
    number: int

    def value(self) -> bytes:
        return self.content

    def topic(self) -> str:
        return "events"

    def partition(self) -> int:
        return 2

    def offset(self) -> int:
        return self.number


@pytest.mark.parametrize("name", list(WORKLOADS))
@pytest.mark.parametrize("how", FORMATS)
def test_loop_and_worker_read_the_same_numbers_in_every_format(name, how, tmp_path):
    workload = formatted(name, how)
    values = workload.events(7)
    config = tmp_path / "streamserve.yaml"
    config.write_text(
        workload.config(bootstrap="b:9092", repository=tmp_path, topic="events", pipeline="p", output="o")
    )
    events, rejects = build_decoder(load(config, environ={}).settings).decode(batch(values))
    ids, x = READERS[how]([Record(value, offset) for offset, value in enumerate(values)])
    _, as_json = READERS["json"]([Record(value, 0) for value in formatted(name, "json").events(7)])
    assert rejects == []
    assert list(events.id) == ids
    assert x.shape == (7, workload.width)
    np.testing.assert_array_equal(np.asarray(events.fields["x"], dtype=np.float32), x)
    np.testing.assert_array_equal(as_json, x)


@pytest.mark.parametrize("how", ["json", "msgpack"])
def test_vectors_repeat_and_ids_do_not(how):
    values = perceptron(1, how).events(2 * DISTINCT)
    ids, x = READERS[how]([Record(value, 0) for value in values])
    assert len(set(ids)) == 2 * DISTINCT
    np.testing.assert_array_equal(x[:DISTINCT], x[DISTINCT:])


def test_a_long_backlog_is_made_as_it_is_read():
    assert len(list(islice(perceptron(2048, "raw").stream(10**12), 3))) == 3


def test_a_perceptron_has_the_width_that_was_asked_for(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(perceptron(64).save_model(tmp_path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1] == 64


@pytest.mark.parametrize("case", list(CASES))
def test_every_case_of_the_bench_is_there_and_explains_its_options(case, capsys):
    with pytest.raises(SystemExit) as end:
        import_module(CASES[case][0]).main(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_case_that_there_is_not_ends_with_2(capsys):
    assert main(["nonsense"]) == 2
    printed = capsys.readouterr().out
    assert all(case in printed for case in CASES)
