"""Self-describing formats to events by a typed struct: what the JSON and MessagePack decoders share.

A whole batch is decoded in one list comprehension over msgspec's typed decoder. Only when that, or a check on
the columns, finds fault is the batch done again row by row, so that each bad record gets its own reject and
the others their place. Types are strict: no text for a number, no bool for a number, no float for an integer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import cast

import msgspec

from streamserve.batch import EventBatch, RecordBatch, Reject
from streamserve.codecs.columns import Row, Trouble, Unfit, assemble, problem
from streamserve.codecs.layout import EventLayout

_AT_FIELD = re.compile(r"^(?P<what>.*) - at `\$\.(?P<path>.*)`$", re.DOTALL)
_DETAIL_CHARACTERS = 300
FEW_FIELDS = 4
"""Up to so many fields, columns are read field by field; of 17 fields, reading by row takes a third of the time."""


class TypedDecoder:
    """A `Decoder` over any msgspec decoder of the layout's struct.

    Args:
        layout: the fields.
        decode: bytes to a struct; raises whatever msgspec raises.
        format: name of the format in messages, such as `JSON`.
        max_record_bytes: larger values are rejected as `too_large`.
        describe: says more about bytes that are not of the format, or gives an empty text.
    """

    def __init__(
        self,
        layout: EventLayout,
        decode: Callable[[bytes], msgspec.Struct],
        *,
        format: str,
        max_record_bytes: int,
        describe: Callable[[bytes], str] = lambda _: "",
    ) -> None:
        self._layout = layout
        self._columns = _by_field(len(layout.names)) if len(layout.names) <= FEW_FIELDS else _by_row
        self._decode = decode
        self._format = format
        self._max_record_bytes = max_record_bytes
        self._describe = describe

    def decode(self, records: RecordBatch) -> tuple[EventBatch, list[Reject]]:
        values = cast("list[bytes]", records.value)
        decode = self._decode
        try:
            if values and max(map(len, values)) > self._max_record_bytes:
                raise Unfit
            events = [decode(value) for value in values]
            return assemble(self._layout, records, list(range(len(values))), self._columns(events)), []
        except Exception:
            # Whatever it was (a null value, bad bytes, a bad row), the pass below names the row and the
            # reason.
            return self._one_by_one(records)

    def row(self, value: bytes | None) -> Row | Trouble:
        """One record's fields, checked, or what is wrong with it. Never raises."""
        trouble = unreadable(value, self._max_record_bytes)
        if trouble is not None:
            return trouble
        value = cast("bytes", value)
        try:
            row: Row = msgspec.structs.astuple(self._decode(value))
        except msgspec.ValidationError as error:
            return self._misfit(str(error))
        except RecursionError:
            return Trouble("decode", f"nested too deeply for {self._format}")
        except UnicodeDecodeError as error:
            return Trouble("decode", f"text is not UTF-8: {error.reason}")
        except Exception as error:
            reason = self._describe(value) or str(error)
            return Trouble("decode", f"not {self._format}: {reason}"[:_DETAIL_CHARACTERS])
        return problem(self._layout, row) or row

    def _one_by_one(self, records: RecordBatch) -> tuple[EventBatch, list[Reject]]:
        kept: list[int] = []
        rows: list[Row] = []
        rejects: list[Reject] = []
        for i, value in enumerate(records.value):
            row = self.row(value)
            if isinstance(row, Trouble):
                rejects.append(row.at(i))
            else:
                kept.append(i)
                rows.append(row)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self._layout.names)
        return assemble(self._layout, records, kept, columns), rejects

    def _misfit(self, message: str) -> Trouble:
        """Msgspec's message, which ends in the path of the value at fault, as a reject."""
        found = _AT_FIELD.match(message)
        if found is None:  # the event itself: a top-level array or number, keys that are no text
            return Trouble("decode", f"not an event: {message}"[:_DETAIL_CHARACTERS])
        path = found["path"]
        name = next((name for name in self._layout.names if path == name or path.startswith(f"{name}[")), "")
        what = found["what"][:1].lower() + found["what"][1:]
        is_feature = self._layout.vector is not None or any(f.name == name for f in self._layout.features)
        return Trouble("schema", f"{path}: {what}"[:_DETAIL_CHARACTERS], name if is_feature else "")


def _by_field(count: int) -> Callable[[list[msgspec.Struct]], list[list[object]]]:
    """Columns of events, one pass a field."""
    fields = [attrgetter(f"field_{number}") for number in range(count)]
    return lambda events: [list(map(field, events)) for field in fields]


def _by_row(events: list[msgspec.Struct]) -> list[tuple[object, ...]]:
    """Columns of events, one pass of all."""
    return list(zip(*map(msgspec.structs.astuple, events), strict=True))


def unreadable(value: bytes | None, max_record_bytes: int) -> Trouble | None:
    """Why a value is rejected before a look inside: there is none, it is empty, or too large."""
    if value is None:
        return Trouble("decode", "null value (tombstone)")
    if not value:
        return Trouble("decode", "empty value")
    if len(value) > max_record_bytes:
        detail = f"the value has {len(value)} bytes, input.max_record_bytes is {max_record_bytes}"
        return Trouble("too_large", detail)
    return None
