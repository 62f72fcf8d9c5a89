import random

import pytest
from onnx import TensorProto, helper

from benchmarks import models
from streamserve.errors import ModelCorrupt
from streamserve.ports import TensorSpec
from streamserve.registry.onnx_file import read_onnx
from streamserve.registry.ort_file import read_ort
from tests.unit.registry.test_push import DEMO, as_ort


@pytest.mark.parametrize("build", [models.mlp, models.words_and_numbers, models.looks_up])
def test_a_model_has_the_same_signature_in_both_formats(tmp_path, build):
    onnx = models.save(build(), tmp_path)
    ort = read_ort(as_ort(onnx, tmp_path / "model.ort"))
    assert ort.signature == read_onnx(onnx).signature
    assert ort.external == frozenset()
    assert not ort.custom


def test_operators_are_found_inside_branches(tmp_path):
    def branch(operator):
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 2])
        return helper.make_graph([helper.make_node(operator, ["x"], ["b"])], operator, [], [out])

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("Sinh"), else_branch=branch("Cosh"))
    imports = [helper.make_opsetid("", 17)]
    graph = helper.make_graph([node], "g", [flag, x], [y])
    onnx = models.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path)
    found = read_ort(as_ort(onnx, tmp_path / "model.ort"))
    assert {("", "Sinh"), ("", "Cosh"), ("", "If")} <= found.operators
    assert found.signature.inputs[0] == TensorSpec(name="flag", dtype="bool", shape=())


def test_a_file_truncated_or_changed_anywhere_is_corrupt_or_read_in_bounds(tmp_path):
    whole = as_ort(DEMO / "model.onnx", tmp_path / "model.ort").read_bytes()
    path = tmp_path / "broken.ort"
    for size in [*range(300), *range(300, len(whole), 5000)]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelCorrupt):
            read_ort(path)
    rng = random.Random(0)
    refused = 0
    for _ in range(500):
        broken = bytearray(whole)
        for _ in range(6):
            broken[rng.randrange(2000)] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            read_ort(path)
        except ModelCorrupt:
            refused += 1
    assert refused > 100
