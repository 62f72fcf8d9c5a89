"""Quix Streams: a custom batching sink that scores a checkpoint's rows and writes them; see `benchmarks.peers.quix`."""

from __future__ import annotations

import argparse

import scoring
from confluent_kafka import Producer
from quix_shared import application, events
from quixstreams.sinks import BatchingSink, SinkBatch

COMMIT_S = 0.25


class Predictions(BatchingSink):
    """Called with a partition's rows of a checkpoint before its offsets are committed."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self._topic = options.output
        self._model = scoring.Model(options.model)
        self._producer = Producer(
            {
                "bootstrap.servers": options.bootstrap,
                "linger.ms": scoring.LINGER_MS,
                "compression.type": "lz4",
                "enable.idempotence": True,
                "delivery.report.only.error": True,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def write(self, batch: SinkBatch) -> None:
        for chunk in batch.iter_chunks(n=scoring.BATCH):
            rows = list(chunk)
            for row, score in zip(rows, self._model.score([row.value for row in rows]), strict=True):
                prediction = self._model.prediction(
                    row.value,
                    score,
                    topic=batch.topic,
                    partition=batch.partition,
                    offset=row.offset,
                    time_ms=row.timestamp,
                )
                self._producer.produce(self._topic, scoring.encode(prediction), row.key, batch.partition)
        if self._producer.flush(30):
            raise RuntimeError("predictions were not delivered in 30 s")


def main() -> None:
    options = scoring.options()
    app = application(options, commit_interval=COMMIT_S)
    events(app, options).sink(Predictions(options))
    app.run()


if __name__ == "__main__":
    main()
