"""Bytes to events, predictions and rejects to bytes: one module a format, chosen once by the settings."""

from __future__ import annotations

from streamserve.codecs.json import json_decoder
from streamserve.codecs.layout import EventLayout
from streamserve.codecs.msgpack import msgpack_decoder
from streamserve.codecs.raw import RawDecoder
from streamserve.config.settings import PipelineSettings
from streamserve.ports import Decoder

__all__ = ["build_decoder"]


def build_decoder(settings: PipelineSettings) -> Decoder:
    """The decoder of a pipeline's input. Not thread-safe: one a slot.

    Raises:
        ConfigError: the fields cannot be read as configured.
    """
    layout = EventLayout.of(settings)
    max_record_bytes = settings.input.max_record_bytes
    match settings.input.format:
        case "json":
            return json_decoder(layout, max_record_bytes=max_record_bytes)
        case "msgpack":
            return msgpack_decoder(layout, max_record_bytes=max_record_bytes)
        case "raw":
            return RawDecoder(layout, max_record_bytes=max_record_bytes)
