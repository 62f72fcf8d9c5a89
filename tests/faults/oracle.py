"""What became of every event: the counts that decide.

The identity of an event is its place (partition and offset) in the input topic, read once more at the end; a
prediction or dead letter says which place it came from, and its id must be the one that stands there. Nothing here
asks the workers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import redis
from confluent_kafka import Message

from streamserve.cache.keys import offset_version
from tests.faults.observe import LiveReader, OffsetWatch, nothing_open, read_topic, wait_for
from tests.faults.workload import PARTITIONS, Pipeline

Place = tuple[int, int]


@dataclass(slots=True)
class Verdict:
    """Raw counts.

    Attributes:
        events: records in the input topic.
        predictions, dead_letters: committed records of the two output topics.
        lost: places that neither topic names.
        duplicated: sum over places of how often they are named, less one.
        phantom: outputs that name a place that does not exist, or with another id than stands there.
        inversions: outputs whose source offset is below one before it in their partition (first mentions only).
        key_inversions: the same by the sequence in the id, per key.
        live_differs: records that the live reader saw otherwise than the final read.
        offsets_back: how often a committed group offset was seen to go back, of `offset_samples`.
        stale: keys whose cached document is not the newest committed prediction, of `keys`.
    """

    events: int = 0
    predictions: int = 0
    dead_letters: int = 0
    lost: int = 0
    duplicated: int = 0
    phantom: int = 0
    inversions: int = 0
    key_inversions: int = 0
    live_differs: int = 0
    offsets_back: int = 0
    offset_samples: int = 0
    stale: int = 0
    keys: int = 0
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def exactly_once(self) -> bool:
        """Nothing lost, doubled, invented, out of order, stale or taken back."""
        return not self.broken()

    def broken(self, *, at_least_once: bool = False) -> dict[str, int]:
        """The promises that were not kept, with their counts."""
        names = ["lost", "phantom", "stale", "offsets_back"]
        if not at_least_once:
            names += ["duplicated", "inversions", "key_inversions", "live_differs"]
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def to_json(self) -> dict[str, object]:
        return {**{k: v for k, v in asdict(self).items() if k != "notes"}, **self.notes}


@dataclass(frozen=True, slots=True)
class Output:
    """A committed prediction or dead letter."""

    partition: int
    offset: int
    place: Place
    id: str
    key: bytes
    value: bytes


def json_id(value: bytes) -> str:
    """The id in a JSON event of ours, without parsing it."""
    return value[7 : value.index(b'"', 7)].decode()


def prediction(message: Message) -> Output:
    document = json.loads(message.value())
    place = (document["source"]["partition"], document["source"]["offset"])
    return Output(message.partition(), message.offset(), place, document["id"], message.key(), message.value())


def dead_letter(message: Message, id_of: Callable[[bytes], str]) -> Output:
    headers = dict(message.headers())
    place = tuple(int(headers[f"__connect.errors.{name}"]) for name in ("partition", "offset"))
    return Output(message.partition(), message.offset(), place, id_of(message.value()), message.key(), message.value())


@dataclass(slots=True)
class Evidence:
    """Everything read at the end."""

    inputs: dict[Place, str]
    predictions: list[Output]
    dead_letters: list[Output]

    @classmethod
    def read(cls, target: Pipeline, id_of: Callable[[bytes], str] = json_id) -> Evidence:
        bootstrap = target.bootstrap
        return cls(
            {(m.partition(), m.offset()): id_of(m.value()) for m in read_topic(bootstrap, target.events)},
            [prediction(m) for m in read_topic(bootstrap, target.predictions)],
            [dead_letter(m, id_of) for m in read_topic(bootstrap, target.dead_letters)],
        )

    def judge(self) -> Verdict:
        """The counts that need no further witness."""
        outputs = [*self.predictions, *self.dead_letters]
        named = Counter(output.place for output in outputs)
        return Verdict(
            events=len(self.inputs),
            predictions=len(self.predictions),
            dead_letters=len(self.dead_letters),
            lost=sum(place not in named for place in self.inputs),
            duplicated=sum(count - 1 for count in named.values()),
            phantom=sum(self.inputs.get(output.place) != output.id for output in outputs),
            inversions=_inversions(self.predictions) + _inversions(self.dead_letters),
            key_inversions=_key_inversions(self.predictions),
        )

    def lost(self) -> list[Place]:
        """The places nobody names, for a closer look."""
        named = {output.place for output in (*self.predictions, *self.dead_letters)}
        return sorted(place for place in self.inputs if place not in named)

    def newest(self) -> dict[bytes, Output]:
        """The newest committed prediction of every key."""
        found: dict[bytes, Output] = {}
        for output in self.predictions:
            if output.key not in found or output.place[1] > found[output.key].place[1]:
                found[output.key] = output
        return found


def _inversions(outputs: Iterable[Output]) -> int:
    """Per output partition and source partition, first mentions whose source offset is below an earlier one."""
    highest: dict[tuple[int, int], int] = defaultdict(lambda: -1)
    mentioned: set[Place] = set()
    count = 0
    for output in outputs:
        if output.place in mentioned:
            continue
        mentioned.add(output.place)
        line = (output.partition, output.place[0])
        count += output.place[1] < highest[line]
        highest[line] = max(highest[line], output.place[1])
    return count


def _key_inversions(outputs: Iterable[Output]) -> int:
    """Per key, first mentions of an id whose sequence is below an earlier one."""
    highest: dict[bytes, int] = defaultdict(lambda: -1)
    mentioned: set[str] = set()
    count = 0
    for output in outputs:
        if output.id in mentioned:
            continue
        mentioned.add(output.id)
        sequence = int(output.id.split("-")[1])
        count += sequence < highest[output.key]
        highest[output.key] = max(highest[output.key], sequence)
    return count


def live_difference(live: LiveReader, final: list[Output]) -> int:
    """How many records the live reader saw that are not in the final read at that place of its order, or missed."""
    by_partition: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for output in final:
        by_partition[output.partition].append((output.offset, output.value))
    different = 0
    for partition in range(PARTITIONS):
        seen, kept = live.seen.get(partition, []), by_partition.get(partition, [])
        if seen != kept:
            different += max(1, len(set(seen) ^ set(kept)))
    return different


def stale_keys(target: Pipeline, newest: dict[bytes, Output], within_s: float = 30) -> int:
    """Keys whose cache entry is not the newest committed prediction, once that number stops mattering or time is up."""
    if target.redis_url is None:
        return 0
    client = redis.Redis.from_url(target.redis_url)
    keys = list(newest)

    def count() -> int:
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.hmget(f"pred:{target.name}:{key.decode()}", "v", "d")
        wanted = [[offset_version(PARTITIONS, newest[key].place[1]), newest[key].value] for key in keys]
        return sum(found != want for found, want in zip(pipe.execute(), wanted, strict=True))

    wait_for(lambda: count() == 0, within_s)
    left = count()
    client.close()
    return left


def conclude(
    target: Pipeline,
    live: LiveReader,
    offsets: OffsetWatch,
    *,
    id_of: Callable[[bytes], str] = json_id,
) -> tuple[Verdict, Evidence]:
    """Read everything and judge. The workers have worked off their input; they may still run.

    What a dead slot left open is waited for first: it holds back every committed reader until it expires.
    """
    for topic in (target.predictions, target.dead_letters):
        if not wait_for(lambda topic=topic: nothing_open(target.bootstrap, topic, PARTITIONS), 60, 0.5):  # type: ignore[misc]
            raise AssertionError(f"a transaction in {topic} is still open after 60 s")
    evidence = Evidence.read(target, id_of)
    wait_for(lambda: live.count >= len(evidence.predictions), 30)
    verdict = evidence.judge()
    verdict.live_differs = live_difference(live, evidence.predictions)
    verdict.offsets_back, verdict.offset_samples = len(offsets.back), offsets.samples
    newest = evidence.newest()
    verdict.keys = len(newest)
    verdict.stale = stale_keys(target, newest)
    failures = [repr(watch.failure) for watch in (live, offsets) if watch.failure is not None]
    if failures:
        raise AssertionError(f"a witness failed: {failures}")
    if verdict.lost:
        verdict.notes["first_lost"] = evidence.lost()[:10]
    return verdict, evidence
