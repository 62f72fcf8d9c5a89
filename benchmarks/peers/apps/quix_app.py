"""Quix Streams: a StreamingDataFrame that scores a row at a time; see `benchmarks.peers.quix`."""

from __future__ import annotations

import scoring
from quixstreams import Application, message_context
from quixstreams.models.serializers import BytesSerializer, JSONDeserializer, JSONSerializer


def main() -> None:
    options = scoring.options()
    model = scoring.Model(options.model)
    transactional = options.guarantee == "exactly_once"
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once" if transactional else "at-least-once",
        commit_interval=scoring.TRANSACTION_S if transactional else 5.0,
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        producer_extra_config={
            "linger.ms": scoring.LINGER_MS,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        },
        state_dir=options.folder,
        loglevel="WARNING",
        auto_create_topics=False,
        broker_availability_timeout=0,
    )
    source = app.topic(
        options.topic, key_deserializer="bytes", value_deserializer=JSONDeserializer(loads=scoring.decode)
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

    app.dataframe(source).apply(score, metadata=True).to_topic(sink)
    app.run()


if __name__ == "__main__":
    main()
