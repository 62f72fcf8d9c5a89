"""`streamserve init`: what it makes lints, whatever the model's signature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamserve import cli
from streamserve.cli import scaffold
from streamserve.config.lint import lint
from streamserve.config.loading import load
from streamserve.config.settings import FeatureSettings, VectorSettings
from streamserve.demo import flights
from streamserve.errors import ContractError
from streamserve.ports import Signature, TensorSpec

MODEL = Path(flights.__file__).parent / "models" / "flight-delay" / "1" / "model.onnx"
OUTPUT = (TensorSpec(name="probability", dtype="float32", shape=(-1, 1)),)


def signature(*inputs: tuple[str, str, tuple[int, ...]]) -> Signature:
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs)
    return Signature(inputs=specs, outputs=OUTPUT)


def loaded(tmp_path, made, of):
    for path, text in scaffold.files("demo", made, of).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "models" / "demo").mkdir(parents=True)
    config = load(tmp_path / "streamserve.yaml", {}, {})
    assert lint(config) == []
    return config.settings


@pytest.mark.parametrize(
    ("inputs", "sample", "expected"),
    [
        ([("x", "float32", (-1, 2))], {"id": "a", "b": 1, "c": 2.5}, [("b", "float32"), ("c", "float32")]),
        ([("x", "float32", (-1, 2))], None, [("x_0", "float32"), ("x_1", "float32")]),
        ([("a", "int64", (-1, 1)), ("b", "str", (-1,))], None, [("a", "int64"), ("b", "string")]),
        (
            [("num", "float32", (-1, 1)), ("cat", "str", (-1, 1))],
            {"carrier": "AA", "distance": 3, "on": True},
            [("distance", "float32"), ("carrier", "string")],
        ),
        ([("x", "float64", (-1, -1))], {"a": 1, "b": 2}, [("a", "float64"), ("b", "float64")]),
    ],
)
def test_columns_take_the_fields_of_the_sample_in_order(tmp_path, inputs, sample, expected):
    of = signature(*inputs)
    features = loaded(tmp_path, scaffold.draft(of, sample), of).features
    assert [(f.name, f.dtype) for f in features if isinstance(f, FeatureSettings)] == expected


@pytest.mark.parametrize(
    ("shape", "sample", "expected"),
    [
        ((-1, 3), {"pixels": [1, 2, 3]}, ("pixels", 3)),
        ((-1, -1), {"pixels": [1, 2]}, ("pixels", 2)),
        ((-1, 784), None, ("features", 784)),
        ((-1, 2, 2), {"image": [1, 2, 3, 4]}, ("image", 4)),
    ],
)
def test_a_list_of_numbers_is_one_vector(tmp_path, shape, sample, expected):
    of = signature(("x", "float32", shape))
    features = loaded(tmp_path, scaffold.draft(of, sample), of).features
    assert isinstance(features, VectorSettings)
    assert (features.field, features.size) == expected


def test_odd_names_are_quoted(tmp_path):
    of = signature(("x", "float32", (-1, 3)))
    sample = {"a: b": 1, "${HOME}": 2, "no": 3}
    features = loaded(tmp_path, scaffold.draft(of, sample), of).features
    assert [f.name for f in features] == ["a: b", "${HOME}", "no"]


def test_an_input_no_feature_can_fill_is_named():
    with pytest.raises(ContractError, match="input x is float16"):
        scaffold.draft(signature(("x", "float16", (-1, 1))), None)


@pytest.fixture
def init(capsys, tmp_path):
    def init(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["init", "demo", "--model", str(MODEL), "--dir", str(tmp_path / "demo"), *more])
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return init


def test_the_folder_lints_and_the_next_steps_are_told(init, tmp_path):
    sample = tmp_path / "event.json"
    sample.write_text(json.dumps({"flight_id": "AA1", "event_time": 1372941000000, "distance": 3, "carrier": "AA"}))
    code, out, err = init("--sample", str(sample))
    assert code == 0
    config = load(tmp_path / "demo" / "streamserve.yaml", {}, {})
    assert lint(config) == []
    assert (config.settings.input.id, config.settings.input.event_time) == ("flight_id", "event_time")
    assert (tmp_path / "demo/models/demo/1/model.onnx").read_bytes() == MODEL.read_bytes()
    assert f"{tmp_path}/demo/streamserve.yaml" in out.splitlines()
    assert "streamserve lint -c" in err


def test_nothing_is_overwritten_without_force(init, tmp_path):
    assert init()[0] == 0
    config = tmp_path / "demo" / "streamserve.yaml"
    config.write_text("mine")
    code, _, err = init()
    assert (code, config.read_text()) == (2, "mine")
    assert "--force" in err
    assert init("--force")[0] == 0
    assert config.read_text() != "mine"
