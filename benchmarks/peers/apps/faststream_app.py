"""FastStream with its Confluent broker: a batch subscriber; see `benchmarks.peers.faststream`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import scoring
import uvloop
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker, KafkaMessage

options = scoring.options()
model = scoring.Model(options.model)
broker = KafkaBroker(
    options.bootstrap,
    acks="all",
    compression_type="lz4",
    linger_ms=scoring.LINGER_MS,
    enable_idempotence=True,
    allow_auto_create_topics=False,
    apply_types=False,
    logger=None,
    config={"fetch.queue.backoff.ms": 5},
)


async def raw(message: KafkaMessage) -> Any:
    """Hand the batch to the handler as it is: FastStream's own decoder makes a message object of each record."""
    return message.raw_message


@broker.subscriber(
    options.topic,
    group_id=options.group,
    auto_offset_reset="earliest",
    batch=True,
    max_records=scoring.BATCH,
    polling_interval=0.005,
    ack_policy=AckPolicy.NACK_ON_ERROR,
    decoder=raw,
)
async def score(batch: tuple[Any, ...]) -> None:
    events = [scoring.decode(record.value()) for record in batch]
    deliveries = [
        await broker.publish(
            scoring.encode(
                model.prediction(
                    event,
                    value,
                    topic=record.topic(),
                    partition=record.partition(),
                    offset=record.offset(),
                    time_ms=record.timestamp()[1],
                )
            ),
            options.output,
            key=record.key(),
            partition=record.partition(),
            no_confirm=True,
        )
        for record, event, value in zip(batch, events, model.score(events), strict=True)
    ]
    await asyncio.gather(*deliveries)


if __name__ == "__main__":
    uvloop.run(FastStream(broker, logger=None).run(log_level=logging.WARNING))
