"""Logs: an event name and fields, one line each, on stderr.

A line is written for a change of state, never for a record. Lines are JSON for machines (`ts`, `level`,
`event`, then the fields) or plain text on a terminal. Whatever a field holds, a line stays one line: control
characters are escaped, long values cut, and values under a secret's name, or passwords inside of addresses,
masked. A stream that is gone never raises. Nothing here is global: a `Log` is made once and handed on, `bind`
adds fields to it, and `as_logger` gives foreign libraries a standard logger that ends in the same place.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from threading import Lock
from typing import Literal, TextIO

import orjson

from streamserve.clock import Clock, SystemClock

Format = Literal["json", "text"]

MAX_VALUE_CHARS = 2048
"""Longer text is cut, its length noted."""
MAX_TRACEBACK_CHARS = 16_384
MAX_ITEMS = 64
"""Entries of a list or mapping that are shown."""
MASK = "***"

_SECRET_NAME = re.compile(
    r"passw|secret|token|api[-_.]?key|authori[sz]ation|credential|private[-_.]?key|passphrase|jaas|cookie|pem$",
    re.IGNORECASE,
)
_PASSWORD_IN_ADDRESS = re.compile(r"(://[^/@\s:]*:)[^/\s]*@")
_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class Log:
    """Writes events; every method may be called from any thread.

    Args:
        sink: where lines go.
        fields: fields that every line of this object has.
    """

    def __init__(self, sink: LogSink, fields: Mapping[str, object] | None = None) -> None:
        self._sink = sink
        self._fields = dict(fields or {})

    @classmethod
    def open(
        cls,
        *,
        stream: TextIO | None = None,
        format: Format | None = None,
        verbosity: int = 0,
        clock: Clock | None = None,
    ) -> Log:
        """A log on `stream`.

        Args:
            stream: default standard error.
            format: default `text` on a terminal, else `json`.
            verbosity: count of -v minus count of -q: 0 shows info and worse, 1 debug, -1 warnings, -2 errors.
            clock: gives the stamps.
        """
        target = sys.stderr if stream is None else stream
        chosen = format or ("text" if target.isatty() else "json")
        level = max(logging.DEBUG, min(logging.ERROR, logging.INFO - 10 * verbosity))
        return cls(LogSink(target, chosen, level, clock or SystemClock()))

    def bind(self, **fields: object) -> Log:
        """This log with more fields on every line."""
        return Log(self._sink, {**self._fields, **fields})

    def debug(self, event: str, /, **fields: object) -> None:
        """Something only a developer wants to see."""
        self._sink.write(logging.DEBUG, event, {**self._fields, **fields})

    def info(self, event: str, /, **fields: object) -> None:
        """A change of state."""
        self._sink.write(logging.INFO, event, {**self._fields, **fields})

    def warning(self, event: str, /, **fields: object) -> None:
        """Something an operator should look at in time."""
        self._sink.write(logging.WARNING, event, {**self._fields, **fields})

    def error(self, event: str, /, **fields: object) -> None:
        """Something that failed for good; exceptions as fields are shown as type and message."""
        self._sink.write(logging.ERROR, event, {**self._fields, **fields})

    def failure(self, event: str, error: BaseException, /, **fields: object) -> None:
        """An error that nobody expected, with its stack."""
        stack = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARS:]
        shown = {**self._fields, **fields, "error": error, "stack": _Stack(stack)}
        self._sink.write(logging.ERROR, event, shown)

    def as_logger(self, name: str) -> logging.Logger:
        """A standard logger whose records become lines of this log, with `name` as the event.

        The logger is not registered anywhere, so nothing configured elsewhere reaches it.
        """
        logger = logging.Logger(name, self._sink.level)  # noqa: LOG001  # not registered on purpose
        logger.addHandler(_Bridge(self))
        return logger


class LogSink:
    """Turns events into lines on one stream."""

    def __init__(self, stream: TextIO, format: Format, level: int, clock: Clock) -> None:
        self.level = level
        self._stream = stream
        self._render = _json_line if format == "json" else _text_line
        self._clock = clock
        self._lock = Lock()

    def write(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        """Write one line, if its level is shown; a stream that is gone is not this program's end."""
        if level < self.level:
            return
        stamp = datetime.fromtimestamp(self._clock.epoch_ms() / 1000, UTC)
        line = self._render(stamp, _LEVELS.get(level, "error"), event, fields)
        try:
            with self._lock:
                try:
                    self._stream.write(line)
                except UnicodeEncodeError:  # the locale's encoding is smaller than the text
                    self._stream.write(line.encode("ascii", "backslashreplace").decode())
                self._stream.flush()
        except (OSError, ValueError):  # closed pipe or closed stream: there is nobody left to tell
            return


class _Bridge(logging.Handler):
    """Feeds the records of a standard logger into a `Log`."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a library's arguments do not fit its own format
            message = str(record.msg)
        if record.levelno >= logging.ERROR:
            self._log.error(record.name, message=message)
        elif record.levelno >= logging.WARNING:
            self._log.warning(record.name, message=message)
        elif record.levelno >= logging.INFO:
            self._log.info(record.name, message=message)
        else:
            self._log.debug(record.name, message=message)


class _Stack(str):
    """Text that may be longer than a value and keeps its lines in JSON."""

    __slots__ = ()


def _json_line(stamp: datetime, level: str, event: str, fields: Mapping[str, object]) -> str:
    document: dict[str, object] = {
        "ts": stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "event": _clean(event),
    }
    for name, value in fields.items():
        shown = _clean(name)
        document[f"{shown}_" if shown in {"ts", "level", "event"} else shown] = _plain(name, value)
    return orjson.dumps(document).decode() + "\n"


def _text_line(stamp: datetime, level: str, event: str, fields: Mapping[str, object]) -> str:
    clock_time = stamp.astimezone().strftime("%H:%M:%S")
    head = f"{clock_time} {level.upper():7} {_escape(_clean(event))}"
    stack = ""
    parts = [head]
    for name, value in fields.items():
        if isinstance(value, _Stack):
            stack = "\n".join(f"    {_escape(line)}" for line in _clean(value).splitlines()) + "\n"
            continue
        parts.append(f"{_escape(_clean(name))}={_quoted(_plain(name, value))}")
    return " ".join(parts) + "\n" + stack


def _quoted(value: object) -> str:
    """A value as text: bare where that is unambiguous, else as JSON."""
    if isinstance(value, str):
        text = _escape(value)
        bare = bool(text) and text == value and not re.search(r"[\s\"=]", text)
        return text if bare else '"' + text.replace('"', '\\"') + '"'
    return _escape(orjson.dumps(value).decode())


def _plain(name: str, value: object, depth: int = 0) -> object:
    """What orjson can write of a value, cut and masked."""
    if value is not None and not isinstance(value, bool) and _SECRET_NAME.search(name):
        return MASK
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else str(value)
    if isinstance(value, BaseException):
        return _clean(f"{type(value).__name__}: {value}")
    if depth < 4 and isinstance(value, Mapping):
        items = list(value.items())[:MAX_ITEMS]
        return {_clean(str(key)): _plain(str(key), item, depth + 1) for key, item in items}
    if depth < 4 and isinstance(value, list | tuple | set | frozenset):
        return [_plain(name, item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    if isinstance(value, bytes):
        return _clean(value[: MAX_VALUE_CHARS + 1].decode("utf-8", "backslashreplace"))
    return _clean(value if isinstance(value, str) else str(value))


def _clean(text: str) -> str:
    """Text that can be shown: cut, masked, and free of what a terminal or a parser would trip over.

    Newlines and tabs stay: JSON escapes them itself, and the text format does it in `_escape`.
    """
    limit = MAX_TRACEBACK_CHARS if isinstance(text, _Stack) else MAX_VALUE_CHARS
    if "://" in text:
        text = _PASSWORD_IN_ADDRESS.sub(rf"\1{MASK}@", text)
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _escape(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t")
