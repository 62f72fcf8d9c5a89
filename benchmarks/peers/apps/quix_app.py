"""Quix Streams: a StreamingDataFrame that scores a row at a time; see `benchmarks.peers.quix`."""

from __future__ import annotations

import scoring
from quix_shared import application, events
from quixstreams import message_context
from quixstreams.models.serializers import BytesSerializer, JSONSerializer


def main() -> None:
    options = scoring.options()
    model = scoring.Model(options.model)
    transactional = options.guarantee == "exactly_once"
    app = application(
        options,
        processing_guarantee="exactly-once" if transactional else "at-least-once",
        commit_interval=scoring.TRANSACTION_S if transactional else 5.0,
        producer_extra_config={
            "linger.ms": scoring.LINGER_MS,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        },
    )
    sink = app.topic(
        options.output, key_serializer=BytesSerializer(), value_serializer=JSONSerializer(dumps=scoring.encode)
    )

    def score(event: scoring.Event, _key: bytes, timestamp: int, _headers: object) -> scoring.Prediction:
        context = message_context()
        return model.prediction(
            event,
            model.score([event])[0],
            topic=context.topic,
            partition=context.partition,
            offset=context.offset,
            time_ms=timestamp,
        )

    events(app, options).apply(score, metadata=True).to_topic(sink)
    app.run()


if __name__ == "__main__":
    main()
