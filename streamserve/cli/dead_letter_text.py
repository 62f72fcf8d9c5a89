"""Dead letters as text: one a line for `tail` and `dlq`, and one in full for `dlq show`."""

from __future__ import annotations

from collections.abc import Iterator

from streamserve.cli.record_text import one_line, payload, printable, record_document, record_line, stamp
from streamserve.codecs.dead_letter_headers import DeadLetterInfo, original_headers, read_dead_letter
from streamserve.kafka.reading import StoredRecord


def letter_line(record: StoredRecord) -> str:
    """Time, key, stage/reason, message, origin, partition:offset; another record as it is."""
    info = read_dead_letter(record.headers)
    if not info.reason:
        return record_line(record)
    return "  ".join(
        [
            stamp(record.timestamp_ms),
            one_line(record.key),
            printable(f"{info.stage}/{info.reason}"),
            printable(info.message),
            f"from {printable(info.origin)}",
            record.position,
        ]
    )


def letter_in_full(record: StoredRecord, info: DeadLetterInfo, *, replayed: bool) -> Iterator[str]:
    """Everything about one dead letter, in lines."""
    made_by = f"{info.model}@{info.version}" if info.model else ""
    facts = {
        "position": record.position + (" (replayed)" if replayed else ""),
        "time": stamp(record.timestamp_ms),
        "key": one_line(record.key),
        "origin": info.origin,
        "stage": info.stage,
        "reason": info.reason,
        "feature": info.feature,
        "message": info.message,
        "attempt": str(info.attempt) if info.attempt else "",
        "model": made_by,
        "group": info.group,
        "left out": info.left_out,
    }
    for name, value in facts.items():
        if value:
            yield f"{name + ':':10}{printable(value)}"
    for header, content in original_headers(record.headers):
        yield f"header:   {printable(header)} = {one_line(content)}"
    if info.left_out and record.value is None:
        return
    yield f"payload:  {len(record.value or b''):,} bytes"
    for line in payload(record.value):
        yield f"  {line}"


def letter_document(record: StoredRecord, info: DeadLetterInfo, *, replayed: bool) -> dict[str, object]:
    """One dead letter, ready for JSON."""
    return {
        **record_document(record),
        "origin": {"topic": info.topic, "partition": info.partition, "offset": info.offset},
        "stage": info.stage,
        "reason": info.reason,
        "feature": info.feature,
        "message": info.message,
        "attempt": info.attempt,
        "replayed": replayed,
    }
