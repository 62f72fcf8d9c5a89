"""What a stage costs an event, a case a stage: CPU microseconds of its thread.

    .venv/bin/python -m benchmarks.stages [GROUP ...] [--only TEXT] [--seconds 0.1] [--repetitions 5] [--dry]

Groups: `decode` (and enrich) by format and width, `sample`, `encode`, `infer` by batch (and all stages but Kafka's in a
row), `kafka` (produce, poll, commit; a broker is started), `cache` (a Redis is started). Without any: all of these.
`crossover` shows what a vector costs by width in each of two decoders. A figure is the fastest run of a repetition (of
transactions the median), and the table has the repetitions' least, median and greatest.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import compute_stages, transport_stages
from benchmarks.results import say, verdict
from benchmarks.stage import Case, Waiting

Groups = dict[str, Callable[[], Iterator[Case | Waiting]]]
ASIDE = ("crossover",)
"""Only when it is asked for."""


def main(arguments: list[str] | None = None) -> int:
    """Run, print, keep the results, compare with the bounds. Returns: 3 when a bound falls."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench stages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP")
    parser.add_argument("--only", default="", help="text in the names of the cases to run")
    parser.add_argument("--seconds", type=float, default=0.1, help="of a case and repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    options = parser.parse_args(arguments)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        groups = _groups(random.Random(options.seed), Path(folder), stack)
        wanted = options.groups or [name for name in groups if name not in ASIDE]
        if unknown := set(wanted) - groups.keys():
            parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
        say(f"{'CPU us an event':44} {'min':>9} {'median':>9} {'max':>9}")
        for case in (case for name in wanted for case in groups[name]() if options.only in case.name):
            values = [case.measure(options.seconds) for _ in range(options.repetitions)]
            figures["stages." + case.name.replace(",", "").replace(" ", "_")] = values
            unit = "  ms a transaction" if isinstance(case, Waiting) else ""
            middle = statistics.median(values)
            say(f"{case.name:44} {min(values):9.3f} {middle:9.3f} {max(values):9.3f}{unit}")
    return verdict(figures, kept=not options.dry)


def _groups(draw: random.Random, folder: Path, stack: ExitStack) -> Groups:
    """The cases of each group, made when they are asked for."""
    return {
        "decode": partial(compute_stages.decode_and_enrich, draw),
        "sample": partial(compute_stages.sample, draw),
        "encode": partial(compute_stages.encode, draw),
        "infer": partial(compute_stages.infer_and_score, draw, folder, stack),
        "kafka": partial(transport_stages.kafka, stack),
        "cache": partial(transport_stages.cache, stack),
        "crossover": partial(compute_stages.crossover, draw),
    }


if __name__ == "__main__":
    raise SystemExit(main())
