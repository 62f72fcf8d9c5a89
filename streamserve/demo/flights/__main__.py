"""Prints departures as JSON Lines: `python -m streamserve.demo.flights | streamserve produce --key flight`.

With `--labels` it prints what became of them instead, in order of arrival, for the labels topic.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from streamserve.demo.flights import Flights

_CHUNK = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the departures asked for; a reader that leaves early is no error."""
    parser = argparse.ArgumentParser(prog="streamserve.demo.flights", description="Departures as JSON Lines.")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first of them (default: 0)")
    parser.add_argument("--count", type=int, metavar="N", help="how many (default: all the rest)")
    parser.add_argument("--labels", action="store_true", help="labels, in order of arrival, instead of departures")
    options = parser.parse_args(arguments)
    flights = Flights.load()
    lines = _labels(flights) if options.labels else _departures(flights, options.start)
    start = options.start if options.labels else 0
    stop = None if options.count is None else start + options.count
    try:
        for line in islice(lines, start, stop):
            sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _departures(flights: Flights, start: int) -> Iterator[bytes]:
    for first in range(start, len(flights), _CHUNK):
        yield from (value for _, value in flights.encoded(first, first + _CHUNK))


def _labels(flights: Flights) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    for label in flights.labels():
        yield encode({"id": label.flight_id, "label": label.late, "ts": label.ts_ms})


if __name__ == "__main__":
    sys.exit(main())
