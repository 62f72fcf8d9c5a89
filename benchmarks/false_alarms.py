"""How often the monitor pages without a cause: weeks of streams that never drift, through the product's own decisions.

    python -m benchmarks.false_alarms [--weeks 50] [--seed 1] [--panes 1000] [--rate 10] [--keep FILE]
    python -m benchmarks.false_alarms --table FILE...    figures of all the runs in those files, and a line of results
    python -m benchmarks.false_alarms --peers [--weeks 2]

Every week draws a new reference, fits its dispersion anew, and then looks at 604,800 seconds of 200 features
(`benchmarks.drift_streams`) the way the sidecar does: panes of 10 s; windows of 1 minute, 10 minutes and 1 hour, each
looked at every tenth of itself; a budget of one false page a week. `Dispersion.fit`, `Decider.look` and `IncidentBook`
are the product's. Looks that provably decide nothing are left out before (`benchmarks.drift_screen`); while an
incident is open none is. With `--keep`, each week is one line of the file, and a run that is started again goes on
where it was.

`--peers`: the default rules of other tools on the same streams and cells, one look a window's length.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.drift_peers import PeerCount, peer_flags
from benchmarks.drift_screen import Screen
from benchmarks.drift_streams import FEATURES, FrozenReference, StationaryStream, kind_of
from benchmarks.results import keep
from streamserve.batch import F64, I64, Bools
from streamserve.drift.decision import WEEK_S, Budget, Decider, Verdict, holm
from streamserve.drift.incidents import IncidentBook
from streamserve.drift.special import chi2_quantile

CHUNK = 4320
"""Panes at once: half a day."""
COLUMNS_AT_ONCE = 10
WINDOWS_AT_ONCE = 300
"""Their arrays stay in the cache."""
NAMES = [f"{kind_of(feature)} {feature}" for feature in range(FEATURES)]

Counts = npt.NDArray[np.int32]


@dataclass(kw_only=True)
class Week:
    """What a week gave."""

    pages: int = 0
    false_looks: int = 0
    significant_looks: int = 0
    exact_looks: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    smallest_p: dict[str, float] = field(default_factory=dict)
    """Per window: the smallest p-value seen, over what one column may take in a look."""


def main() -> None:
    """Run, or put runs together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weeks", type=float, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--panes", type=int, default=1000, help="of each reference")
    parser.add_argument("--rate", type=float, default=10, help="events a second")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    if options.table:
        table(options.table)
    elif options.peers:
        peers(round(options.weeks), options.seed, options.panes, options.rate)
    else:
        for line in simulated(options.weeks, options.seed, options.panes, options.rate, options.keep):
            print(json.dumps(line), flush=True)


def simulated(weeks: float, seed: int, panes: int, rate: float, file: Path | None) -> Iterator[dict[str, object]]:
    """Weeks one by one, each a line of `file`; those that are there already are left out."""
    done = {json.loads(line)["seed"] for line in file.read_text().splitlines()} if file and file.exists() else set()
    whole = max(int(np.ceil(weeks)), 1)
    for number in range(whole):
        if seed + number in done:
            continue
        share = min(weeks - number, 1.0)
        started = time.perf_counter()
        week = one_week(seed + number, panes, rate, share)
        line: dict[str, object] = {
            "seed": seed + number,
            "weeks": share,
            "panes": panes,
            "rate": rate,
            **{name: getattr(week, name) for name in ("pages", "false_looks", "significant_looks", "exact_looks")},
            "kinds": dict(week.kinds),
            "smallest_p": week.smallest_p,
            "seconds": round(time.perf_counter() - started, 1),
        }
        if file:
            with file.open("a") as kept:
                kept.write(json.dumps(line) + "\n")
        yield line


def one_week(seed: int, panes: int, rate: float, share: float = 1.0) -> Week:
    """Draw a reference, then watch a week (or a share of one) that is no different."""
    budget = Budget()
    stream = StationaryStream(seed, rate * budget.pane_s)
    reference = stream.reference(panes)
    screens = [
        (window_s, Screen.of(reference, budget, window_s, rate * budget.pane_s)) for window_s in budget.windows_s
    ]
    watch = _Watch(reference, Decider(budget=budget))
    longest = budget.panes(budget.windows_s[-1])
    sums: Counts = np.zeros((1, *reference.counts.shape), np.int32)
    end = round(share * WEEK_S / budget.pane_s)
    for first in range(0, end, CHUNK):
        fresh = stream.counts(min(CHUNK, end - first), reference.tables)
        sums = summed(sums[-longest - 1 :], fresh)
        watch.chunk(sums, first + len(fresh) + 1 - len(sums), first, screens)
    return watch.week


class _Watch:
    """A model version's looks and its incident, over a week."""

    def __init__(self, reference: FrozenReference, decider: Decider) -> None:
        self._reference = reference
        self._decider = decider
        self._book = IncidentBook("benchmark", "model", "1")
        self.week = Week()

    def chunk(self, sums: Counts, at: int, first: int, screens: list[tuple[float, Screen]]) -> None:
        """Look at every window that ends in a chunk.

        Args:
            sums: cumulative counts, [panes + 1, F, C].
            at: the pane that `sums` starts with.
            first: the first pane whose end was not looked at.
            screens: bounds, per window.
        """
        budget = self._decider.budget
        flagged: dict[float, Bools] = {}
        ends: dict[float, I64] = {}
        for window_s, screen in screens:
            panes, stride = budget.panes(window_s), budget.stride_panes(window_s)
            last = at + len(sums) - 1
            due = np.arange(max(first + 1, panes), last + 1)
            ends[window_s] = due[due % stride == 0]
            flagged[window_s] = screened(sums, ends[window_s] - at, panes, screen)
        possible = {int(end) for window_s, due in ends.items() for end in due[flagged[window_s]]}
        asked = {window_s: set(due.tolist()) for window_s, due in ends.items()}
        hits = {window_s: set(due[flagged[window_s]].tolist()) for window_s, due in ends.items()}
        for end in range(first + 1, at + len(sums)):
            if end not in possible and self._book.incident is None:
                continue
            wanted = hits if self._book.incident is None else asked
            self._look(sums, at, end, [window_s for window_s in ends if end in wanted[window_s]])

    def _look(self, sums: Counts, at: int, end: int, windows: list[float]) -> None:
        budget = self._decider.budget
        verdicts = []
        for window_s in windows:
            counts = (sums[end - at] - sums[end - at - budget.panes(window_s)]).astype(np.int64)
            verdicts.append(self._decider.look(self._reference, counts, window_s=window_s))
            self._note(verdicts[-1])
        for event in self._book.update(end * round(budget.pane_s * 1000), verdicts, NAMES):
            self.week.pages += event.kind == "opened"

    def _note(self, verdict: Verdict) -> None:
        week, name = self.week, f"{verdict.window_s:g}"
        week.exact_looks += 1
        week.significant_looks += bool(holm(verdict.p, verdict.alpha).any())
        week.false_looks += bool(verdict.drifted.any())
        week.kinds.update(kind_of(feature) for feature in np.flatnonzero(verdict.drifted).tolist())
        ratio = float(verdict.p.min() * len(verdict.p) / verdict.alpha)
        week.smallest_p[name] = min(week.smallest_p.get(name, np.inf), ratio)


def summed(before: Counts, fresh: Counts) -> Counts:
    """Cumulative counts, continued by new panes (a row at a time: the rows stay in the cache)."""
    sums = np.empty((len(before) + len(fresh), *fresh.shape[1:]), np.int32)
    sums[: len(before)] = before
    for index, counts in enumerate(fresh, start=len(before)):
        np.add(sums[index - 1], counts, out=sums[index])
    return sums


def screened(sums: Counts, ends: I64, panes: int, screen: Screen) -> Bools:
    """Which of the windows that end at `ends` (indices into `sums`) could find anything."""
    rows = (sums[ends, 0] - sums[ends - panes, 0]).sum(axis=-1).astype(np.float64)
    found = np.zeros(len(ends), np.bool_)
    for column in range(0, sums.shape[1], COLUMNS_AT_ONCE):
        part = slice(column, column + COLUMNS_AT_ONCE)
        for first in range(0, len(ends), WINDOWS_AT_ONCE):
            some = slice(first, first + WINDOWS_AT_ONCE)
            counts = sums[ends[some], part] - sums[ends[some] - panes, part]
            found[some] |= screen.candidates(counts, column, rows[some])
    return found


def at_most(pages: int, weeks: float) -> float:
    """Upper 95 % limit of pages a week, Poisson (Garwood 1936): chi-square quantile (2 pages + 2) / 2 weeks."""
    return float(chi2_quantile(0.95, 2.0 * pages + 2.0)) / 2.0 / weeks


def table(files: list[Path]) -> None:
    """Put runs together, by reference and rate; they become a line of results."""
    print("| reference | events/s | weeks | pages | pages a week, 95 % limit | significant looks | of looks |")
    print("|---|---|---|---|---|---|---|")
    figures: dict[str, list[float]] = {}
    kinds: dict[tuple[int, float], list[dict[str, float]]] = {}
    for text in (line for file in files for line in file.read_text().splitlines()):
        line = json.loads(text)
        kinds.setdefault((line["panes"], line["rate"]), []).append(line)
    for (panes, rate), lines in kinds.items():
        weeks, pages = sum(line["weeks"] for line in lines), sum(line["pages"] for line in lines)
        looks = weeks * sum(Budget().looks_per_week(window_s) for window_s in Budget().windows_s)
        significant = sum(line["significant_looks"] for line in lines)
        limit = at_most(pages, weeks)
        print(
            f"| {panes / 360:.1f} h, {panes * 10 * rate:,.0f} rows | {rate:g} | {weeks:g} | {pages} | {limit:.3f} "
            f"| {significant} | {looks:,.0f} |"
        )
        name = f"false_alarms.{panes}_panes.{rate:g}_per_s"
        figures |= {f"{name}.pages_per_week": [pages / weeks], f"{name}.limit": [limit], f"{name}.weeks": [weeks]}
    keep(figures)


def peers(weeks: int, seed: int, panes: int, rate: float) -> None:
    """The default rules of other tools."""
    budget = Budget()
    counts = {window_s: PeerCount() for window_s in budget.windows_s}
    for number in range(weeks):
        stream = StationaryStream(seed + number, rate * budget.pane_s)
        reference, chunks = stream.reference_with_panes(panes)
        rules = peer_flags(reference, chunks, budget)
        end = round(WEEK_S / budget.pane_s)
        for first in range(0, end, CHUNK):
            fresh = stream.counts(min(CHUNK, end - first), reference.tables)
            for window_s, count in counts.items():
                length = budget.panes(window_s)
                whole = len(fresh) // length * length
                windows: F64 = fresh[:whole].reshape(-1, length, *fresh.shape[1:]).sum(axis=1).astype(np.float64)
                for rule, flags in rules[window_s](windows).items():
                    count.add(rule, flags)
    for window_s, count in counts.items():
        count.show(window_s, weeks)


if __name__ == "__main__":
    main()
