"""Redis keys and version texts."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from streamserve.cache.keys import (
    KeyLayout,
    event_time_version,
    event_time_versions,
    offset_version,
    offset_versions,
)

LAYOUT = KeyLayout("flights")


def test_a_plain_entity_key_stays_as_it_is():
    assert LAYOUT.names([b"AA11:2013|x~!"]) == [b"pred:flights:AA11:2013|x~!"]


def test_unusual_bytes_long_keys_and_a_leading_hash_sign_are_hashed():
    strange = [b"a b", b"{tag}", b"\x00", "é".encode(), b"x" * 201, b"#" + b"0" * 64, b"\n"]
    names = LAYOUT.names(strange)
    assert all(name.startswith(b"pred:flights:#") and len(name) == len(b"pred:flights:#") + 64 for name in names)
    assert len(set(names)) == len(strange)
    assert LAYOUT.names([b"x" * 200, b"", b"a#b"]) == [
        b"pred:flights:" + b"x" * 200,
        b"pred:flights:",
        b"pred:flights:a#b",
    ]


def test_a_name_does_not_depend_on_its_neighbours():
    keys = [b"plain", b"a b", b"x" * 300, b"#1"]
    assert LAYOUT.names(keys) == [LAYOUT.names([key])[0] for key in keys]


@given(st.lists(st.binary(max_size=220), unique=True, max_size=20))
def test_different_keys_get_different_names(keys):
    assert len(set(LAYOUT.names(keys))) == len(keys)


@given(
    st.tuples(st.integers(1, 9_999_999), st.integers(0, 2**63 - 1)),
    st.tuples(st.integers(1, 9_999_999), st.integers(0, 2**63 - 1)),
)
def test_versions_by_offset_order_by_count_then_offset(a, b):
    assert (offset_version(*a) < offset_version(*b)) == (a < b)
    assert len(offset_version(*a)) == len(offset_version(*b))


TIMES = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5))


@given(
    st.tuples(TIMES, st.integers(0, 2**63 - 1), st.integers(0, 9_999_999)),
    st.tuples(TIMES, st.integers(0, 2**63 - 1), st.integers(0, 9_999_999)),
)
def test_versions_by_event_time_order_by_time_then_offset(a, b):
    def version(time, offset, partition):
        return event_time_version(time, "t", partition, offset)

    assert (version(*a) < version(*b)) == (a < b)


def test_event_times_beyond_64_bits_count_as_the_nearest():
    far = event_time_versions([-(10**30), -(2**63), 2**63 - 1, 10**30], ["t"] * 4, [0] * 4, [0] * 4)
    assert far[0] == far[1] < far[2] == far[3]


def test_records_of_different_topics_never_share_a_version():
    assert event_time_version(5, "a", 0, 7) != event_time_version(5, "b", 0, 7)


def test_batches_and_single_versions_agree():
    assert offset_versions(8, [1, 2**40]) == [offset_version(8, 1), offset_version(8, 2**40)]
    assert all(a < b for a, b in itertools.pairwise(offset_versions(8, range(1000))))
