"""Names and versions: where an entity's prediction lies in Redis, and which of two predictions is the newer.

Owns the key layout and the text of versions; knows neither Redis nor Kafka. Both are made for whole batches,
because they stand in the hot path.

Key layout: `pred:<pipeline>:<entity key>`. An entity key stays as it is when it has at most 200 bytes, all of
them printable ASCII other than space and braces (a brace would make a hash tag in a Redis cluster), and does
not begin with `#`. Any other is replaced by `#` and the 64 hexadecimal digits of its SHA-256. The two forms
cannot meet, since a key that begins with `#` is always hashed.

Versions are texts of fixed width that order as bytes, because numbers in Redis' Lua are exact only up to
2^53:

* by offset, `<partition count, 7 digits>:<offset, 19 digits>`. A record key stays in its partition until the
  count grows, so offsets of one key compare within a count, and a larger count is later. Records that were
  produced before the count grew and are processed after it keep their place only by event time.
* by event time, `<ms + 10^19, 20 digits>:<offset, 19>:<partition, 7>:<CRC-32 of the topic, 8>`. The tail makes
  the order total: two predictions never have one version unless they are of the same input record.
"""

from __future__ import annotations

import hashlib
import re
from binascii import crc32
from collections.abc import Iterable, Sequence

MAX_VERBATIM_BYTES = 200
MIN_INT64 = -(1 << 63)
MAX_INT64 = (1 << 63) - 1

_VERBATIM = bytes(code for code in range(0x21, 0x7F) if code not in b"{}")
_PLAIN = re.compile(rb"(?!#)[!-z|~]{0,200}")
_BIAS = 10**19
_ANY_TIME = b"%020d:%019d%s"
_AFTER_1970 = b"1%019d:%019d%s"  # the same text as `_ANY_TIME` for times from 0 on, without big integers


class KeyLayout:
    """The Redis keys of one pipeline.

    Args:
        pipeline: the pipeline's name.
    """

    def __init__(self, pipeline: str) -> None:
        self.prefix = b"pred:" + pipeline.encode() + b":"
        self.marks = b"repair:" + pipeline.encode()

    def names(self, entities: Sequence[bytes]) -> list[bytes]:
        """The Redis key of each entity key; 0.05 us a key when none needs hashing."""
        prefix = self.prefix
        everything = b"".join(entities)
        if (
            b"#" not in everything
            and not everything.translate(None, _VERBATIM)
            and max(map(len, entities), default=0) <= MAX_VERBATIM_BYTES
        ):
            return [prefix + entity for entity in entities]
        return [prefix + part(entity) for entity in entities]


def part(entity: bytes) -> bytes:
    """The entity key as it stands in a Redis key: itself, or `#` and its SHA-256."""
    if _PLAIN.fullmatch(entity):
        return entity
    return b"#" + hashlib.sha256(entity).hexdigest().encode()


def offset_versions(partition_count: int, offsets: Iterable[int]) -> list[bytes]:
    """Versions by offset; 0.11 us each.

    Args:
        partition_count: partitions of the input topic, at most 9,999,999.
        offsets: offset of each input record, 0 or more.
    """
    layout = b"%07d:%%019d" % partition_count
    return [layout % offset for offset in offsets]


def event_time_versions(
    event_time_ms: Sequence[int], topics: Sequence[str], partitions: Sequence[int], offsets: Sequence[int]
) -> list[bytes]:
    """Versions by event time, then offset, partition and topic of the input record; 0.28 us each.

    Times beyond 64 bits count as the nearest that 64 bits hold.
    """
    times = event_time_ms
    if times and (min(times) < MIN_INT64 or max(times) > MAX_INT64):
        times = [min(max(time, MIN_INT64), MAX_INT64) for time in times]
    places: Sequence[object] = partitions
    tails: dict[object, bytes] = {}
    if len(set(topics)) == 1:
        tag = crc32(topics[0].encode())
        tails |= {number: b":%07d:%08x" % (number, tag) for number in set(partitions)}
    else:
        places = list(zip(topics, partitions, strict=True))
        tails |= {
            (topic, number): b":%07d:%08x" % (number, crc32(topic.encode()))
            for topic, number in set(zip(topics, partitions, strict=True))
        }
    rows = zip(times, offsets, places, strict=True)
    if min(times, default=0) >= 0:
        return [_AFTER_1970 % (time, offset, tails[place]) for time, offset, place in rows]
    return [_ANY_TIME % (time + _BIAS, offset, tails[place]) for time, offset, place in rows]


def offset_version(partition_count: int, offset: int) -> bytes:
    """One version by offset."""
    return offset_versions(partition_count, (offset,))[0]


def event_time_version(event_time_ms: int, topic: str, partition: int, offset: int) -> bytes:
    """One version by event time."""
    return event_time_versions((event_time_ms,), (topic,), (partition,), (offset,))[0]
