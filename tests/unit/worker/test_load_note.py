"""A version that brings the process down while it is loaded: known in the next life, by the file's digest."""

import multiprocessing
import os
import signal

import pytest

from streamserve.batch import RecordBatch
from streamserve.errors import EngineError
from streamserve.testing import MemoryFiles
from streamserve.worker.journal import PREFIX, SHADOW_PREFIX, CrashJournal
from streamserve.worker.load_note import LoadNote
from streamserve.worker.quarantine import Quarantine

BAD = MemoryFiles(name="m", version="2", sha256="bb")
GOOD = MemoryFiles(name="m", version="1", sha256="aa")


def records():
    return RecordBatch(
        topic=["t"] * 2,
        partition=[0] * 2,
        offset=[0, 1],
        timestamp_ms=[0] * 2,
        key=[None] * 2,
        value=[b""] * 2,
        headers=lambda: [[]] * 2,
    )


def dying(folder, number, inside):
    journals = [CrashJournal(folder, "w", prefix=prefix) for prefix in inside]
    with LoadNote(folder, "w", None).of(BAD):
        for journal in journals:
            journal.open()
            journal.enter(records(), range(2))
        os.kill(os.getpid(), number)


def life(folder, number, inside=()):
    """A process that dies of a signal in the middle of a load; `inside`: journals with records in the engine.

    Returns: how it ended.
    """
    process = multiprocessing.get_context("spawn").Process(target=dying, args=(folder, number, inside))
    process.start()
    process.join()
    return process.exitcode


def loads(note, files):
    with note.of(files):
        return True


def test_a_native_crash_in_a_load_is_enough_not_to_load_the_file_again(tmp_path):
    note = LoadNote(tmp_path, "w", life(tmp_path, signal.SIGSEGV))
    assert note.died_loading
    with pytest.raises(EngineError, match=r"version 2 crashed the worker while it was being loaded \(signal SIGSEGV\)"):
        loads(note, BAD)
    assert loads(note, MemoryFiles(name="m", version="2", sha256="cc"))  # mended


def test_it_is_remembered_through_lives_that_end_well(tmp_path):
    LoadNote(tmp_path, "w", life(tmp_path, signal.SIGABRT))
    LoadNote(tmp_path, "w", 0)
    with pytest.raises(EngineError, match="not loaded again"):
        loads(LoadNote(tmp_path, "w", None), BAD)


def test_a_kill_from_outside_gives_a_version_up_only_at_its_third_time(tmp_path):
    for _ in range(2):
        ended = life(tmp_path, signal.SIGKILL)
        assert ended == -signal.SIGKILL
    assert life(tmp_path, signal.SIGKILL) == -signal.SIGKILL
    with pytest.raises(EngineError, match="3 times in a row"):
        loads(LoadNote(tmp_path, "w", -signal.SIGKILL), BAD)


def test_a_load_that_ends_one_way_or_the_other_leaves_nothing(tmp_path):
    note = LoadNote(tmp_path, "w", None)
    assert loads(note, GOOD)
    with pytest.raises(ValueError, match="broken"), note.of(BAD):
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []
    assert not LoadNote(tmp_path, "w", -signal.SIGSEGV).died_loading


def test_a_version_that_loads_says_nothing_of_another_one_that_was_given_up(tmp_path):
    assert loads(LoadNote(tmp_path, "w", life(tmp_path, signal.SIGSEGV)), GOOD)
    for note in (LoadNote(tmp_path, "w", 0), LoadNote(tmp_path, "w", None)):
        with pytest.raises(EngineError, match="not loaded again"):
            loads(note, BAD)
        assert loads(note, GOOD)


def test_a_version_that_loads_after_all_starts_anew(tmp_path):
    for _ in range(2):
        LoadNote(tmp_path, "w", life(tmp_path, signal.SIGKILL))
    assert loads(LoadNote(tmp_path, "w", None), BAD)
    assert loads(LoadNote(tmp_path, "w", life(tmp_path, signal.SIGKILL)), BAD)


@pytest.mark.parametrize("inside", [PREFIX, SHADOW_PREFIX])
def test_a_crash_with_records_in_an_engine_convicts_neither_them_nor_the_version_that_was_loading(tmp_path, inside):
    for _ in range(2):
        ended = life(tmp_path, signal.SIGSEGV, (inside,))
        note = LoadNote(tmp_path, "w", ended)
        assert note.died_loading
        if inside == PREFIX:
            suspicion = Quarantine.load(tmp_path, "w").split(records())
            assert (suspicion.alone, suspicion.never) == ({0, 1}, {})
    assert life(tmp_path, signal.SIGSEGV, (inside,)) == -signal.SIGSEGV
    with pytest.raises(EngineError, match="3 times"):
        loads(LoadNote(tmp_path, "w", -signal.SIGSEGV), BAD)


@pytest.mark.parametrize("first", ["the load", "the stop"])
def test_a_load_that_a_stop_cut_short_is_no_death_of_the_version(tmp_path, first):
    note = LoadNote(tmp_path, "w", None)
    if first == "the stop":
        note.stop()
    with note.of(BAD):
        if first == "the load":
            note.stop()
        assert not LoadNote(tmp_path, "w", -signal.SIGKILL).died_loading


def test_a_note_of_another_slot_is_not_ours(tmp_path):
    life(tmp_path, signal.SIGSEGV)
    assert not LoadNote(tmp_path, "w-1", -signal.SIGSEGV).died_loading


def test_damage_is_ignored(tmp_path):
    (tmp_path / "loading-w").write_bytes(b"{")
    assert loads(LoadNote(tmp_path, "w", -signal.SIGSEGV), BAD)
    Quarantine.load(tmp_path, "w")
