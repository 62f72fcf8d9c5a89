"""Which partition a key belongs to, by the rule of Kafka's Java client and of librdkafka's `murmur2_random`.

Transcribed from org.apache.kafka.common.utils.Utils.murmur2 (32-bit Murmur2 with a fixed seed); a few calls a second.
"""

from __future__ import annotations

from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_U32: Final = 0xFFFF_FFFF


def java_partition(key: bytes, partitions: int) -> int:
    """The partition of a record with this key in a topic of so many partitions."""
    return (murmur2(key) & 0x7FFF_FFFF) % partitions


def murmur2(data: bytes) -> int:
    """The 32-bit hash, unsigned."""
    h = _SEED ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _U32
        k = (k ^ k >> 24) * _M & _U32
        h = (h * _M & _U32) ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _U32
    h = (h ^ h >> 13) * _M & _U32
    return h ^ h >> 15
