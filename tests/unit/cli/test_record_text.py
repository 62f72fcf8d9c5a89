"""Records as text: nothing that a record holds reaches a terminal as a control character."""

from __future__ import annotations

import orjson
import pytest
import typer

from streamserve.cli.produce import parse_rate
from streamserve.cli.record_text import aligned, hexdump, one_line, payload, prediction_line, record_document, stamp
from streamserve.cli.tail import start_of
from streamserve.kafka.reading import Newest, StoredRecord


def record(value: bytes | None, key: bytes | None = b"k", headers=()) -> StoredRecord:
    return StoredRecord(topic="t", partition=2, offset=7, timestamp_ms=0, key=key, value=value, headers=headers)


def test_a_prediction_is_one_readable_line():
    value = {"id": "a", "model": "m", "version": "3", "outputs": {"p": 0.123456, "late": True, "v": [1, 2]}}

    line = prediction_line(record(orjson.dumps(value)))

    assert line == "1970-01-01T00:00:00.000Z  k  m@3  p=0.1235 late=true v=[1,2]  2:7"


def test_a_prediction_without_a_key_shows_its_id_and_a_shadow_its_role():
    value = {"id": "a", "model": "m", "version": "3", "role": "shadow", "outputs": {"p": 1}}

    assert "  a  m@3  (shadow)  p=1  " in prediction_line(record(orjson.dumps(value), key=None))


def test_a_fallback_is_told_from_what_the_model_said():
    value = {"model": "m", "version": "3", "role": "stable", "fallback": True, "outputs": {"p": 1}}

    assert "  k  m@3  (fallback)  p=1  " in prediction_line(record(orjson.dumps(value)))


@pytest.mark.parametrize("value", [b"\x1b[31mred", b"[1]", b"", None, b'{"outputs": 3}', b"\xff\xfe"])
def test_what_is_no_prediction_is_shown_without_control_characters(value):
    assert prediction_line(record(value)).isprintable()


def test_outputs_and_keys_cannot_move_the_cursor():
    value = orjson.dumps({"model": "\x1b[2J", "version": "\n", "outputs": {"\x07": "\x1b]0;x\x07"}})

    assert prediction_line(record(value, key=b"\x1b[1A")).isprintable()


def test_long_values_are_cut_with_their_size():
    assert one_line(b"x" * 1000).endswith("… (1000 bytes)")


def test_json_keeps_what_is_no_text_as_base64():
    document = record_document(record(b"\xff\x00", key=b"\xfe", headers=(("h", b"\xfd"), ("n", None))))

    assert document["value"] is None
    assert document["value_base64"] == "/wA="
    assert document["key"] == {"base64": "/g=="}
    assert document["headers"] == [["h", {"base64": "/Q=="}], ["n", None]]


def test_json_tells_text_null_and_json_null_apart():
    assert "value_text" not in record_document(record(None))
    assert record_document(record(b"hello"))["value_text"] == "hello"
    assert record_document(record(b'{"a": 1}'))["value"] == {"a": 1}


def test_a_hexdump_is_bounded():
    lines = list(hexdump(bytes(range(256)) * 10, limit=32))

    assert lines[0] == "00000000  00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f  |................|"
    assert len(lines) == 3
    assert lines[-1] == "… 2,528 more bytes"


def test_a_payload_of_text_keeps_its_lines_and_loses_its_control_characters():
    assert list(payload(b"a\n\x1b[0mb")) == ["a", "\\x1b[0mb"]
    assert list(payload(None)) == ["(null)"]
    assert list(payload(b"")) == ["(empty)"]


def test_columns_are_straight_and_nothing_is_cut():
    assert next(aligned([("A", "B"), ("long" * 40, "x")])) == "A" + " " * 161 + "B"


@pytest.mark.parametrize(
    ("timestamp_ms", "text"), [(-1, "-"), (1, "1970-01-01T00:00:00.001Z"), (1 << 62, str(1 << 62))]
)
def test_any_timestamp_can_be_shown(timestamp_ms, text):
    assert stamp(timestamp_ms) == text


@pytest.mark.parametrize(
    ("text", "per_s"), [("500", 500), ("500/s", 500), ("2k/s", 2000), ("30/m", 0.5), ("0.5/s", 0.5)]
)
def test_rates_are_read(text, per_s):
    assert parse_rate(text) == per_s


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "5/y", "1e9"])
def test_what_is_no_rate_is_a_usage_error(text):
    with pytest.raises(typer.BadParameter, match="no rate"):
        parse_rate(text)


def test_start_positions_are_read(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)

    assert start_of("beginning") == "beginning"
    assert start_of("end") == "end"
    assert start_of("-0") == "end"
    assert start_of("-25") == Newest(25)
    assert start_of("-5m") == 700_000
    assert start_of("1970-01-01T00:00:01") == 1000


@pytest.mark.parametrize("text", ["", "zz", "-5y", "--5"])
def test_what_is_no_start_is_a_usage_error(text):
    with pytest.raises(typer.BadParameter, match="none of"):
        start_of(text)
