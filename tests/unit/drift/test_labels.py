"""What a label message may be, and what is said of one that is none."""

from __future__ import annotations

import numpy as np
import pytest

from streamserve.config.drift_settings import LabelSettings
from streamserve.drift.labels import Label, LabelDecoder, MalformedLabel
from streamserve.drift.task import UNKNOWN_CLASSES, Task

BINARY = LabelDecoder(Task())
NAMED = LabelDecoder(Task(kind="multiclass", classes=3, names=("ant", "bee", "cow")))
NUMBER = LabelDecoder(Task(kind="regression"))


def test_a_label_with_all_fields():
    data = b'{"id":"a","label":1,"ts":1372941000000,"value":12.5,"clicked":true,"note":{"free":[1]}}'
    assert BINARY.decode(data) == Label(id="a", label=1.0, time_ms=1372941000000, value=12.5, clicked=True)


@pytest.mark.parametrize(
    ("decoder", "label", "number"),
    [
        (BINARY, "0", 0.0),
        (BINARY, "1.0", 1.0),
        (BINARY, "true", 1.0),
        (NAMED, '"cow"', 2.0),
        (NAMED, "1", 1.0),
        (NUMBER, "-2.5e3", -2500.0),
        (NUMBER, "7", 7.0),
    ],
)
def test_labels_become_numbers(decoder, label, number):
    assert decoder.decode(b'{"id":7,"ts":5.0,"label":%s}' % label.encode()) == Label(id="7", label=number, time_ms=5)


@pytest.mark.parametrize(
    ("decoder", "data", "reason"),
    [
        (BINARY, None, "the message is empty"),
        (BINARY, b"", "truncated"),
        (BINARY, b"[]", "Expected `object`, got `array`"),
        (BINARY, b'{"label":1,"ts":5}', "missing required field `id`"),
        (BINARY, b'{"id":"a","ts":5}', "missing required field `label`"),
        (BINARY, b'{"id":"a","label":1}', "missing required field `ts`"),
        (BINARY, b'{"id":"","label":1,"ts":5}', "length >= 1"),
        (BINARY, b'{"id":"%s","label":1,"ts":5}' % (b"x" * 1025), "length <= 1024"),
        (BINARY, b'{"id":true,"label":1,"ts":5}', "Expected `int | str`"),
        (BINARY, b'{"id":"a","label":1,"ts":-1}', ">= 0"),
        (BINARY, b'{"id":"a","label":1,"ts":1e300}', "<= "),
        (BINARY, b'{"id":"a","label":1,"ts":"now"}', "`$.ts`"),
        (BINARY, b'{"id":"a","label":null,"ts":5}', "`$.label`"),
        (BINARY, b'{"id":"a","label":2,"ts":5}', "no whole number from 0 to 1"),
        (BINARY, b'{"id":"a","label":0.5,"ts":5}', "no whole number from 0 to 1"),
        (BINARY, b'{"id":"a","label":"yes","ts":5}', "no name in drift.labels.classes"),
        (BINARY, b'{"id":"a","label":1,"ts":5,"value":NaN}', "malformed"),
        (BINARY, b'{"id":"a","label":1,"ts":5,"clicked":3}', "`$.clicked`"),
        (BINARY, b'{"id":"\xff","label":1,"ts":5}', "utf-8"),
        (BINARY, b'{"x":' + b"[" * 200_000, "recursion"),
        (NAMED, b'{"id":"a","label":"dog","ts":5}', "no name in drift.labels.classes"),
        (NAMED, b'{"id":"a","label":3,"ts":5}', "no whole number from 0 to 2"),
        (NAMED, b'{"id":"a","label":true,"ts":5}', "a class is predicted"),
        (NUMBER, b'{"id":"a","label":"12","ts":5}', "a number is predicted"),
        (NUMBER, b'{"id":"a","label":false,"ts":5}', "a number is predicted"),
        (NUMBER, b'{"id":"a","label":1e999,"ts":5}', "out of range"),
        (NUMBER, b'{"id":"a","label":1%s,"ts":5}' % (b"0" * 400), "too large"),
    ],
)
def test_what_is_no_label_says_why(decoder, data, reason):
    found = decoder.decode(data)
    assert isinstance(found, MalformedLabel)
    assert reason in found.reason


def test_the_task_follows_the_settings():
    assert Task.of(LabelSettings(task="binary", threshold=0.3), 1) == Task(threshold=0.3)
    assert Task.of(LabelSettings(task="multiclass", classes=["a", "b", "c"]), 1).classes == 3
    assert Task.of(LabelSettings(task="multiclass"), 4).classes == 4
    assert Task.of(LabelSettings(task="multiclass"), 1).classes == UNKNOWN_CLASSES
    assert Task.of(LabelSettings(task="regression", tolerance=0.5), 1).tolerance == 0.5


def test_errors_are_what_detectors_read():
    nan = float("nan")
    scores = np.array([[0.2], [0.5], [0.9], [nan]])
    np.testing.assert_array_equal(Task().errors(scores, np.array([0.0, 1.0, 0.0, 0.0])), [0, 0, 1, 1])
    classes = Task(kind="multiclass", classes=3)
    np.testing.assert_array_equal(
        classes.errors(np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), np.array([1.0, 2.0])), [0, 1]
    )
    np.testing.assert_array_equal(classes.errors(np.array([[2.0], [1.0]]), np.array([2.0, 2.0])), [0, 1])
    amounts = Task(kind="regression", tolerance=0.5)
    np.testing.assert_array_equal(
        amounts.errors(np.array([[1.0], [2.0], [nan], [1e308]]), np.array([1.5, 2.6, 0.0, -1e308])), [0, 1, 1, 1]
    )
