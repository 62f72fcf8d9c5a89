import logging
import stat
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.batch import RecordBatch, TopicPartition
from streamserve.errors import ConfigError
from streamserve.pipeline.infer import Suspicion
from streamserve.worker import quarantine as quarantine_module
from streamserve.worker.journal import SHADOW_PREFIX, CrashJournal, Entry, OffsetRange, ranges_of, read_abandoned
from streamserve.worker.quarantine import (
    DEVICE_FAULT_EXIT_CODE,
    Quarantine,
    Record,
    judged,
    shadow_crashed,
)

SEGV, KILL = -11, -9


def records(*places):
    n = len(places)
    return RecordBatch(
        topic=[p[0] for p in places],
        partition=[p[1] for p in places],
        offset=[p[2] for p in places],
        timestamp_ms=[0] * n,
        key=[None] * n,
        value=[b""] * n,
    )


def abandon(state_dir, slot, batch, rows):
    """Leave a journal as a dead process does."""
    journal = CrashJournal(state_dir, slot)
    journal.open()
    journal.enter(batch, rows)
    journal.close()
    return state_dir / f"journal-{slot}"


BATCH = records(("t", 0, 5), ("t", 1, 7), ("t", 0, 9), ("t", 1, 8), ("t", 0, 10))


def test_an_entry_names_the_offsets_of_each_partition(tmp_path):
    path = abandon(tmp_path, "a", BATCH, [0, 1, 2, 3])
    entry = read_abandoned(path)
    assert entry.rows == 4
    assert set(entry.ranges) == {OffsetRange("t", 0, 5, 10), OffsetRange("t", 1, 7, 8)}


def test_a_single_row_is_named_exactly(tmp_path):
    path = abandon(tmp_path, "a", BATCH, [2])
    assert read_abandoned(path) == Entry(1, (OffsetRange("t", 0, 9, 9),))


def test_leaving_strikes_the_entry_out(tmp_path):
    with CrashJournal(tmp_path, "a") as journal:
        journal.enter(BATCH, [0, 1])
        journal.leave()
    assert read_abandoned(tmp_path / "journal-a") is None


def test_the_journal_of_a_live_slot_is_not_read_and_not_taken_over(tmp_path):
    with CrashJournal(tmp_path, "a") as journal:
        journal.enter(BATCH, [0, 1])
        assert read_abandoned(tmp_path / "journal-a") is None
        with pytest.raises(ConfigError, match="another worker runs as slot 'a'"):
            CrashJournal(tmp_path, "a").open(timeout_s=0)


def test_the_folder_and_its_files_are_private(tmp_path):
    folder = tmp_path / "deep" / "state"
    abandon(folder, "a", BATCH, [0])
    Quarantine.load(folder, "a", SEGV)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in ("quarantine.json", "lock"):
        assert stat.S_IMODE((folder / file).stat().st_mode) == 0o600


def steps_through(topics):
    step = st.tuples(st.sampled_from(topics), st.integers(0, 12), st.integers(0, 3))
    return st.lists(step, min_size=2, max_size=60)


@given(steps_through("t") | steps_through("tu"))
def test_ranges_cover_every_record_from_first_to_last(steps):
    at, places = {}, []
    for topic, partition, step in steps:
        at[topic, partition] = at.get((topic, partition), 0) + 1 + step
        places.append((topic, partition, at[topic, partition]))
    expected = {}
    for topic, partition, offset in places:
        first, _ = expected.get((topic, partition), (offset, offset))
        expected[topic, partition] = (first, offset)
    ranges = ranges_of(records(*places), [0, 1])
    assert sorted(ranges) == sorted((t, p, first, last) for (t, p), (first, last) in expected.items())


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"\0" * 100, b"SSJRNL1\n" + b"\x01" * 5, b"SSJRNL1\n\x01\0\0\0\x04\0\0\0\0\0\0\0abcd"],
)
def test_a_file_that_makes_no_sense_is_ignored(tmp_path, content, caplog):
    (tmp_path / "journal-a").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        quarantine = Quarantine.load(tmp_path, "a", SEGV)
    assert quarantine.split(BATCH) is None
    assert [r.msg for r in caplog.records] == (["journal_ignored"] if content.strip(b"\0") else [])


def test_a_damaged_entry_is_ignored(tmp_path):
    path = abandon(tmp_path, "a", BATCH, [0, 1])
    data = bytearray(path.read_bytes()[:200])
    data[25] ^= 1
    path.write_bytes(data)
    assert read_abandoned(path) is None


def test_links_and_folders_in_place_of_files_are_ignored(tmp_path):
    (tmp_path / "journal-b").mkdir()
    (tmp_path / "journal-c").symlink_to("/etc/passwd")
    (tmp_path / "quarantine.json").symlink_to("/etc/passwd")
    assert Quarantine.load(tmp_path, "a").split(BATCH) is None


def test_a_damaged_quarantine_is_ignored_and_replaced(tmp_path, caplog):
    (tmp_path / "quarantine.json").write_text("{")
    abandon(tmp_path, "a", BATCH, [0, 1])
    Quarantine.load(tmp_path, "a", SEGV)
    assert caplog.records[0].msg == "quarantine_ignored"
    assert Quarantine.load(tmp_path, "a").split(BATCH).alone == {0, 1, 2, 3, 4}


def test_a_batch_that_crashed_becomes_suspects(tmp_path):
    abandon(tmp_path, "a", BATCH, [0, 1])
    suspicion = Quarantine.load(tmp_path, "a", SEGV).split(records(("t", 0, 4), ("t", 0, 7), ("u", 0, 7), ("t", 1, 8)))
    assert (suspicion.alone, dict(suspicion.never)) == ({1, 3}, {})


@pytest.mark.parametrize(
    ("cause", "words"),
    [(SEGV, "signal SIGSEGV"), (-6, "signal SIGABRT"), (DEVICE_FAULT_EXIT_CODE, "device fault")],
)
def test_a_record_that_crashed_alone_is_quarantined_for_good(tmp_path, cause, words):
    abandon(tmp_path, "a", BATCH, [2])
    Quarantine.load(tmp_path, "a", cause)
    suspicion = Quarantine.load(tmp_path, "b").split(BATCH)
    assert suspicion.alone == frozenset()
    assert dict(suspicion.never) == {2: f"the engine crashed on this record ({words})"}


@pytest.mark.parametrize("cause", [KILL, 1, 0, None, -64])
def test_unexplained_deaths_count_to_three(cause):
    entry = Entry(1, (OffsetRange("t", 0, 9, 9),))
    record, whys = Record(), []
    for _ in range(3):
        record = judged(record, entry, cause)
        whys.append(record.convicts[0].why)
    assert whys[:2] == ["", ""]
    assert whys[2].startswith("the worker died 3 times")
    assert len(record.convicts) == 1


def test_other_dead_slots_make_suspects_and_keep_their_entries(tmp_path):
    abandon(tmp_path, "other", BATCH, [2])
    assert Quarantine.load(tmp_path, "a", SEGV).split(BATCH).alone == {2}
    assert Quarantine.load(tmp_path, "other", SEGV).split(BATCH).never == {
        2: "the engine crashed on this record (signal SIGSEGV)"
    }


def test_committed_positions_are_forgotten_here_and_in_the_file(tmp_path):
    abandon(tmp_path, "a", BATCH, [0, 1])
    quarantine = Quarantine.load(tmp_path, "a", SEGV)
    quarantine.forget({TopicPartition("t", 0): 10})
    assert quarantine.split(BATCH).alone == {0, 1, 2, 3, 4}
    quarantine.forget({TopicPartition("t", 0): 11})
    assert quarantine.split(BATCH).alone == {1, 3}
    quarantine.forget({TopicPartition("t", 1): 9})
    assert quarantine.split(BATCH) is None
    assert Quarantine.load(tmp_path, "a").split(BATCH) is None


def test_a_disk_that_fails_does_not_stop_the_forgetting(tmp_path, caplog):
    folder = tmp_path / "state"
    abandon(folder, "a", BATCH, [0, 1])
    quarantine = Quarantine.load(folder, "a", SEGV)
    caplog.clear()
    (folder / "quarantine.json").rename(tmp_path / "elsewhere")
    (folder / "quarantine.json.new").mkdir()
    quarantine.forget({TopicPartition("t", 0): 11, TopicPartition("t", 1): 9})
    assert quarantine.split(BATCH) is None
    assert [r.msg for r in caplog.records] == ["quarantine_not_written"]


def test_a_batch_too_wide_for_the_journal_goes_without_an_entry(tmp_path):
    wide = records(*((f"{'t' * 240}{i}", 0, i) for i in range(2000)))
    with CrashJournal(tmp_path, "a") as journal:
        journal.enter(BATCH, [0, 1])
        journal.enter(wide, list(range(2000)))
    assert read_abandoned(tmp_path / "journal-a") is None


def test_what_another_slot_learned_is_there_after_a_reload(tmp_path):
    quarantine = Quarantine.load(tmp_path, "a")
    abandon(tmp_path, "b", BATCH, [0])
    Quarantine.load(tmp_path, "b", SEGV)
    assert quarantine.split(BATCH) is None
    quarantine.reload()
    assert list(quarantine.split(BATCH).never) == [0]


def test_a_folder_that_is_gone_is_a_warning_and_what_is_known_stays(tmp_path, caplog):
    folder = tmp_path / "state"
    abandon(folder, "a", BATCH, [0])
    quarantine = Quarantine.load(folder, "a", SEGV)
    caplog.clear()
    folder.rename(tmp_path / "elsewhere")
    quarantine.reload()
    assert [r.msg for r in caplog.records] == ["quarantine_not_read"]
    assert list(quarantine.split(BATCH).never) == [0]


class Unread(list):
    """A column that must not be gone through."""

    def __iter__(self):
        raise AssertionError("read row by row")


def test_rows_are_not_looked_at_where_nothing_is_known_of_their_partitions(tmp_path):
    abandon(tmp_path, "a", BATCH, [0])
    quarantine = Quarantine.load(tmp_path, "a", SEGV)
    other = records(("t", 1, 5), ("t", 2, 5))
    assert quarantine.split(replace(other, offset=Unread(other.offset), positions=other.next_positions())) is None


def test_a_reload_does_not_bring_back_what_is_forgotten_meanwhile(tmp_path, monkeypatch):
    abandon(tmp_path, "a", BATCH, [0])
    quarantine = Quarantine.load(tmp_path, "a", SEGV)
    forgetting = threading.Thread(target=quarantine.forget, args=[{TopicPartition("t", 0): 6}])

    def while_it_is_taken_over(record):
        if not forgetting.ident:
            forgetting.start()
            forgetting.join(0.2)  # it may not come to an end before the reload has
        return by_partition(record)

    by_partition = quarantine_module._by_partition
    monkeypatch.setattr(quarantine_module, "_by_partition", while_it_is_taken_over)
    quarantine.reload()
    forgetting.join()
    assert quarantine.split(BATCH) is None


@pytest.mark.parametrize("slot", ["", "a/b", "a\0b"])
def test_a_slots_name_cannot_leave_the_folder(tmp_path, slot):
    with pytest.raises(ConfigError, match="slot's name"):
        CrashJournal(tmp_path, slot)


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state_dir"):
        Quarantine.load(tmp_path / "file", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def abandon_shadow(state_dir, slot):
    with CrashJournal(state_dir, slot, prefix=SHADOW_PREFIX) as journal:
        journal.enter(BATCH, [0, 1])


def test_a_death_with_the_shadow_inside_convicts_nobody_of_the_stable_path(tmp_path):
    abandon(tmp_path, "a", BATCH, [2])
    abandon_shadow(tmp_path, "a")
    assert Quarantine.load(tmp_path, "a", SEGV).split(BATCH) == Suspicion(alone=frozenset({2}), never={})
    assert shadow_crashed(tmp_path, "a", SEGV)
    with CrashJournal(tmp_path, "a", prefix=SHADOW_PREFIX):
        assert not shadow_crashed(tmp_path, "a", SEGV)
    abandon(tmp_path, "a", BATCH, [2])  # it was not the shadow
    assert Quarantine.load(tmp_path, "a", SEGV).split(BATCH).never.keys() == {2}


def test_a_death_with_the_shadow_alone_inside_makes_no_suspects(tmp_path):
    CrashJournal(tmp_path, "a").open()
    abandon_shadow(tmp_path, "a")
    assert Quarantine.load(tmp_path, "a", SEGV).split(BATCH) is None


@pytest.mark.parametrize(("cause", "told"), [(SEGV, True), (70, True), (None, True), (KILL, False)])
def test_the_shadow_is_only_left_alone_after_a_death_that_may_be_its_fault(tmp_path, cause, told):
    abandon_shadow(tmp_path, "a")
    assert shadow_crashed(tmp_path, "a", cause) is told
    assert not shadow_crashed(tmp_path, "b", cause)
