"""One line an event, whatever its fields hold."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.telemetry.logs import MASK, MAX_VALUE_CHARS, Log
from tests.unit.telemetry.manual_clock import HandClock


def make(format="json", verbosity=0, stream=None):
    stream = stream or io.StringIO()
    return Log.open(stream=stream, format=format, verbosity=verbosity, clock=HandClock()), stream


def one(stream):
    [line] = stream.getvalue().splitlines()
    return json.loads(line)


def test_a_line_is_stamp_level_event_and_fields():
    log, stream = make()
    log.bind(slot="a-0").info("group_joined", partitions=3, ratio=0.5, ok=True, none=None)
    assert list(one(stream).items()) == [
        ("ts", "2023-11-14T22:13:20.123Z"),
        ("level", "info"),
        ("event", "group_joined"),
        ("slot", "a-0"),
        ("partitions", 3),
        ("ratio", 0.5),
        ("ok", True),
        ("none", None),
    ]


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (1, "debug info warning error"),
        (0, "info warning error"),
        (-1, "warning error"),
        (-2, "error"),
        (-9, "error"),
    ],
)
def test_verbosity_chooses_the_levels(verbosity, shown):
    log, stream = make(verbosity=verbosity)
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)("x")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == shown.split()


@pytest.mark.parametrize(
    "name",
    ["password", "sasl.password", "API_KEY", "bearer_token", "client-secret", "Authorization", "ssl.key.pem"],
)
def test_secrets_are_masked_by_name_at_any_depth(name):
    log, stream = make()
    log.info("x", **{name: "hunter2"}, nested={"a": [{name: "hunter2"}]}, text={name: b"hunter2"})
    assert "hunter2" not in stream.getvalue()
    assert one(stream)[name] == MASK


def test_passwords_in_addresses_are_masked_even_where_the_value_is_cut():
    log, stream = make()
    log.info("x", url="redis://user:hunter2@host:6379/0", long="y" * (MAX_VALUE_CHARS - 12) + "a://b:hunter2@c")
    log.error("x", error=ValueError("cannot reach rediss://:hunter2@host"))
    assert "hunter2" not in stream.getvalue()
    assert "redis://user:***@host:6379/0" in stream.getvalue()


def test_long_values_are_cut():
    log, stream = make()
    log.info("x", value="v" * 100_000, items=list(range(10_000)))
    assert len(stream.getvalue()) < 4000
    assert "(100000 characters)" in one(stream)["value"]


@given(
    st.text(),
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=10,
        ),
    ),
    st.sampled_from(["json", "text"]),
)
def test_whatever_it_holds_it_is_one_line(event, fields, format):
    log, stream = make(format)
    log.info(event, **fields)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    if format == "json":
        assert json.loads(text)["level"] == "info"


def test_text_quotes_what_would_be_ambiguous():
    log, stream = make("text")
    log.info("up", a="plain", b="two words", c='q"uote', d="", e="new\nline\x1b[31m", f={"k": 1})
    assert stream.getvalue().split(" ", 1)[1] == (
        'INFO    up a=plain b="two words" c="q\\"uote" d="" e="new\\nline\\x1b[31m" f={"k":1}\n'
    )


def test_fields_cannot_pose_as_the_event():
    log, stream = make()
    log.info("real", event="forged", level="x", ts=1)
    assert one(stream)["event"] == "real"
    assert one(stream)["event_"] == "forged"


def test_an_exception_comes_with_its_stack():
    for kind in ("json", "text"):
        log, stream = make(kind)
        try:
            raise RuntimeError("boom")
        except RuntimeError as error:
            log.failure("slot_failed", error, slot=1)
        assert "RuntimeError: boom" in stream.getvalue()
        assert "test_an_exception_comes_with_its_stack" in stream.getvalue()


def test_a_standard_logger_ends_in_the_same_place():
    log, stream = make()
    logger = log.bind(slot="s").as_logger("librdkafka")
    logger.warning("FAIL %s: %s", "broker", "gone")
    assert one(stream) == {
        "ts": "2023-11-14T22:13:20.123Z",
        "level": "warning",
        "event": "librdkafka",
        "slot": "s",
        "message": "FAIL broker: gone",
    }
    logger.debug("not shown")
    logger.info("bad %d", "format")
    assert "bad %d" in stream.getvalue()
    assert "librdkafka" not in logging.Logger.manager.loggerDict


class Gone(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError


def test_a_stream_that_is_gone_is_survived():
    log, _ = make(stream=Gone())
    log.info("x")
    closed = io.StringIO()
    log, _ = make(stream=closed)
    closed.close()
    log.info("x")


def test_an_ascii_stream_gets_escapes():
    raw = io.BytesIO()
    log, _ = make("text", stream=io.TextIOWrapper(raw, encoding="ascii"))
    log.info("x", name="Zürich")
    assert b"name=Z\\xfcrich" in raw.getvalue()
