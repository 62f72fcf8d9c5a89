"""Hooks: only pinned code runs, and a row that a function cannot take is rejected alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from streamserve.batch import EventBatch, FeatureBatch, ModelIdentity, PredictionBatch
from streamserve.columns import ragged
from streamserve.config.engine_settings import BeforeHookSettings, HookSettings
from streamserve.engines.hooks import After, Before, Hook, load_hook
from streamserve.engines.transforms import build_transforms, fed_signature
from streamserve.errors import ConfigError, ContractError
from streamserve.hooks import RowError
from streamserve.ports import Signature, TensorSpec
from tests.records import batch, settings

X = TensorSpec(name="x", dtype="float32", shape=(-1, 2))
ONE = TensorSpec(name="y", dtype="float32", shape=(-1,))


def events(count):
    return EventBatch(
        origin=batch([b"{}"] * (count + 3)),
        row=list(range(3, count + 3)),
        id=[str(i) for i in range(count)],
        entity=[None] * count,
        event_time_ms=[0] * count,
        fields={},
    )


def features(*values):
    column = np.array(values, np.float32)
    return FeatureBatch(events=events(len(values)), inputs={"x": np.stack([column, column], axis=1)})


def pinned(folder, code, function="hook", **more):
    path = folder / "hooks.py"
    path.write_text(code)
    return {"path": str(path), "sha256": hashlib.sha256(code.encode()).hexdigest(), "function": function, **more}


# Loading


def test_the_function_of_the_pinned_file_is_taken(tmp_path):
    code = (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\ndef hook(inputs):\n    return inputs\n"
    )
    function = load_hook(HookSettings.model_validate(pinned(tmp_path, code)), "before")
    assert function({"x": 1}) == {"x": 1}


def test_nothing_runs_of_a_file_that_was_changed(tmp_path):
    canary = tmp_path / "canary"
    hook = HookSettings.model_validate(pinned(tmp_path, "def hook(inputs): return inputs\n"))
    changed = f"open({str(canary)!r}, 'w').close()\ndef hook(inputs): return inputs\n"
    Path(hook.path).write_text(changed)
    with pytest.raises(ConfigError) as caught:
        load_hook(hook, "before")
    assert hook.sha256 in str(caught.value)
    assert hashlib.sha256(changed.encode()).hexdigest() in str(caught.value)
    assert not canary.exists()
    load_hook(HookSettings.model_validate(pinned(tmp_path, changed)), "before")
    assert canary.exists()  # the canary sings when the code does run


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("hook = 3\n", "has no function hook"),
        ("def other(x): return x\n", "has no function hook"),
        ("raise ValueError('no')\n", "fails: ValueError: no"),
        ("def hook(:\n", "fails: SyntaxError"),
    ],
)
def test_code_that_is_no_hook_is_refused(tmp_path, code, words):
    with pytest.raises(ConfigError, match=words):
        load_hook(HookSettings.model_validate(pinned(tmp_path, code)), "before")


def test_a_missing_file_is_refused(tmp_path):
    hook = HookSettings(path=str(tmp_path / "none.py"), sha256="0" * 64, function="hook")
    with pytest.raises(ConfigError, match="is not there"):
        load_hook(hook, "after")


# Running


def doubled(tensors):
    return {"x": tensors["x"] * 2}


def test_a_hook_turns_inputs_into_inputs_and_rows_keep_their_order():
    made, rejects = Before(doubled, [X])(features(1, 2, 3))
    assert rejects == []
    assert made.inputs["x"].tolist() == [[2, 2], [4, 4], [6, 6]]
    assert made.events.row == [3, 4, 5]


def test_rows_that_the_function_names_are_rejected_with_its_words_and_it_is_called_without_them():
    calls = []

    def hook(tensors):
        calls.append(len(tensors["x"]))
        negative = np.flatnonzero(tensors["x"][:, 0] < 0)
        if len(negative):
            raise RowError(rows={int(i): f"{tensors['x'][i, 0]:g} is negative" for i in negative})
        return {"x": tensors["x"]}

    made, rejects = Before(hook, [X])(features(1, -2, 3, -4))
    assert [(r.row, r.stage, r.reason, r.detail) for r in rejects] == [
        (4, "infer", "transform", "-2 is negative"),
        (6, "infer", "transform", "-4 is negative"),
    ]
    assert made.inputs["x"][:, 0].tolist() == [1, 3]
    assert made.events.row == [3, 5]
    assert calls == [4, 2]


@given(st.lists(st.booleans(), max_size=40))
@examples(deadline=None)
def test_whatever_rows_a_function_fails_on_they_alone_are_rejected(bad):
    def hook(tensors):
        if (tensors["x"][:, 0] < 0).any():
            raise ZeroDivisionError("a negative row")
        return doubled(tensors)

    values = [-1 - i if flag else 1 + i for i, flag in enumerate(bad)]
    batch = FeatureBatch(
        events=events(len(values)), inputs={"x": np.array([[v, v] for v in values], np.float32).reshape(-1, 2)}
    )
    made, rejects = Before(hook, [X])(batch)
    assert [r.row - 3 for r in rejects] == [i for i, flag in enumerate(bad) if flag]
    assert {r.detail for r in rejects} <= {"hooks.before: ZeroDivisionError: a negative row"}
    assert made.inputs["x"].tolist() == [[2 * v, 2 * v] for v in values if v > 0]


def test_a_function_that_pads_to_its_batch_is_called_once_more_with_the_good_rows():
    def hook(tensors):
        longest = int(tensors["x"].max())
        if longest > 9:
            raise ValueError("too long")
        return {"ids": np.zeros((len(tensors["x"]), longest), np.int64)}

    made, rejects = Before(hook, [TensorSpec(name="ids", dtype="int64", shape=(-1, -1))])(features(1, 99, 3, 2))
    assert [r.row for r in rejects] == [4]
    assert made.inputs["ids"].shape == (3, 3)


def test_a_function_that_takes_half_the_rows_at_once_loses_none():
    def hook(tensors):
        if len(tensors["x"]) > 2:
            raise MemoryError
        return doubled(tensors)

    made, rejects = Before(hook, [X])(features(1, 2, 3, 4))
    assert rejects == []
    assert made.inputs["x"][:, 0].tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda x: None, "gave NoneType, a dictionary of arrays is expected"),
        (lambda x: {}, "gave nothing; expected are x"),
        (lambda x: {"x": x, "z": x}, "gave x, z; expected are x"),
        (lambda x: {"x": x.tolist()}, "gave list as x, an array is expected"),
        (lambda x: {"x": np.concatenate([x, x])}, "gave x with shape [2, 2] for 1 rows"),
        (lambda x: {"x": x.astype(np.float64)}, "gave x as float64, expected is float32"),
        (lambda x: {"x": x[:, :1]}, "gave x with shape [1, 1], expected is float32[batch, 2]"),
        (lambda x: x.fill(0), "ValueError: assignment destination is read-only"),
    ],
)
def test_what_breaks_the_promise_is_told_for_every_row(given, words):
    made, rejects = Before(lambda tensors: given(tensors["x"]), [X])(features(1, 2))
    assert (len(made), [r.row for r in rejects]) == (0, [3, 4])
    assert all(words in r.detail for r in rejects), rejects
    assert made.inputs["x"].shape == (0, 2)


def test_texts_of_any_kind_and_rows_of_different_lengths_pass():
    words = TensorSpec(name="w", dtype="str", shape=(-1, 1))
    ids = TensorSpec(name="ids", dtype="int64", shape=(-1, -1))

    def hook(tensors):
        count = len(tensors["x"])
        return {
            "w": np.array([["é"]] * count),
            "ids": ragged(np.arange(count * 2), np.full(count, 2)),
        }

    made, rejects = Before(hook, [words, ids])(features(1, 2))
    assert rejects == []
    assert made.inputs["w"].dtype == object
    assert made.inputs["ids"][1].tolist() == [2, 3]


IDS = TensorSpec(name="ids", dtype="int64", shape=(-1, -1))


def objects(*values):
    made = np.empty(len(values), object)
    made[:] = values
    return made


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (None, "NoneType"),
        (7, "int"),
        ([1, 2], "list"),
        (np.ones((2, 2), np.int64), "int64[2, 2]"),
        (np.ones(()), "float64[]"),
        (np.array([0.5]), "float64[1]"),
        (np.array(["word"]), "<U4[1]"),
        (np.array([None]), "object[1]"),
    ],
)
def test_a_row_that_is_no_sequence_of_the_inputs_values_is_rejected_alone(row, words):
    def hook(tensors):
        return {"ids": objects(*[row if x < 0 else np.array([1, 2]) for x in tensors["x"][:, 0]])}

    made, rejects = Before(hook, [IDS])(features(1, -1, 1))
    assert [(r.row, r.reason) for r in rejects] == [(4, "transform")]
    assert rejects[0].detail == f"hooks.before gave {words} in ids, expected is an array of int64 with one axis"
    assert [ids.tolist() for ids in made.inputs["ids"]] == [[1, 2], [1, 2]]


def test_rows_of_a_kindred_dtype_and_empty_ones_of_any_become_the_inputs():
    def hook(tensors):
        return {"ids": objects(np.array([], np.float64), np.array([7], np.int32), np.array([2**62], np.int64))}

    made, rejects = Before(hook, [IDS])(features(1, 2, 3))
    assert rejects == []
    assert [ids.tolist() for ids in made.inputs["ids"]] == [[], [7], [2**62]]
    assert {ids.dtype for ids in made.inputs["ids"]} == {np.dtype(np.int64)}


def test_a_hook_may_write_into_its_arrays_again_at_its_next_call():
    numbers, tokens = np.empty((2, 2), np.float32), np.empty(4, np.int64)

    def hook(tensors):
        np.multiply(tensors["x"], 2, out=numbers)
        tokens[:] = tensors["x"].ravel()
        return {"x": numbers, "ids": ragged(tokens, np.array([1, 3]))}

    before = Before(hook, [X, IDS])
    first, _ = before(features(1, 2))
    before(features(8, 9))
    assert first.inputs["x"].tolist() == [[2, 2], [4, 4]]
    assert [ids.tolist() for ids in first.inputs["ids"]] == [[1], [1, 2, 2]]


def test_what_a_hook_only_passes_on_is_not_copied():
    given = features(1, 2)
    made, _ = Before(lambda tensors: tensors, [X])(given)
    assert np.shares_memory(made.inputs["x"], given.inputs["x"])


def test_an_empty_batch_is_not_given_to_the_function():
    hook = Hook(lambda _: 1 / 0, [X], "hooks.before")
    assert hook.run({"x": np.empty((0, 2), np.float32)}, 0).tensors["x"].shape == (0, 2)


def test_a_hook_after_the_model_makes_other_outputs():
    predictions = PredictionBatch(
        events=events(2),
        outputs={"p": np.array([[1.0], [np.nan]])},
        model=ModelIdentity(name="m", version="1"),
        infer_s=2,
    )

    def hook(outputs):
        bad = np.flatnonzero(np.isnan(outputs["p"][:, 0]))
        if len(bad):
            raise RowError({int(i): "no answer" for i in bad})
        return {"y": outputs["p"][:, 0].astype(np.float32)}

    made, rejects = After(hook, [ONE])(predictions)
    assert made.outputs["y"].tolist() == [1]
    assert (made.infer_s, made.events.row) == (2, [3])
    assert [(r.row, r.detail) for r in rejects] == [(4, "no answer")]


# Around a model

MODEL = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=(-1, -1)),
        TensorSpec(name="mask", dtype="int64", shape=(-1, -1)),
        X,
    ),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 3)),),
)


def pipeline(hooks, post=None):
    made = settings([{"name": "ids", "dtype": "int64", "sequence": {"max_length": 4, "mask": "mask"}}])
    changed = made.model_dump(by_alias=True)
    changed["hooks"] = hooks
    changed["output"]["post"] = post or {}
    return type(made).model_validate(changed)


def test_features_fill_what_the_first_hook_takes_and_the_masks(tmp_path):
    code = "def hook(inputs): return inputs\n"
    plain = pipeline({"before": pinned(tmp_path, code)})
    assert fed_signature(plain, MODEL) == MODEL
    declared = {"ids": {"dtype": "int64", "shape": [-1, -1]}, "text": {"dtype": "string", "shape": [-1]}}
    other = pipeline({"before": pinned(tmp_path, code, inputs=declared)})
    assert [(spec.name, spec.dtype) for spec in fed_signature(other, MODEL).inputs] == [
        ("ids", "int64"),
        ("text", "str"),
        ("mask", "int64"),
    ]


def test_post_processing_follows_the_hook_and_both_lists_of_rejects_are_kept(tmp_path):
    code = (
        "import numpy as np\n"
        "from streamserve.hooks import RowError\n"
        "def hook(outputs):\n"
        "    scores = outputs['scores']\n"
        "    if (scores[:, 0] == 7).any():\n"
        "        raise RowError({int(i): 'seven' for i in np.flatnonzero(scores[:, 0] == 7)})\n"
        "    return {'flipped': scores[:, ::-1]}\n"
    )
    declared = {"flipped": {"shape": [-1, 3]}}
    config = pipeline(
        {"after": pinned(tmp_path, code, outputs=declared)}, {"best": {"kind": "argmax", "of": "flipped"}}
    )
    transforms = build_transforms(config, MODEL)
    assert [spec.name for spec in transforms.outputs] == ["flipped", "best"]
    scores = np.array([[7, 0, 0], [9, 1, 0], [np.nan, 0, 0], [0, 0, 5]], np.float32)
    predictions = PredictionBatch(
        events=events(4), outputs={"scores": scores}, model=ModelIdentity(name="m", version="1")
    )
    made, rejects = transforms.after(predictions)
    assert made.outputs["best"].tolist() == [2, 0]
    assert sorted((r.row, r.reason) for r in rejects) == [(3, "transform"), (5, "non_finite")]


def test_a_pipeline_without_hooks_and_steps_has_nothing_around_its_model():
    transforms = build_transforms(pipeline({}), MODEL)
    assert (transforms.before, transforms.after, transforms.outputs) == (None, None, MODEL.outputs)


def test_steps_that_do_not_fit_what_the_hook_gives_are_told(tmp_path):
    hook = pinned(tmp_path, "def hook(outputs): return outputs\n", outputs={"y": {"shape": [-1]}})
    config = pipeline({"after": hook}, {"best": {"kind": "argmax", "of": "scores"}})
    with pytest.raises(ContractError, match="made of scores, but at that point there are y"):
        build_transforms(config, MODEL)


def test_a_declared_tensor_begins_with_the_batch(tmp_path):
    hook = pinned(tmp_path, "", inputs={"x": {"shape": [4]}})
    with pytest.raises(ValueError, match="the first axis is the batch"):
        BeforeHookSettings.model_validate(hook)
