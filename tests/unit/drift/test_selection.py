"""Selection: the rows of the level that became predictions and are still ours, and what the batches cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import TopicPartition
from streamserve.drift.levels import draws, kept, stream_seed
from streamserve.drift.selection import Selector
from tests.unit.drift.scored import batch, line, placed


def belongs(place, level) -> bool:
    """By the definition, one row at a time."""
    topic, partition, offset = place
    return len(kept(draws(np.uint64(stream_seed(topic, partition)), np.array([offset])), level)) == 1


@given(st.lists(placed(), min_size=1, max_size=3), st.integers(0, 3), st.data())
def test_the_rows_of_the_level_that_became_predictions_and_no_others(transaction, level, data):
    batches, wanted = [], []
    for places in transaction:
        some = st.sets(st.integers(0, len(places) - 1))
        bad, unwritten = data.draw(some), data.draw(some)
        batches.append(batch(places, bad=bad, unwritten=unwritten))
        wanted.append([i for i, p in enumerate(places) if belongs(p, level) and i not in bad and i not in unwritten])
    assert [list(selection.rows) for selection in Selector().select(batches, level)] == wanted


@given(placed(), st.integers(0, 9), st.sets(st.integers(0, 3)))
def test_spans_tell_first_offset_end_and_count_of_each_partition_that_is_ours(places, level, left):
    gone = {TopicPartition("t", partition) for partition in left}
    (selection,) = Selector().select([batch(places).without(gone)], level)
    ours = [place for place in places if place[:2] not in gone]
    assert set(selection.spans) == {TopicPartition(topic, partition) for topic, partition, _ in ours}
    for place, span in selection.spans.items():
        mine = [offset for topic, partition, offset in ours if (topic, partition) == place]
        assert (span.topic, span.partition) == place
        assert (span.first, span.end, span.consumed) == (min(mine), max(mine) + 1, len(mine))


@given(placed(), st.integers(0, 2), st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)))
def test_of_partitions_that_left_nothing_is_selected(places, level, first, second):
    gone = {TopicPartition("t", partition) for partition in first | second}
    sampled = batch(places).without({TopicPartition("t", p) for p in first}).without({("t", p) for p in second})
    (selection,) = Selector().select([sampled], level)
    assert list(selection.rows) == [i for i, p in enumerate(places) if p[:2] not in gone and belongs(p, level)]


@pytest.mark.parametrize("step", [1, 3])
def test_the_same_rows_whatever_the_batches_are(step):
    """A replay, or another worker, cuts the partition elsewhere."""
    places = line(0, 100, 900, step=step)
    whole = [places[row] for row in Selector().select([batch(places)], 4)[0].rows]
    assert 20 < len(whole) < 100
    for size in (1, 7, 512):
        cuts = [places[at : at + size] for at in range(0, 900, size)]
        found = Selector().select([batch(each) for each in cuts], 4)
        assert [each[row] for each, selection in zip(cuts, found, strict=True) for row in selection.rows] == whole


def test_a_batch_of_nothing_but_rejects_is_covered():
    (selection,) = Selector().select([batch(line(0, 5, 3), bad={0, 1, 2})], 2)
    assert list(selection.rows) == []
    assert [(span.first, span.end, span.consumed) for span in selection.spans.values()] == [(5, 8, 3)]
