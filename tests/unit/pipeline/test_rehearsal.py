"""Made-up rows through a version before it serves: what is taken for broken, and what is not."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from streamserve.composition.models import ModelBuilder
from streamserve.errors import ContractError, EngineError
from streamserve.ports import Signature, TensorSpec
from streamserve.telemetry.versions import VersionMetrics
from streamserve.testing import FunctionEngine, MemoryFiles, memory_settings
from tests.memory import DOUBLE, doubled

FILES = MemoryFiles(name="m", version="1")


class Unused:
    def enter(self, records, rows):
        raise AssertionError("a rehearsal is not in the crash journal")

    leave = split = enter


def build(function, signature=DOUBLE, features=({"name": "x"},)):
    engine = FunctionEngine(function, signature)
    builder = ModelBuilder(
        memory_settings(list(features), engine={"max_batch_size": 2}),
        load=lambda _files, _on_padding: engine,
        journal=Unused(),
        quarantine=Unused(),
        metrics=VersionMetrics(CollectorRegistry(), pipeline="p", model="m", version="1"),
    )
    return builder.build(FILES)


def test_a_model_that_answers_serves():
    assert build(doubled).version == "1"


def test_a_model_without_an_answer_to_zeros_and_negatives_is_not_broken():
    with np.errstate(all="ignore"):
        assert build(lambda inputs: {"y": np.log(inputs["in"])}).version == "1"


def test_one_that_gives_nan_for_everything_is_and_the_message_says_why():
    with pytest.raises(ContractError, match=r"version 1 gives no usable output for any of 8 trial rows.*y = nan"):
        build(lambda inputs: {"y": np.full_like(inputs["in"], np.nan)})


def test_one_that_fails_on_everything_but_the_zeros_of_the_warm_up_serves():
    def picky(inputs):
        if inputs["in"].any():
            raise EngineError("index out of range")
        return doubled(inputs)

    assert build(picky).version == "1"


def test_numbers_that_stand_for_categories_are_zero_or_one():
    seen = set()
    signature = Signature(
        inputs=(TensorSpec(name="in", dtype="int64", shape=(-1, 1)),),
        outputs=DOUBLE.outputs,
    )

    def remember(inputs):
        seen.update(inputs["in"].ravel().tolist())
        return {"y": np.full(inputs["in"].shape, np.nan, np.float32)}

    with pytest.raises(ContractError):
        build(remember, signature, [{"name": "x", "dtype": "int64"}])
    assert seen == {0, 1}


def test_what_is_refused_is_closed():
    engine = FunctionEngine(lambda inputs: {"y": np.full_like(inputs["in"], np.nan)}, DOUBLE)
    builder = ModelBuilder(
        memory_settings([{"name": "x"}]),
        load=lambda _files, _on_padding: engine,
        journal=Unused(),
        quarantine=Unused(),
        metrics=VersionMetrics(CollectorRegistry(), pipeline="p", model="m", version="1"),
    )
    with pytest.raises(ContractError):
        builder.build(FILES)
    with pytest.raises(EngineError, match="closed"):
        engine.infer({"in": np.zeros((1, 1), np.float32)})
