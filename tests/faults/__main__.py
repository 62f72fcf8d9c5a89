"""Run rows of the fault matrix for real:  scripts/faults [ROW...] [--seconds S] [--rate R] [--faults N] [--short].

Every row prints raw counts with N as soon as it ends. Exit code 1 when a promise was not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from dataclasses import asdict
from functools import cache

from streamserve.demo.local_kafka import LocalKafka
from streamserve.demo.local_redis import LocalRedis
from tests.faults.rows import ROWS, Row, Services, chosen

COUNTS = ("events", "predictions", "dead_letters", "lost", "duplicated", "phantom", "inversions", "key_inversions")
WITNESSED = ("live_differs", "offsets_back", "offset_samples", "stale", "keys")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=", ".join(f"{row.name}: {row.title}" for row in ROWS).replace("%", "%%")
    )
    parser.add_argument("--seconds", type=float, help="of load, instead of the row's own")
    parser.add_argument("--rate", type=float, help="events a second")
    parser.add_argument("--faults", type=int, help="how many")
    parser.add_argument("--short", action="store_true", help="the short form, as in the tests")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    options = parser.parse_args()
    try:
        rows = list(chosen(options.rows)) if options.rows else ROWS
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    with contextlib.ExitStack() as stack:
        services = _services(stack)
        for row in rows:
            failed += not _run(row.scaled(options.seconds, options.rate, options.faults), services, options)
    return 1 if failed else 0


def _services(stack: contextlib.ExitStack) -> Services:
    """Brokers and Redis, started when the first row asks for them."""
    return Services(
        kafka=cache(lambda: stack.enter_context(LocalKafka())),
        kafka3=cache(lambda: stack.enter_context(LocalKafka(3))),
        redis_url=cache(lambda: stack.enter_context(LocalRedis()).url),
    )


def _run(row: Row, services: Services, options: argparse.Namespace) -> bool:
    scale = row.short if options.short else row.full
    began_s = time.monotonic()
    verdict = row.run(services, scale)
    problems = row.problems(verdict)
    if options.format == "json":
        facts = {"row": row.name, "title": row.title, "scale": asdict(scale), **verdict.to_json()}
        _say(json.dumps({**facts, "problems": problems, "took_s": round(time.monotonic() - began_s, 1)}))
        return not problems
    counts = "  ".join(f"{name} {getattr(verdict, name)}" for name in (*COUNTS, *WITNESSED))
    notes = "  ".join(f"{name} {value}" for name, value in verdict.notes.items())
    _say(f"{row.name}: {row.title}\n  {counts}\n  {notes}\n  {'; '.join(problems) or 'kept'}")
    return not problems


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
