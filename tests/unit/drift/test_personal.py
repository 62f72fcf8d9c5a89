"""Personal values: equal stays equal, the secret decides, nothing of the value is left."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.drift.chunk import TextColumn
from streamserve.drift.personal import NOTHING_PERSONAL, Personal

PERSONAL = Personal(b"secret", ["id", "key", "name", "age"])


def test_the_hash_is_keyed_blake2b():
    assert PERSONAL.text("anna") == hashlib.blake2b(b"anna", key=b"secret", digest_size=16).hexdigest()
    assert PERSONAL.text("anna") != Personal(b"another", ["id"]).text("anna")


def test_ids_and_keys_are_hashed_alike():
    (ident,), (entity, nobody) = PERSONAL.ids(["anna"]), PERSONAL.entities([b"anna", None])
    assert entity == ident.encode()
    assert nobody is None


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=20))
def test_a_text_column_keeps_what_is_equal_and_what_is_missing(texts):
    hashed = PERSONAL.column("name", TextColumn.of(texts)).texts()
    assert hashed == [None if text is None else PERSONAL.text(text) for text in texts]


def test_numbers_become_texts_and_missing_stays_missing():
    whole = PERSONAL.column("age", np.array([42, 43, 42]))
    gaps = PERSONAL.column("age", np.array([42.0, np.nan, 42.5]))
    assert whole.texts() == [PERSONAL.text("42"), PERSONAL.text("43"), PERSONAL.text("42")]
    assert gaps.texts() == [PERSONAL.text("42"), None, PERSONAL.text("42.5")]


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300, -0.5])
def test_any_number_has_a_hash(value):
    (text,) = PERSONAL.column("age", np.array([value])).texts()
    assert len(text) == 32


def test_what_is_not_personal_is_left_alone():
    column = np.array([1.0, 2.0])
    assert PERSONAL.column("temp", column) is column
    assert NOTHING_PERSONAL.ids(["anna"]) == ["anna"]
    assert NOTHING_PERSONAL.entities([b"anna"]) == [b"anna"]


def test_a_long_secret_counts_to_its_last_byte():
    long = b"x" * 100
    assert Personal(long, ["id"]).text("anna") != Personal(long[:-1], ["id"]).text("anna")


def test_a_text_that_utf8_cannot_hold_has_a_hash():
    assert len(PERSONAL.text("\ud800")) == 32
