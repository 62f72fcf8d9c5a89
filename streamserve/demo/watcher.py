"""The independent reader: sees predictions and dead letters as any consumer downstream would.

It shares nothing with the workers but the topics, reads `read_committed` outside of any group, and feeds the
ledger: `Watcher` follows both topics while the demo runs and measures latencies; `count_everything` reads both
once more from their beginning to their end, for the figures of the summary.
"""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from streamserve.codecs.dead_letter import CONNECT, OWN
from streamserve.demo.ledger import IDENTITY, Count, Latencies, Sent
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.reading import partitions_of, read_topic, silent_logger

POLL_S = 0.05
BATCH = 256
_UNKNOWN = "unknown"


class Topics(NamedTuple):
    """The two ends of a pipeline."""

    predictions: str
    dead_letters: str


class _Outputs(msgspec.Struct):
    probability: float
    late: bool


class _Source(msgspec.Struct):
    partition: int
    offset: int


class Prediction(msgspec.Struct):
    """The part of a prediction that the demo looks at."""

    id: str
    version: str
    outputs: _Outputs
    source: _Source


class _Id(msgspec.Struct):
    flight_id: str


class DeadLetter(NamedTuple):
    """The part of a dead letter that the demo looks at."""

    identity: str
    reason: str
    message: str


_predictions = msgspec.json.Decoder(Prediction)
_ids = msgspec.json.Decoder(_Id)


class Watcher:
    """Follows both topics in a thread; its figures may be read at any time.

    Args:
        properties: of a reader.
        topics: what is read, from the beginning.
        sent: the ledger, for the times the events were due.
    """

    def __init__(self, properties: Properties, topics: Topics, sent: Sent) -> None:
        self.count = Count()
        self.latencies = Latencies()
        self.newest: Prediction | None = None
        self.newest_dead_letter: DeadLetter | None = None
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.failure = ""
        self._properties = {**properties, "enable.partition.eof": False, "auto.offset.reset": "earliest"}
        self._properties |= {"fetch.wait.max.ms": 20, "fetch.queue.backoff.ms": 5}
        self._topics = topics
        self._sent = sent
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to read; returns when the partitions are assigned."""
        self._thread.start()
        self._ready.wait(POLL_S * 200)

    def stop(self) -> None:
        """End; the figures stay."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        consumer: Any = None
        try:
            consumer = Consumer(with_callbacks(self._properties, error=lambda _: None, logger=silent_logger()))
            consumer.assign(
                [
                    TopicPartition(topic, partition, OFFSET_BEGINNING)
                    for topic in self._topics
                    for partition in partitions_of(consumer, topic)
                ]
            )
            self._ready.set()
            while not self._stop.is_set():
                self._read(consumer)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._ready.set()
            if consumer is not None:
                consumer.close()

    def _read(self, consumer: Any) -> None:
        """Wait for one record, take what else is there; `consume` alone would wait for a full batch."""
        message = consumer.poll(POLL_S)
        if message is None:
            return
        messages = [message, *consumer.consume(BATCH, 0)]
        now_s = time.monotonic()
        for each in messages:
            error = each.error()
            if error is None:
                self._take(each, now_s)
            elif error.code() != KafkaError._PARTITION_EOF and error.fatal():  # noqa: SLF001  its public name
                self.failure = error.str()

    def _take(self, message: Message, now_s: float) -> None:
        value = message.value()
        self.last_s = now_s
        if message.topic() == self._topics.dead_letters:
            letter = dead_letter(message.headers() or (), value)
            self.count.dead_letter(letter.identity, letter.reason)
            self.newest_dead_letter = letter
            return
        prediction = _predictions.decode(value or b"")
        if self.count.prediction(prediction.id, prediction.source.partition, prediction.source.offset):
            sending = self._sent.get(prediction.id)
            if sending is not None:
                self.latencies.add(now_s - sending.due_s)
        self.first_s = self.first_s or now_s
        self.newest = prediction


def count_everything(properties: Properties, topics: Topics) -> Count:
    """Both topics from beginning to end, by a reader that is made for this.

    Raises:
        BrokerUnavailable, SourceError: the topics cannot be read.
    """
    count = Count()
    for record in read_topic(properties, topics.predictions):
        prediction = _predictions.decode(record.value or b"")
        count.prediction(prediction.id, prediction.source.partition, prediction.source.offset)
    for record in read_topic(properties, topics.dead_letters):
        letter = dead_letter(record.headers, record.value)
        count.dead_letter(letter.identity, letter.reason)
    return count


def dead_letter(headers: Any, value: bytes | None) -> DeadLetter:
    """Whose dead letter this is, and why; headers are pairs of a name and bytes."""
    texts = {name: (content or b"").decode("utf-8", "replace") for name, content in headers}
    identity = texts.get(IDENTITY)
    if identity is None:
        try:
            identity = _ids.decode(value or b"").flight_id
        except msgspec.DecodeError:
            place = (texts.get(CONNECT + "partition"), texts.get(CONNECT + "offset"))
            identity = f"{_UNKNOWN}-{place[0]}-{place[1]}"
    return DeadLetter(identity, texts.get(OWN + "reason", _UNKNOWN), texts.get(CONNECT + "exception.message", ""))
