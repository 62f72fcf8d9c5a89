"""Faust: an agent that takes micro-batches; see `benchmarks.peers.faust`."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
import scoring

options = scoring.options()
model = scoring.Model(options.model)
app = faust.App(
    options.group,
    broker=f"kafka://{options.bootstrap}",
    datadir=options.folder,
    store="memory://",
    value_serializer="raw",
    key_serializer="raw",
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=1.0,
    producer_compression_type="lz4",
    producer_linger=scoring.LINGER_MS / 1000,
    stream_buffer_maxsize=8 * scoring.BATCH,
    stream_wait_empty=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    web_enabled=False,
)
source = app.topic(options.topic, key_type=bytes, value_type=bytes)


@app.agent(source)
async def score(stream: Any) -> None:
    producer = await app.maybe_start_producer()
    async for batch in stream.take_events(scoring.BATCH, within=0.02):
        events = [scoring.decode(item.value) for item in batch]
        deliveries = []
        for item, event, value in zip(batch, events, model.score(events), strict=True):
            message = item.message
            prediction = model.prediction(
                event,
                value,
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                time_ms=int(message.timestamp * 1000),
            )
            deliveries.append(
                await producer.send(
                    options.output,
                    item.key,
                    scoring.encode(prediction),
                    partition=message.partition,
                    timestamp=None,
                    headers=None,
                )
            )
        await asyncio.gather(*deliveries)  # only then are the events acknowledged


if __name__ == "__main__":
    app.finalize()
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()
