"""Sends the flights in event order at a chosen rate, with a few bad events among them, and labels as flights land.

The schedule is an open loop: event k is due k / rate seconds after the start, whatever the pipeline does, and
its latency counts from then. So a sender or a pipeline that falls behind shows in the latencies instead of
hiding in a lower rate (no coordinated omission). Runs in a thread of its own; every event is in the ledger
before the client gets it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from streamserve.demo.arrivals import Arrivals, LabelRecord
from streamserve.demo.flights import Flights, bad_events
from streamserve.demo.injection import Injection, Injections
from streamserve.demo.ledger import IDENTITY, Sending, Sent
from streamserve.kafka.clients import Properties

BAD_WITHIN_S = 30.0
"""A replay without an end spreads its bad events over its first half minute."""
CHUNK = 128
"""Events encoded at a time: half a millisecond, which no latency notices."""
FLUSH_TIMEOUT_S = 30.0
LATE_S = 1.0
"""A sender that is so far behind its schedule gives up the rest."""
SHORTEST_WAIT_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much is sent, and how fast. `events` and `seconds` end the replay, whichever comes first."""

    rate: float
    events: int | None = None
    seconds: float | None = None

    def total(self, available: int) -> int:
        """How many events there will be, bad ones included."""
        ends = [available]
        if self.events is not None:
            ends.append(self.events)
        if self.seconds is not None:
            ends.append(max(1, round(self.seconds * self.rate)))
        return min(ends)

    def bad_spacing(self, available: int, bad: int) -> int:
        """Every so many events one is bad, so that all `bad` ones fit in."""
        return max(2, int(min(self.total(available), BAD_WITHIN_S * self.rate)) // (bad + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a replay does.

    Attributes:
        events: topic of the events.
        labels: topic of the labels; None sends none.
        pace: how much and how fast.
        injections: what goes wrong with the data.
    """

    events: str
    labels: str | None
    pace: Pace
    injections: tuple[Injection, ...] = ()


class Event(NamedTuple):
    """One record to send."""

    identity: str
    row: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class Replay:
    """Sends in a thread: `start`, then `stop` or wait for `done`, then `close`.

    Args:
        properties: of a producer.
        script: what is done.
        flights: what is sent.
        sent: the ledger.
    """

    def __init__(self, properties: Properties, script: Script, flights: Flights, sent: Sent) -> None:
        self.started_s = 0.0
        self.labels = 0
        """Labels published."""
        self.newest_ms = 0
        """Event time of the newest flight that was sent."""
        self.ended_s: float | None = None
        self.failure = ""
        self._properties = {**properties, "linger.ms": 1, "delivery.report.only.error": True}
        self._script = script
        self._pace = script.pace
        self._flights = flights
        self._sent = sent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    @property
    def done(self) -> bool:
        """Whether nothing more will be sent."""
        return self.ended_s is not None

    def start(self) -> None:
        """Begin; the first event is due now."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more; returns when Kafka has what was sent."""
        self._stop.set()
        self._thread.join(FLUSH_TIMEOUT_S + 5)

    def _run(self) -> None:
        try:
            self._send_all(Producer({**self._properties, "on_delivery": self._on_delivery}))
        except Exception as error:
            self.failure = self.failure or f"{type(error).__name__}: {error}"
        finally:
            self.ended_s = time.monotonic()

    def _send_all(self, producer: Any) -> None:
        available = len(self._flights) + len(bad_events())
        total = self._pace.total(available)
        injections = Injections(self._script.injections, self._pace.rate, total)
        events = upcoming(self._flights, self._pace, injections)
        arrivals = Arrivals(self._flights, injections)
        self.started_s = start_s = time.monotonic()
        number = 0
        while number < total and not self._stop.is_set():
            now_s = time.monotonic()
            if self._pace.seconds is not None and now_s - start_s >= self._pace.seconds + LATE_S:
                break
            due = min(total, int((now_s - start_s) * self._pace.rate) + 1)
            while number < due:
                event = next(events)
                self._sent.add(event.identity, Sending(start_s + number / self._pace.rate, event.row))
                self._send(producer, self._script.events, event.key, event.value, event.headers)
                arrivals.sent(event.row)
                number += 1
            self.newest_ms = arrivals.now_ms
            self._publish(producer, arrivals.due())
            producer.poll(0)
            next_s = start_s + number / self._pace.rate
            self._stop.wait(max(SHORTEST_WAIT_S, next_s - time.monotonic()))
        if number == available:
            self._publish(producer, arrivals.rest())
        left = producer.flush(FLUSH_TIMEOUT_S)
        if left:
            self.failure = self.failure or f"{left} records did not reach Kafka within {FLUSH_TIMEOUT_S:.0f} s"

    def _publish(self, producer: Any, labels: Iterable[LabelRecord]) -> None:
        if self._script.labels is None:
            return
        for label in labels:
            self._send(producer, self._script.labels, label.key, label.value)
            self.labels += 1

    def _send(
        self, producer: Any, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        while True:
            try:
                producer.produce(topic, key=key, value=value, headers=list(headers))
                return
            except BufferError:
                producer.poll(0.01)

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failure = self.failure or f"Kafka did not take a record: {error.str()}"


def upcoming(flights: Flights, pace: Pace, injections: Injections) -> Iterator[Event]:
    """The flights in event order, with what goes wrong; every so often one of the bad events comes in between."""
    bad = bad_events()
    spacing = pace.bad_spacing(len(flights) + len(bad), len(bad))
    waiting = list(enumerate(bad))
    number = 0
    for event in _flights(flights, injections):
        number += 1
        if waiting and number % spacing == 0:
            place, wrong = waiting.pop(0)
            identity = f"bad-{place}"
            yield Event(identity, -1, wrong.key, wrong.value, [(IDENTITY, identity.encode())])
            number += 1
        yield event


def _flights(flights: Flights, injections: Injections) -> Iterator[Event]:
    encode = msgspec.json.Encoder().encode
    for first in range(0, len(flights), CHUNK):
        last = min(first + CHUNK, len(flights))
        records = flights.encoded(first, last)
        if injections.touches(last):
            changed = starmap(injections.event, enumerate(flights.events(first, last), start=first))
            records = [(key, encode(event)) for (key, _), event in zip(records, changed, strict=True)]
        identities = flights.flight_ids(first, last)
        for row, (identity, (key, value)) in enumerate(zip(identities, records, strict=True), start=first):
            yield Event(identity, row, key, value, [])
