"""Prints departures as JSON Lines: `python -m streamserve.demo.flights | streamserve produce --key flight`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from streamserve.demo.flights import Flights

_CHUNK = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the departures asked for; a reader that leaves early is no error."""
    parser = argparse.ArgumentParser(prog="streamserve.demo.flights", description="Departures as JSON Lines.")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first departure (default: 0)")
    parser.add_argument("--count", type=int, metavar="N", help="how many (default: all the rest)")
    options = parser.parse_args(arguments)
    flights = Flights.load()
    stop = len(flights) if options.count is None else min(len(flights), options.start + options.count)
    try:
        for first in range(options.start, stop, _CHUNK):
            values = [value for _, value in flights.encoded(first, min(first + _CHUNK, stop))]
            sys.stdout.write(b"\n".join([*values, b""]).decode())
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
