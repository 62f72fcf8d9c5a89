"""Sample chunks on a real broker: read_committed, they hold the committed input exactly once, whatever happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from streamserve.drift.chunk import SampleChunk, decode
from streamserve.drift.marks import Marks
from streamserve.kafka.facts import RECORD_OVERHEAD_BYTES, topic_facts
from streamserve.testing import memory_settings
from tests.faults.observe import read_topic, wait_for
from tests.faults.oracle import Evidence
from tests.faults.processes import SlotProcess
from tests.faults.scene import Scene, classic, made, scene
from tests.faults.workload import WIDTH, Pipeline
from tests.services import create_topic, unique

Place = tuple[int, int]


def chunks(target: Pipeline, isolation: str = "read_committed") -> list[SampleChunk]:
    return [decode(message.value()) for message in read_topic(target.bootstrap, target.samples, isolation)]


def places(found: Sequence[SampleChunk]) -> Iterator[tuple[Place, str, np.ndarray, float]]:
    """Partition and offset, id, features and output of every sampled row."""
    for chunk in found:
        x, y = chunk.columns["x"], chunk.columns["output.probability"]
        for row, number in enumerate(chunk.span.tolist()):
            yield (chunk.spans[number].partition, int(chunk.offset[row])), chunk.id[row], x[row], float(y[row])


def judged(stage: Scene) -> tuple[Evidence, list[SampleChunk]]:
    """Work off, and hold samples against input and predictions."""
    verdict, evidence = stage.verdict(within_s=60)
    assert verdict.broken(at_least_once=False) == {}
    assert verdict.notes["worked_off"]
    found = chunks(stage.target)
    sampled = Counter(place for place, *_ in places(found))
    assert sampled == Counter(prediction.place for prediction in evidence.predictions)
    assert sampled == Counter(evidence.inputs.keys())
    assert {place: ident for place, ident, *_ in places(found)} == evidence.inputs
    assert sum(span.consumed for chunk in found for span in chunk.spans) == len(evidence.inputs)
    in_order(found)
    return evidence, found


def in_order(found: Sequence[SampleChunk]) -> None:
    """Chunks of a source partition come in the order of its offsets, whoever wrote them: what marks rest on."""
    position: dict[int, int] = {}
    for chunk in found:
        for span in chunk.spans:
            assert span.first >= position.get(span.partition, 0)
            position[span.partition] = span.end


def test_one_worker_samples_what_it_commits(kafka):
    with (
        made(kafka.bootstrap, "samples", kafka=classic(2000), samples_per_s="all") as target,
        scene(target, 0, ("w0",), limit=20_000) as stage,
    ):
        stage.feeder.wait()
        evidence, found = judged(stage)
    assert len(evidence.inputs) == 20_000
    predictions = {p.place: p.value for p in evidence.predictions}
    for place, _, x, y in places(found[:1]):
        assert x.shape == (WIDTH,)
        assert f'"probability":{np.float32(y)!s}'.encode() in predictions[place]
    assert {chunk.version for chunk in found} == {"1"}


def died_and_restarted(victims: list[SlotProcess]) -> None:
    """Start each again as soon as its failpoint has killed it: what it left pending holds up who comes after it."""
    left = list(victims)

    def revived() -> bool:
        for victim in [victim for victim in left if victim.code is not None]:
            victim.start()
            left.remove(victim)
        return not left

    assert wait_for(revived, 40, 0.05), "a failpoint was not reached"


def test_four_workers_that_are_killed_in_transactions_and_rebalanced(kafka):
    """kill -9 after the flush and after the offsets were sent, a worker that leaves and one that comes."""
    names = ("w0", "w1", "w2", "w3")
    with (
        made(kafka.bootstrap, "samples", kafka=classic(2000), samples_per_s="all") as target,
        scene(target, 1500, names) as stage,
    ):
        slots = stage.slots
        for victim, place in ((slots[0], "after_flush"), (slots[1], "after_send_offsets")):
            victim.kill()
            victim.start(f"{place}=kill@2s")
        died_and_restarted(slots.all[:2])
        guest = SlotProcess(target, "guest").start()
        try:
            assert slots[3].drain() == 0
            slots[3].start()
            assert guest.ready(30)
            stage.sleep_until(stage.elapsed_s() + 1)
            assert guest.drain() == 0
        finally:
            guest.close()
        _, found = judged(stage)
        everything = chunks(target, "read_uncommitted")
    assert len(everything) > len(found), "no transaction with samples was aborted"
    dropped = Counter(place for place, *_ in places(everything)) - Counter(place for place, *_ in places(found))
    assert dropped  # rows of aborted chunks came again, in others


def test_at_least_once_gives_every_row_once_to_whoever_keeps_marks(kafka):
    """Killed between flush and commit, a worker writes the same rows again."""
    how = {"guarantee": "at_least_once", "kafka": classic(2000), "samples_per_s": "all"}
    with made(kafka.bootstrap, "samples", **how) as target, scene(target, 1000, ("w0",)) as stage:
        stage.slots[0].kill()
        stage.slots[0].start("after_flush=kill@1s")
        died_and_restarted(stage.slots.all)
        stage.sleep_until(stage.elapsed_s() + 1)
        verdict, evidence = stage.verdict(within_s=60)
        found = chunks(target)
    assert verdict.lost == 0
    assert max(Counter(place for place, *_ in places(found)).values()) == 2
    marks, taken = Marks(), []
    for chunk in found:
        new, _ = marks.take(chunk)
        taken += [ident for ident, fresh in zip(chunk.id, new, strict=True) if fresh]
    assert Counter(taken) == Counter(evidence.inputs.values())


def test_a_flood_is_sampled_by_level_and_every_row_stands_for_its_weight(kafka):
    with (
        made(kafka.bootstrap, "samples", kafka=classic(2000), samples_per_s=500) as target,
        scene(target, 0, ("w0",), limit=60_000) as stage,
    ):
        stage.feeder.wait()
        assert stage.worked_off(60)
        found = chunks(target)
    sampled = Counter(place for place, *_ in places(found))
    assert set(sampled.values()) == {1}
    assert 500 < len(sampled) < 20_000
    assert max(int(chunk.level.max()) for chunk in found if len(chunk)) >= 3
    weight = sum(float(np.ldexp(1.0, chunk.level).sum()) for chunk in found)
    variance = sum(float((np.ldexp(1.0, chunk.level) * (np.ldexp(1.0, chunk.level) - 1)).sum()) for chunk in found)
    assert abs(weight - 60_000) < 6 * variance**0.5


def test_the_limit_of_the_samples_topic_is_asked_for(kafka):
    topics = [create_topic(kafka.bootstrap, unique("facts")) for _ in range(3)]
    samples = create_topic(kafka.bootstrap, unique("samples"), 3, {"max.message.bytes": "300000"})
    settings = memory_settings(
        [{"name": "x"}],
        kafka={"bootstrap.servers": kafka.bootstrap},
        input={"topics": topics[:1]},
        output={"topic": topics[1]},
        dead_letter={"topic": topics[2]},
        drift={"samples_topic": samples},
    )
    facts = topic_facts(settings)
    assert facts.partitions[samples] == 3
    assert facts.max_bytes[samples] == 300_000 - RECORD_OVERHEAD_BYTES


def test_a_chunk_larger_than_the_topic_is_cut_on_the_way(kafka):
    """A worker whose samples topic takes 4 KB records commits as ever, and no row is lost or twice."""
    with made(kafka.bootstrap, "samples", kafka=classic(2000)) as target:
        create_topic(kafka.bootstrap, target.samples, 1, {"max.message.bytes": "4096"})
        target.config.write_text(target.config.read_text() + "drift: {samples_per_s: all}\n")
        with scene(target, 0, ("w0",), limit=3000) as stage:
            stage.feeder.wait()
            judged(stage)
            sizes = [len(message.value()) for message in read_topic(target.bootstrap, target.samples)]
    assert max(sizes) <= 4096 - RECORD_OVERHEAD_BYTES
    assert len(sizes) > 50
