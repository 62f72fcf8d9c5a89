"""Whatever is commanded, by whomever, and whatever compaction takes away: one state, and versions that fit together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamserve.rollout.log import RolloutLog
from streamserve.rollout.records import (
    Acknowledgement,
    Arm,
    Canary,
    Experiment,
    Promote,
    Retire,
    Rollback,
    Shadow,
    Stop,
    SwitchPoint,
    acknowledgement_key,
    encode,
)
from streamserve.rollout.split import split_of
from streamserve.rollout.state import Refused, RolloutState, apply

VERSIONS = st.sampled_from(["1", "2", "3", "4"])
WEIGHTS = st.sampled_from([0.1, 0.5, 1.0])
EXPECTS = st.one_of(st.none(), st.integers(-1, 30))
SLOTS = st.sampled_from(["host-0", "host-1"])


@st.composite
def experiments(draw):
    versions = draw(st.lists(VERSIONS, min_size=2, max_size=4))  # twice the same is refused
    arms = tuple(Arm(name=f"arm-{n}", version=v, weight=1 / len(versions)) for n, v in enumerate(versions))
    return Experiment(id="x", name=draw(st.sampled_from(["a", "b"])), arms=arms, expects=draw(EXPECTS))


COMMANDS = st.one_of(
    st.builds(Promote, id=st.just("x"), version=VERSIONS, expects=EXPECTS),
    st.builds(Canary, id=st.just("x"), version=VERSIONS, weight=WEIGHTS, expects=EXPECTS),
    st.builds(Shadow, id=st.just("x"), version=VERSIONS, expects=EXPECTS),
    experiments(),
    st.builds(Rollback, id=st.just("x"), expects=EXPECTS, drop=st.booleans()),
    st.builds(Stop, id=st.just("x"), what=st.sampled_from(["canary", "shadow", "experiment"]), expects=EXPECTS),
    st.builds(Retire, id=st.just("x"), expects=EXPECTS),
)
ANSWERS = st.builds(Acknowledgement, slot=SLOTS, revision=st.integers(0, 30), serving=st.integers(-1, 30))
POINTS = st.builds(
    SwitchPoint,
    topic=st.just("events"),
    partition=st.integers(0, 1),
    offset=st.integers(0, 20),
    revision=st.integers(0, 30),
)
LEAVES = SLOTS.map(lambda slot: (acknowledgement_key(slot), None))
FOREIGN = st.tuples(st.one_of(st.none(), st.binary(max_size=8)), st.one_of(st.none(), st.binary(max_size=30)))


def stored(record, number):
    """Key and value; every command gets a key of its own."""
    if isinstance(record, tuple):
        return record
    if not isinstance(record, Acknowledgement | SwitchPoint):
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        record = type(record)(**{**fields, "id": f"c{number}"})
    return encode(record)


@st.composite
def topics(draw):
    """A topic: (offset, key, value), offsets ascending with gaps."""
    records = draw(st.lists(st.one_of(COMMANDS, COMMANDS, ANSWERS, POINTS, LEAVES, FOREIGN), max_size=30))
    offset, found = -1, []
    for number, record in enumerate(records):
        offset += draw(st.integers(1, 3))
        found.append((offset, *stored(record, number)))
    return found


def folded(entries):
    log = RolloutLog()
    for entry in entries:
        log.add(*entry)
    return log


def whole(log):
    return log.state, log.history, log.acknowledgements, {tp: points for tp, points in log.switches.items() if points}


@given(topics(), st.data())
def test_any_compaction_gives_the_same_fold(topic, data):
    """The log cleaner drops records that have a newer one of their key, any number of them, and tombstones after that."""
    newest = {key: offset for offset, key, _ in topic}
    superseded = [entry for entry in topic if entry[1] is not None and newest[entry[1]] > entry[0]]
    dropped = data.draw(st.sets(st.sampled_from(superseded)) if superseded else st.just(set()))
    left = [entry for entry in topic if entry not in dropped]
    keys = {key for _, key, _ in left}
    old = [e for e in left if e[2] is None and e[1] is not None and sum(k == e[1] for _, k, _ in left) == 1]
    gone = data.draw(st.sets(st.sampled_from(old)) if old and keys else st.just(set()))
    assert whole(folded([entry for entry in left if entry not in gone])) == whole(folded(topic))


@given(topics(), st.data())
def test_a_reader_that_is_interrupted_and_one_that_reads_twice_come_to_the_same(topic, data):
    at = data.draw(st.integers(0, len(topic)))
    back = data.draw(st.integers(0, at))
    assert whole(folded([*topic[:at], *topic[back:]])) == whole(folded(topic))


@given(topics())
def test_what_is_foreign_changes_nothing(topic):
    ours = RolloutLog()
    for entry in topic:
        before = ours.skipped
        ours.add(*entry)
        if ours.skipped > before:
            without = folded([other for other in topic if other[0] < entry[0]])
            assert whole(without) == whole(folded([other for other in topic if other[0] <= entry[0]]))


@given(st.lists(COMMANDS, max_size=40))
def test_the_versions_of_a_state_always_fit_together(commands):
    state, begun = RolloutState(), False
    for revision, command in enumerate(commands):
        try:
            after = apply(state, command, revision)
        except Refused:
            continue
        begun = True
        assert after.revision == revision
        fits(after)
        if isinstance(command, Rollback):
            assert set(after.serving) <= set(state.needed), "a rollback must not need a load"
        state = after
    assert (state.stable is not None) == begun


def fits(state):
    assert state.stable is not None
    assert state.canary is None or state.experiment is None
    assert (state.experiment is None) == (state.arms == ())
    assert (state.canary is None) == (state.weight == 0)
    assert len(set(state.sides)) == len(state.sides)
    assert state.shadow not in {state.stable, *state.sides}
    assert state.previous != state.stable
    assert set(state.sides) <= set(state.serving) <= set(state.needed)
    split = split_of(state)
    assert (split is None) == (len(state.sides) == 1)
    if split is not None:
        assert len(split.ends) == len(state.sides) - 1
        assert list(split.ends) == sorted(split.ends)
        assert all(0 <= end < 1 for end in split.ends)


@given(topics(), st.integers(0, 1), st.integers(0, 25))
def test_an_offset_was_scored_by_the_last_switch_point_before_it(topic, partition, offset):
    """By the definition: passes in the order of the topic, each overruling what came before from its offset on."""
    log, expected = folded(topic), None
    reached = {}
    for _, key, value in topic:
        one = folded([(0, key, value)])
        for tp, (point,) in one.switches.items():
            reached = {
                at: revision for at, revision in reached.items() if at < point.offset or tp.partition != partition
            }
            if tp.partition == partition:
                reached[point.offset] = point.revision
    expected = max(((at, revision) for at, revision in reached.items() if at <= offset), default=(0, None))[1]
    assert log.revision_at("events", partition, offset) == expected
