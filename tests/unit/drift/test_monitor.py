"""The monitor: exact whatever the chunks, exact after a restart, silent on what is stationary."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import msgspec
import numpy as np
import orjson
import pytest

from streamserve.config.drift_settings import LabelSettings
from streamserve.drift.baseline import BaselineOptions, build
from streamserve.drift.cells import derived
from streamserve.drift.chunk import encode
from streamserve.drift.monitor import Monitor
from streamserve.drift.reference import Reference
from streamserve.drift.segments import ALL
from tests.unit.drift.streams import MODEL, START_MS, VERSION, Fixed, Stream, reference, settings

SEGMENTS = [{"feature": "colour", "top": 2}]


@functools.cache
def frozen():
    return reference(segments=settings(segments=SEGMENTS).drift.segments)


def monitor(**drift):
    return Monitor(settings(segments=SEGMENTS, **drift), Fixed(frozen()))


def feed(watch, chunks, first=0):
    """Every event with the chunk it came of."""
    found = []
    for offset, chunk in enumerate(chunks, first):
        found += [(offset, event) for event in watch.chunk(encode(chunk), offset, chunk.written_ms)]
    return found


def documents(events):
    return [json.loads(event.json()) for _, event in events]


def test_the_counts_are_those_of_a_single_pass_however_the_chunks_are_cut():
    stream = Stream(400, 100, seed=1)
    whole, cut = monitor(), monitor()
    feed(whole, [stream.chunk(0, stream.n)])
    pieces = []
    for start in range(0, stream.n, 400):
        pieces += [
            stream.chunk(start, start + 400, partitions=(0, 2)),
            stream.chunk(start, start + 400, partitions=(1,)),
            stream.chunk(start, start + 400, partitions=(3,)),
        ]
    pieces = [piece for each in pieces for piece in (each, each)]  # all of them twice
    feed(cut, pieces)
    assert cut.counts.duplicate == len(pieces) // 2
    slot = START_MS // 60_000 + 6
    for segment in (ALL, "colour=red", "colour=green"):
        a = whole.models[MODEL].versions[VERSION].gathered.window(600, segment, slot).profile
        b = cut.models[MODEL].versions[VERSION].gathered.window(600, segment, slot).profile
        assert a.rows > 2000
        assert (a.counts == b.counts).all()
        assert a.rows == b.rows


def test_a_stationary_stream_pages_nobody_and_is_reported():
    found = documents(feed(monitor(), Stream(1500, 50, seed=2).chunks(250)))
    assert [each for each in found if each["kind"] == "alert"] == []
    reports = [each for each in found if each["kind"] == "report"]
    ends = {(each["window_s"], each["segment"]): each["end_ms"] for each in reports}
    assert len(ends) == 6
    assert all(each["reference"] == frozen().hash for each in reports)


def test_a_shift_opens_one_incident_that_names_the_column_and_its_offsets():
    stream = Stream(1500, 50, seed=3, shift=1.0, shift_at_s=700)
    alerts = [each for each in documents(feed(monitor(), stream.chunks(250))) if each["kind"] == "alert"]
    opened = [each for each in alerts if each["alert"] == "opened"]
    assert len(opened) == 1
    assert opened[0]["sequence"] == 0
    assert 0 < opened[0]["at_ms"] - START_MS - 700_000 <= 90_000
    assert {"x", "output.p"} >= {reason["column"] for reason in opened[0]["reasons"]}
    assert set(opened[0]["span"]["payments"]) == {"0", "1", "2", "3"}


def test_an_incident_clears_when_all_is_as_before():
    stream = Stream(3000, 50, seed=4)
    shifted = (stream.time_ms >= START_MS + 700_000) & (stream.time_ms < START_MS + 1_000_000)
    stream.x[shifted] += 1.0
    alerts = [each for each in documents(feed(monitor(), stream.chunks(250))) if each["kind"] == "alert"]
    assert [each["alert"] for each in alerts if each["alert"] != "worsened"] == ["opened", "cleared"]
    assert len({each["incident"] for each in alerts}) == 1
    assert [each["sequence"] for each in alerts] == list(range(len(alerts)))


@pytest.mark.parametrize("cut", [40, 151, 207])
def test_a_successor_goes_on_as_if_nothing_had_happened(cut):
    stream = Stream(1500, 50, seed=5, shift=1.0, shift_at_s=700)
    chunks = list(stream.chunks(250))
    whole = documents(feed(monitor(), chunks))
    before = documents(feed(monitor(), chunks[:cut]))
    successor = monitor()
    resume = successor.restore(before) if any(each["kind"] == "state" for each in before) else None
    first = resume or 0
    assert first <= cut
    after = documents(feed(successor, chunks[first:], first))
    told = [each for each in whole if each["kind"] in {"report", "alert"}]
    assert [each for each in before + after if each["kind"] in {"report", "alert"}] == told


def test_without_a_reference_the_first_rows_become_one_and_a_restart_keeps_it():
    config = settings(learn_rows=5000)
    chunks = list(Stream(1500, 50, seed=6).chunks(250))
    whole = Monitor(config, Fixed())
    told = documents(feed(whole, chunks))
    learned = [each for each in told if each["kind"] == "reference"]
    assert len(learned) == 1
    assert learned[0]["document"]["provisional"]
    assert learned[0]["document"]["rows"] >= 5000
    assert [each for each in told if each["kind"] == "alert"] == []
    for cut in (30, 120, 200):  # while it learns, and after
        before = documents(feed(Monitor(config, Fixed()), chunks[:cut]))
        successor = Monitor(config, Fixed())
        first = successor.restore(before) or 0
        after = documents(feed(successor, chunks[first:], first))
        reports = [[each for each in docs if each["kind"] == "report"] for docs in (before + after, told)]
        assert reports[0] == reports[1]


def test_a_canary_is_compared_with_the_stable_version():
    stream = Stream(1500, 50, seed=7)
    other = Stream(1500, 50, seed=8, shift=1.0, shift_at_s=0)
    watch = Monitor(settings(), Fixed(frozen()))
    found = []
    for i, start in enumerate(range(0, stream.n - 250, 250)):
        stable = stream.chunk(start, start + 250, partitions=(0, 1))
        canary = other.chunk(start, start + 250, partitions=(2, 3), version="4", role="canary")
        found += feed(watch, [stable, canary], 2 * i)
    alerts = [each for each in documents(found) if each["kind"] == "alert"]
    assert {each["version"] for each in alerts} == {"4"}
    assert alerts[0]["at_ms"] - START_MS < 90_000
    assert {reason["kind"] for reason in alerts[0]["reasons"]} == {"canary"}
    assert "x" in {reason["column"] for reason in alerts[0]["reasons"]}


def test_a_canary_is_compared_with_whatever_is_stable_by_now():
    """Versions 3 and 4 were both stable and canary before; the newest chunk says who is what."""
    stream = Stream(20, 50, seed=7)
    watch = Monitor(settings(), Fixed(frozen()))
    roles = [("3", "stable"), ("4", "canary"), ("4", "stable"), ("5", "canary"), ("3", "stable"), ("5", "canary")]
    for i, (version, role) in enumerate(roles):
        feed(watch, [stream.chunk(i * 100, i * 100 + 100, version=version, role=role)], i)
    versions = watch.models[MODEL].versions
    assert versions["5"].beside.watch is versions["3"]
    assert versions["4"].beside is None
    feed(watch, [stream.chunk(600, 700, version="4", role="stable")], 6)
    assert versions["5"].beside is None, "version 4 has no reference to compare by"


def test_whatever_the_bytes_nothing_is_raised():
    watch = monitor()
    good = encode(Stream(10, 100, seed=9).chunk(0, 400))
    for data in (None, b"", b"{}", b"\x00", good[:-1], good[: len(good) // 2], good.replace(b"payments", b"paymentz")):
        assert watch.chunk(data, 0, START_MS) == []
    assert watch.counts.broken == 4
    assert watch.counts.foreign == 1
    assert watch.newest_broken


def test_a_million_categories_do_not_grow_the_state():
    watch = monitor()
    stream = Stream(200, 100, seed=10)
    stream.colour = np.array([f"c{i}" for i in range(stream.n)])
    feed(watch, stream.chunks(1000))
    version = watch.models[MODEL].versions[VERSION]
    assert len(version.gathered.rings) == 6
    assert version.latest[60, ALL].verdict.drifted[frozen().names.index("colour")]


def label(stream, i, wrong=False, delay_ms=5000):
    value = int(stream.x[i] >= 0) ^ int(wrong)
    event = f"{stream.partition[i]}-{stream.offset[i]}"
    return json.dumps({"id": event, "label": value, "ts": int(stream.time_ms[i]) + delay_ms}).encode()


def with_labels(errors_after_s, *, seconds=1500, seed=11, rate=(0.1, 0.4)):
    """The stream's chunks, and after each of them the labels of the chunk before."""
    stream = Stream(seconds, 50, seed=seed)
    rng = np.random.default_rng(seed)
    later = stream.time_ms >= START_MS + errors_after_s * 1000
    wrong = rng.random(stream.n) < np.where(later, rate[1], rate[0])
    watch = Monitor(settings(labels={"output": "p"}), Fixed(frozen()))
    found = []
    for offset, start in enumerate(range(0, stream.n - 249, 250)):
        found += feed(watch, [stream.chunk(start, start + 250)], offset)
        if start:
            first = start - 250
            watch.labels([(0, i, label(stream, i, wrong[i])) for i in range(first, start)])
    return watch, documents(found), stream


def test_labels_give_performance_by_window_and_more_errors_open_an_incident():
    watch, found, _ = with_labels(900)
    performance = [each for each in found if each["kind"] == "performance" and each["window_s"] == 600]
    assert performance[2]["realised"]["accuracy"]["value"] == pytest.approx(0.9, abs=0.02)
    assert performance[-1]["realised"]["accuracy"]["value"] < 0.75
    alerts = [each for each in found if each["kind"] == "alert"]
    assert alerts[0]["severity"] == "critical"
    assert {reason["kind"] for reason in alerts[0]["reasons"]} == {"concept"}
    assert 0 < alerts[0]["at_ms"] - START_MS - 900_000 <= 60_000
    outcomes = watch.models[MODEL].outcomes
    assert outcomes.join.counts["joined"] > 74_000 * 0.9


def test_labels_of_a_model_that_stays_as_good_page_nobody():
    _, found, _ = with_labels(1e9, seed=12)
    assert [each for each in found if each["kind"] == "alert"] == []


def test_odd_labels_are_counted_and_never_fatal():
    watch, _, stream = with_labels(1e9, seconds=60, seed=13)
    join = watch.models[MODEL].outcomes.join
    before = dict(join.counts)
    again = label(stream, 300)
    watch.labels([(0, 9000 + i, data) for i, data in enumerate([None, b"{", b"[]", b'{"id":1}', again, again])])
    assert join.counts["malformed"] - before["malformed"] == 4
    seconds = join.counts["duplicate"] + join.counts["contradicting"]
    assert seconds - before["duplicate"] - before["contradicting"] >= 1


def test_an_incident_that_lasts_asks_for_training_once():
    config = settings(retrain={"after_s": 100})
    watch = Monitor(config, Fixed(frozen()))
    stream = Stream(1200, 50, seed=14, shift=1.0, shift_at_s=300)
    asked = [each for each in documents(feed(watch, stream.chunks(250))) if each["kind"] == "retrain"]
    assert len(asked) == 1
    assert asked[0]["evidence"]["incident"]["alert"] in {"opened", "worsened"}


def test_rows_worth_a_label_are_marked_within_the_budget():
    config = settings(labelling={"per_hour": 60, "diversity": 0.5})
    watch = Monitor(config, Fixed(frozen()))
    stream = Stream(1200, 50, seed=15)
    marked = [each for each in documents(feed(watch, stream.chunks(250))) if each["kind"] == "label_request"]
    assert 8 <= sum(each["why"] == "unlike" for each in marked) <= 11  # 1200 s at 30 an hour
    assert len({each["id"] for each in marked}) == len(marked)


def test_the_page_has_everything_in_json():
    watch, _, stream = with_labels(900)
    watch_s = int(stream.time_ms[-1])
    document = json.loads(orjson.dumps(watch.overview(watch_s), option=orjson.OPT_SERIALIZE_NUMPY))
    assert document["state"] == "alarm"
    assert document["models"][0]["columns"][0]["rank"] == 1
    assert {each["name"] for each in document["models"][0]["columns"]} == set(frozen().names)
    assert document["models"][0]["labels"]["coverage"] > 0.9
    assert document["incidents"][0]["cleared_ms"] is None
    column = watch.column(MODEL, VERSION, 600, ALL, "x")
    assert sum(each["current"] for each in column["cells"]) == pytest.approx(1)
    assert len(column["history"]["end_ms"]) > 10
    assert watch.column(MODEL, VERSION, 600, ALL, "nobody") is None


def test_states_of_the_page_follow_from_what_came():
    watch = Monitor(settings(), Fixed())
    assert watch.overview(0)["state"] == "empty"
    stream = Stream(60, 50, seed=16)
    feed(watch, stream.chunks(250))
    newest = int(stream.time_ms[-1])
    assert watch.overview(newest)["state"] == "learning"
    assert watch.overview(newest + 500_000)["state"] == "stale"
    watch = monitor()
    feed(watch, stream.chunks(250))
    assert watch.overview(newest)["state"] == "ok"


def test_a_reference_that_a_worker_names_is_adopted_when_it_is_found_and_else_counted():
    config = settings()
    references = Fixed()
    watch = Monitor(config, references)
    stream = Stream(120, 50, seed=17)
    chunks = list(stream.chunks(250))
    feed(watch, [replace(chunk, reference="nobody's") for chunk in chunks[:4]])
    assert watch.metrics()["chunks"]["unknown_reference"] == 1
    later = frozen()
    references.put(later)
    feed(watch, [replace(chunk, reference=later.hash) for chunk in chunks[4:]], 4)
    version = watch.models[MODEL].versions[VERSION]
    assert version.reference is later
    assert watch.metrics()["chunks"]["unknown_reference"] == 1
    assert version.latest


def test_labels_may_come_before_the_first_prediction():
    watch = Monitor(settings(labels={"output": "p"}), Fixed(frozen()))
    stream = Stream(60, 50, seed=18)
    watch.labels([(0, i, label(stream, i)) for i in range(250)])
    feed(watch, stream.chunks(250))
    assert watch.models[MODEL].outcomes.join.counts["joined"] == 250


def test_an_incident_stays_open_while_the_model_does_worse_than_on_its_reference():
    document = msgspec.structs.replace(frozen().document, performance={"accuracy": 0.9})
    watch = Monitor(settings(labels={"output": "p"}), Fixed(Reference.of(document)))
    stream = Stream(3000, 50, seed=19)
    rng = np.random.default_rng(19)
    found = []
    for offset, start in enumerate(range(0, stream.n - 249, 250)):
        found += feed(watch, [stream.chunk(start, start + 250)], offset)
        rate = 0.1 if stream.time_ms[start] < START_MS + 700_000 else 0.3
        watch.labels([(0, i, label(stream, i, rng.random() < rate)) for i in range(start, start + 250)])
    alerts = [each for each in documents(found) if each["kind"] == "alert"]
    assert alerts[0]["title"] == "fraud 3: more errors than usual"
    assert [each["alert"] for each in alerts if each["alert"] != "worsened"] == ["opened"]


def test_without_labels_class_and_confidence_follow_the_reference():
    stream = Stream(3600, 20, seed=99)
    labels = LabelSettings(output="p")
    options = BaselineOptions(
        model=MODEL, version=VERSION, pane_s=10, created_ms=0, source="a stream", derived_by=labels
    )
    reference = build(derived(stream.columns(np.arange(stream.n)), labels), stream.time_ms, options)
    assert "output.class" in reference.names
    watch = Monitor(settings(), Fixed(reference))
    found = documents(feed(watch, Stream(300, 50, seed=20).chunks(250)))
    assert [each for each in found if each["kind"] == "alert"] == []
    assert [each["kind"] for each in found if each["kind"] == "report"]


def test_labels_segments_and_no_reference_learn_and_then_watch():
    config = settings(learn_rows=5000, labels={"output": "p"}, segments=[*SEGMENTS, {"feature": "y", "values": ["1"]}])
    watch = Monitor(config, Fixed())
    stream = Stream(1200, 50, seed=21)
    found = []
    for offset, start in enumerate(range(0, stream.n - 249, 250)):
        found += feed(watch, [stream.chunk(start, start + 250)], offset)
        watch.labels([(0, i, label(stream, i)) for i in range(start, start + 250)])
    kinds = {each["kind"] for each in documents(found)}
    assert {"reference", "report", "performance"} <= kinds
    segments = {each["segment"] for each in documents(found) if each["kind"] == "performance"}
    assert {ALL, "colour=red"} <= segments


def test_the_first_windows_after_learning_lie_behind_what_was_learned():
    watch = Monitor(settings(learn_rows=5000), Fixed())
    found = documents(feed(watch, Stream(1500, 50, seed=22).chunks(250)))
    last_ms = next(each for each in found if each["kind"] == "reference")["document"]["last_ms"]
    starts = [each["start_ms"] for each in found if each["kind"] == "report"]
    assert min(starts) >= last_ms


def test_an_incident_of_a_version_that_is_not_served_any_more_is_over():
    stream = Stream(2600, 50, seed=23, shift=1.0, shift_at_s=700)
    watch = Monitor(settings(), Fixed(frozen()))
    found = []
    for offset, start in enumerate(range(0, stream.n - 249, 250)):
        version = VERSION if stream.time_ms[start] < START_MS + 1_200_000 else "4"
        found += feed(watch, [stream.chunk(start, start + 250, version=version)], offset)
    alerts = [each for each in documents(found) if each["kind"] == "alert" and each["version"] == VERSION]
    assert [each["alert"] for each in alerts if each["alert"] != "worsened"] == ["opened", "cleared"]


def test_after_the_stream_went_back_a_shift_is_paged():
    early = Stream(70, 50, seed=24)
    early.time_ms = early.time_ms + 50 * 60_000 * 100
    stream = Stream(1500, 50, seed=25, shift=1.0, shift_at_s=700)
    watch = monitor()
    chunks = [
        *(replace(each, written_ms=int(early.time_ms[-1])) for each in early.chunks(250)),
        *(replace(each, offset=each.offset + 10**6, spans=moved(each.spans)) for each in stream.chunks(250)),
    ]
    alerts = [each for each in documents(feed(watch, chunks)) if each["kind"] == "alert"]
    assert [each["alert"] for each in alerts][:1] == ["opened"]


def moved(spans):
    return tuple(msgspec.structs.replace(span, first=span.first + 10**6, end=span.end + 10**6) for span in spans)


def test_odd_chunks_of_a_version_are_taken_without_a_word():
    watch = Monitor(settings(labels={"output": "p"}), Fixed(frozen()))
    stream = Stream(60, 50, seed=26)
    chunks = list(stream.chunks(250))
    two = np.stack([chunks[1].columns["output.p"]] * 2, axis=1)
    late = replace(chunks[3], event_time_ms=chunks[3].event_time_ms - 10**8)
    bare = replace(chunks[4], columns={})
    odd = [chunks[0], replace(chunks[1], columns={**chunks[1].columns, "output.p": two}), chunks[2], late, bare]
    assert [each["kind"] for each in documents(feed(watch, odd))] == []
    assert watch.counts.merged == 5
    learning = Monitor(settings(learn_rows=1000), Fixed())
    feed(learning, [replace(each, columns={}) for each in stream.chunks(250)])
    assert learning.counts.merged == 12


def test_labels_that_were_read_before_a_restart_are_not_fed_to_the_detectors_again():
    watch, _, _ = with_labels(1e9, seconds=120, seed=27)
    outcomes = watch.models[MODEL].outcomes
    document = outcomes.to_document()
    document["labels"]["7"] = 5  # a partition that was quiet since
    outcomes.restore(document)
    assert outcomes.rereading
    watch.rebuilt({0: document["labels"]["0"], 7: 5})
    assert not outcomes.rereading
    assert outcomes.to_document()["labels"] == document["labels"]
