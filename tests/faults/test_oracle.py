"""The oracle can fail: on evidence made by hand, and on real slots with one promise broken."""

from __future__ import annotations

import pytest

from tests.faults.brokers import java_hash
from tests.faults.kills import kills
from tests.faults.oracle import Evidence, Output
from tests.faults.rebalances import storm
from tests.faults.scene import Scale, made, scene

SABOTAGED = "tests.faults.sabotaged_slot"


def output(sequence, partition=0, offset=None, source=None):
    place = (partition, sequence if source is None else source)
    return Output(partition, sequence if offset is None else offset, place, f"s-{sequence}-k0", b"k0", b"")


def judged(outputs, letters=()):
    return Evidence({(0, n): f"s-{n}-k0" for n in range(4)}, list(outputs), list(letters)).judge()


def test_a_complete_run_breaks_nothing():
    verdict = judged([output(0), output(1), output(3)], [output(2)])
    assert verdict.broken() == {}
    assert (verdict.events, verdict.predictions, verdict.dead_letters) == (4, 3, 1)


@pytest.mark.parametrize(
    ("outputs", "broken"),
    [
        ([0, 1, 3], {"lost": 1}),
        ([0, 1, 1, 2, 3, 3], {"duplicated": 2}),
        ([0, 2, 1, 3], {"inversions": 1, "key_inversions": 1}),
        ([], {"lost": 4}),
    ],
)
def test_each_broken_promise_is_counted(outputs, broken):
    assert judged(map(output, outputs)).broken() == broken


def test_a_prediction_and_a_dead_letter_of_one_record_are_a_duplicate():
    assert judged(map(output, range(4)), [output(2)]).broken() == {"duplicated": 1}


def test_an_output_of_a_record_that_is_not_there_or_is_another_is_a_phantom():
    outputs = [*map(output, range(4)), output(9)]
    assert judged(outputs).broken() == {"phantom": 1}
    assert judged([output(0), output(2, source=1), output(1, source=2), output(3)]).phantom == 2


def test_hashes_are_those_of_java():
    assert [java_hash(text) for text in ("", "a", "hello", "polygenelubricants")] == [0, 97, 99162322, -(1 << 31)]


@pytest.mark.faults
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("how", "guarantee", "broken"),
    [
        ("offsets_before_outputs", "at_least_once", "lost"),
        ("offsets_in_a_second_transaction", "exactly_once", "duplicated"),
    ],
)
def test_a_slot_that_commits_in_the_wrong_order_is_found_out(kafka, monkeypatch, how, guarantee, broken):
    monkeypatch.setenv("SABOTAGE", how)
    scale = Scale(seconds=8, rate=1000, faults=4, session_ms=2000)
    verdict = kills(kafka.bootstrap, None, scale, guarantee=guarantee, places=["after_send_offsets"], module=SABOTAGED)
    assert verdict.broken(at_least_once=guarantee == "at_least_once").get(broken), verdict.to_json()


@pytest.mark.faults
@pytest.mark.timeout(180)
def test_a_slot_that_ignores_epochs_is_found_out(kafka, monkeypatch):
    monkeypatch.setenv("SABOTAGE", "no_epochs")
    scale = Scale(seconds=14, rate=20_000, faults=4, session_ms=3000)
    verdict = storm(kafka.bootstrap, None, scale, module=SABOTAGED)
    assert verdict.broken(), verdict.to_json()


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_a_slot_whose_cache_forgets_is_found_out(kafka, redis_server, monkeypatch):
    monkeypatch.setenv("SABOTAGE", "forgetful_cache")
    with (
        made(kafka.bootstrap, "forgetful", redis_url=redis_server.url, module=SABOTAGED) as target,
        scene(target, 1000) as stage,
    ):
        stage.sleep_until(4)
        verdict, _ = stage.verdict()
    assert verdict.broken().keys() == {"stale"}
