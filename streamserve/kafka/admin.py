"""An admin client whose own log lines stay off the terminal: what matters comes back as an error of a call."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient

from streamserve.config.settings import PipelineSettings
from streamserve.kafka.clients import admin_properties, with_callbacks
from streamserve.kafka.reading import silent_logger


def quiet_admin(settings: PipelineSettings) -> AdminClient:
    """A client with the pipeline's properties."""
    return AdminClient(with_callbacks(admin_properties(settings), error=lambda _: None, logger=silent_logger()))
