"""JSON Lines to events: what is refused, and with which words."""

from __future__ import annotations

import io

import msgspec
import pytest

from streamserve.cli.event_lines import Event, EventReader, LineError, numbered_lines, open_input


def reader(*, key_field: str | None = None, check: bool = True, msgpack: bool = False) -> EventReader:
    return EventReader("in.jsonl", key_field=key_field, check=check, msgpack=msgpack)


def test_a_line_is_sent_byte_for_byte():
    assert reader().event((1, b'{"a":  1}\r\n')) == Event(None, b'{"a":  1}')


def test_blank_lines_are_no_events():
    assert reader().event((1, b"  \n")) is None


@pytest.mark.parametrize(("value", "key"), [(b'"A1"', b"A1"), (b"7", b"7"), (b"null", None)])
def test_the_key_is_the_field_as_text(value, key):
    event = reader(key_field="id").event((1, b'{"id":' + value + b"}"))

    assert event is not None
    assert event.key == key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a":', r"in\.jsonl:7: not JSON: .*column 6"),
        (b"[1]", r"in\.jsonl:7: not a JSON object"),
        (b'{"a": NaN}', "not JSON"),
        (b"{}", r"in\.jsonl:7: the key field 'id' is missing"),
        (b'{"id": [1]}', "must be text or a number"),
        (b'{"id": true}', "must be text or a number"),
    ],
)
def test_a_line_that_is_no_event_is_named(text, message):
    with pytest.raises(LineError, match=message):
        reader(key_field="id").event((7, text))


def test_without_the_check_any_line_goes():
    unchecked = reader(key_field="id", check=False)

    assert unchecked.event((1, b"not json\n")) == Event(None, b"not json")
    assert unchecked.event((2, b'{"id":"k"}\n')) == Event(b"k", b'{"id":"k"}')
    assert unchecked.event((3, b"[1]\n")) == Event(None, b"[1]")


def test_events_become_messagepack_where_the_pipeline_reads_that():
    event = reader(msgpack=True).event((1, b'{"a": [1, 2.5]}'))

    assert event is not None
    assert msgspec.msgpack.decode(event.value) == {"a": [1, 2.5]}


def test_repeat_starts_over_and_ends_for_an_empty_file():
    lines = numbered_lines(io.BytesIO(b"a\nb\n"), repeat=True, on_read=lambda _: None)

    assert [next(lines)[0] for _ in range(5)] == [1, 2, 1, 2, 1]
    assert list(numbered_lines(io.BytesIO(b""), repeat=True, on_read=lambda _: None)) == []


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LineError, match=r"cannot read .*: No such file"), open_input(str(tmp_path / "no")):
        pass
