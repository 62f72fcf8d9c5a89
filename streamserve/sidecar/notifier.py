"""Tells a webhook of alerts: a consumer of the alerts topic that commits an alert when it was sent or given up.

One consumer group a webhook, so that of several sidecars one sends, in the order of the topic's partitions, and a
webhook that is away holds up neither the others nor the drift path. An alert goes out at least once; its
idempotency key says when it is the same again. Blocking client calls run in a thread of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ClientPartition

from streamserve.clock import Clock
from streamserve.config.drift_settings import WebhookSettings
from streamserve.kafka.clients import Properties, with_callbacks
from streamserve.kafka.errors import first_error
from streamserve.kafka.leaving import leave_group
from streamserve.sidecar.sender import Sender
from streamserve.sidecar.webhooks import Request, request_for
from streamserve.telemetry.logs import Log

POLL_S = 0.5
FRESH_S = 600.0
"""A webhook that is new is told of alerts of the last ten minutes; later it goes on where it was."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
BROKEN_PAUSE_S = 5.0
CALL_TIMEOUT_S = 10.0

Told = Literal["sent", "given_up", "failed_attempt"]
T = TypeVar("T")


def group_of(pipeline: str, webhook: WebhookSettings) -> str:
    """The consumer group of a webhook: named by its address, so that another address starts anew."""
    return f"{pipeline}.sidecar.notifier.{hashlib.sha256(webhook.url.encode()).hexdigest()[:8]}"


class Notifier:
    """Sends the alerts of a topic to one webhook, for as long as `run` runs.

    Args:
        properties: of a reader; the group is in them.
        topic: the alerts topic.
        webhook: where to, how, and how long to try.
        dashboard: address of the page, for the receiver.
        count: told of every attempt that failed and every alert that was sent or given up.
        rng: jitter.
    """

    def __init__(
        self,
        properties: Properties,
        topic: str,
        webhook: WebhookSettings,
        *,
        dashboard: str,
        count: Callable[[Told], None],
        clock: Clock,
        log: Log,
        rng: random.Random,
    ) -> None:
        self._properties = {
            **properties,
            "enable.partition.eof": False,
            "auto.offset.reset": "earliest",  # an alert that retention has taken away cannot be sent
            "partition.assignment.strategy": "range",
        }
        self._topic = topic
        self._webhook = webhook
        self._sender = Sender(webhook)
        self._dashboard = dashboard
        self._count = count
        self._clock = clock
        self._log = log.bind(webhook=self._sender.place)
        self._rng = rng
        self._started_ms = clock.epoch_ms()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notifier")
        self._consumer: Any = None
        self._lost = False

    async def run(self) -> None:
        """Send until cancelled; starts over with a new client when this one breaks."""
        async with self._sender:
            while True:
                try:
                    await self._aside(self._open)
                    await self._follow()
                except KafkaException as exception:
                    self._log.warning("alerts_unreadable", error=first_error(exception).str())
                finally:
                    await self._aside(self._close)
                await asyncio.sleep(BROKEN_PAUSE_S)

    async def _follow(self) -> None:
        while True:
            message = await self._aside(lambda: self._consumer.poll(POLL_S))
            if message is None:
                continue
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            self._lost = False
            await self._tell(message)

    async def _tell(self, message: Any) -> None:
        """Send one alert and commit it, unless the partition goes to another sender meanwhile."""
        place = f"{message.topic()}-{message.partition()}-{message.offset()}"
        request = request_for(message.value() or b"", place, self._webhook.format, self._dashboard)
        if request is not None and not await self._send(request, message):
            return
        position = ClientPartition(message.topic(), message.partition(), message.offset() + 1)
        await self._aside(lambda: self._consumer.commit(offsets=[position], asynchronous=False))

    async def _send(self, request: Request, message: Any) -> bool:
        """Send with repetitions. Returns: whether it is done with, one way or the other."""
        give_up_s = self._clock.monotonic_s() + self._webhook.retry_s
        pause_s = FIRST_PAUSE_S
        attempts = 0
        while True:
            outcome, why = await self._sender.post(request)
            attempts += 1
            if outcome == "sent":
                self._count("sent")
                self._log.info("alert_sent", key=request.idempotency_key, attempts=attempts)
                return True
            self._count("failed_attempt")
            left_s = give_up_s - self._clock.monotonic_s()
            if outcome == "refused" or left_s <= 0:
                self._count("given_up")
                self._log.error("alert_given_up", key=request.idempotency_key, attempts=attempts, why=why)
                return True
            if attempts == 1:
                self._log.warning("webhook_failed", key=request.idempotency_key, why=why)
            await self._stay(min(pause_s * self._rng.uniform(0.75, 1.25), max(left_s, 0.05)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if self._lost:
                self._log.info("alert_left_to_another", key=request.idempotency_key, partition=message.partition())
                return False

    async def _stay(self, seconds: float) -> None:
        """Wait, and stay a member of the group meanwhile: paused partitions give no records."""
        until_s = self._clock.monotonic_s() + seconds
        await self._aside(lambda: self._consumer.pause(self._consumer.assignment()))
        while (left_s := until_s - self._clock.monotonic_s()) > 0 and not self._lost:
            message = await self._aside(lambda: self._consumer.poll(0))
            if message is not None:  # of a partition that came meanwhile: it is not committed, a new client gets it
                raise KafkaException(message.error() or KafkaError(KafkaError._STATE))  # noqa: SLF001
            await asyncio.sleep(min(left_s, POLL_S))
        await self._aside(lambda: self._consumer.resume(self._consumer.assignment()))

    def _open(self) -> None:
        properties = with_callbacks(
            self._properties, error=lambda _: None, logger=self._log.as_logger("kafka.notifier")
        )
        self._consumer = Consumer(properties)
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            leave_group(consumer)

    def _on_assign(self, consumer: Any, partitions: list[ClientPartition]) -> None:
        """Go on where the group was; a new group starts a little before us, and remembers that.

        What it raises comes out of the poll, and a new client tries again: to start without knowing where would be to
        send every alert there ever was.
        """
        known = _sure(consumer.committed(partitions, timeout=CALL_TIMEOUT_S))
        fresh = [p for p in known if p.offset < 0]
        if fresh:
            since_ms = self._started_ms - round(FRESH_S * 1000)
            asked = [ClientPartition(p.topic, p.partition, since_ms) for p in fresh]
            found = _sure(consumer.offsets_for_times(asked, timeout=CALL_TIMEOUT_S))
            fresh = [self._start(consumer, p) for p in found]
            _sure(consumer.commit(offsets=fresh, asynchronous=False))
        starts = {p.partition: p.offset for p in [*known, *fresh] if p.offset >= 0}
        for partition in partitions:
            partition.offset = starts[partition.partition]
        consumer.assign(partitions)

    @staticmethod
    def _start(consumer: Any, found: ClientPartition) -> ClientPartition:
        """The offset of a time; the end, when nothing is younger."""
        if found.offset >= 0:
            return found
        _, high = consumer.get_watermark_offsets(ClientPartition(found.topic, found.partition), timeout=CALL_TIMEOUT_S)
        return ClientPartition(found.topic, found.partition, high)

    def _on_revoke(self, _: Any, __: list[ClientPartition]) -> None:
        self._lost = True

    async def _aside(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _sure(answer: list[ClientPartition]) -> list[ClientPartition]:
    """The answer about partitions. Raises: KafkaException, when there is none about one of them."""
    for partition in answer:
        if partition.error is not None:
            raise KafkaException(partition.error)
    return answer
