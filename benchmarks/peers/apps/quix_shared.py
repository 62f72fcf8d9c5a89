"""What both applications of Quix Streams share: how they connect, and what they read."""

from __future__ import annotations

import argparse
from typing import Any

import scoring
from quixstreams import Application
from quixstreams.dataframe import StreamingDataFrame
from quixstreams.models.serializers import JSONDeserializer


def application(options: argparse.Namespace, **more: Any) -> Application:
    """An application that starts at the beginning, and makes and awaits nothing; `more` are its own settings."""
    return Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        state_dir=options.folder,
        loglevel="WARNING",
        auto_create_topics=False,
        broker_availability_timeout=0,
        **more,
    )


def events(app: Application, options: argparse.Namespace) -> StreamingDataFrame:
    """The events of the input topic."""
    return app.dataframe(
        app.topic(options.topic, key_deserializer="bytes", value_deserializer=JSONDeserializer(loads=scoring.decode))
    )
