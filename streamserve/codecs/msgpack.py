"""MessagePack events: a map with text keys, one entry a field, typed as strictly as JSON.

Lengths that a value claims are believed only as far as its bytes go, so memory stays proportional to the
value. NaN and Inf, which MessagePack can carry, are no missing values: they are rejected as `non_finite`.
"""

from __future__ import annotations

import msgspec

from streamserve.codecs.layout import EventLayout
from streamserve.codecs.typed import TypedDecoder


def msgpack_decoder(layout: EventLayout, *, max_record_bytes: int) -> TypedDecoder:
    """A decoder of MessagePack events."""
    decode = msgspec.msgpack.Decoder(layout.struct_type()).decode
    return TypedDecoder(layout, decode, format="MessagePack", max_record_bytes=max_record_bytes)
