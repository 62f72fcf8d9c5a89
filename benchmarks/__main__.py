"""`scripts/bench [CASE] [options]`: the cases by name, each a module with a `main` that takes its options.

Without a name: the goals, latency and memory under a backlog, about half an hour. Ends with 3 when a bound falls.
"""

from __future__ import annotations

import sys
from importlib import import_module

CASES = {
    "goals": ("benchmarks.goals", "worker beside the hand-written loop: formats, guarantees, cache, samples"),
    "shape": ("benchmarks.shape", "the same from 1 to 64 partitions and from 16 to 2,048 features"),
    "peers": ("benchmarks.peers.table", "other libraries on the same topic with the same model"),
    "latency": ("benchmarks.latency", "latency at fixed rates, beside the Kafka round trip"),
    "rebalance": ("benchmarks.rebalance", "latency of the partitions that stay while a worker joins"),
    "memory": ("benchmarks.memory", "memory under a backlog, and over many events"),
    "scale": ("benchmarks.scale", "worker processes, 256 partitions, 64 topics, batch sizes"),
    "stages": ("benchmarks.stages", "microseconds an event of every stage"),
}
USUAL = {"goals": [], "latency": [], "memory": ["--millions", "0"]}
"""What runs without a name, with its options: of memory the backlog alone."""


def main(arguments: list[str]) -> int:
    """Run the cases that are meant. Returns: the exit status, 2 for a name that there is not."""
    name, *options = arguments or [""]
    name = name.removeprefix("--")
    if name in CASES:
        status: int = import_module(CASES[name][0]).main(options)
        return status
    if name == "":
        return max(import_module(CASES[usual][0]).main(few) for usual, few in USUAL.items())
    width = max(map(len, CASES))
    print(__doc__, *(f"{case:{width}}  {text}" for case, (_, text) in CASES.items()), sep="\n")
    print("\nOptions of a case: scripts/bench CASE --help")
    return 0 if name in {"help", "-h"} else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
