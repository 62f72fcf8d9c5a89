"""The figures of the peers themselves: golden values that their released packages printed (tests/data/drift)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from streamserve.batch import F64, I64
from streamserve.drift.bins import edges_of
from streamserve.drift.compat import Peer, PeerReport, Score, compare
from streamserve.drift.schema import CELLS
from streamserve.drift.scores import jensen_shannon, population_stability
from streamserve.drift.tables import read_table

DATA = Path(__file__).parents[3] / "data" / "drift"
PAIRS = {
    "car_loan_first": ("car_loan_reference", "car_loan_first"),
    "car_loan_last": ("car_loan_reference", "car_loan_last"),
    "small": ("small_reference", "small_current"),
    "grid": ("grid_reference", "grid_current"),
}
EVIDENTLY, NANNYML, FROUROS = Peer.EVIDENTLY, Peer.NANNYML, Peer.FROUROS


@cache
def _report(peer: Peer, pair: str) -> PeerReport:
    reference, current = PAIRS[pair]
    return compare(peer, read_table(DATA / f"{reference}.npz"), read_table(DATA / f"{current}.npz"))


@pytest.fixture(scope="module", params=[(peer, pair) for peer in Peer for pair in PAIRS], ids="-".join)
def asked(request: pytest.FixtureRequest) -> tuple[dict[str, dict[str, object]], PeerReport]:
    """What a peer says of a pair, and what we say."""
    peer, pair = request.param
    document = json.loads((DATA / f"golden_{peer}.json").read_text())
    return document["pairs"][pair], _report(peer, pair)


def _scores(report: PeerReport) -> dict[tuple[str, str], Score]:
    return {(score.column, score.measure): score for score in report.scores}


def test_every_figure_of_the_peer_is_reproduced(asked):
    golden, report = asked
    scores = _scores(report)
    compared = 0
    for column, measures in golden.items():
        for measure, figures in measures.items():
            if measure == "default":
                continue
            for field in set(figures) & {"value", "p_value"}:
                ours, theirs = getattr(scores[column, measure], field), float(figures[field])
                # 1 - cdf of a peer ends at 1e-16; a tail of 1e-269 is the more exact one
                assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-15), (column, measure, field)
                compared += 1
    assert compared >= 9


def test_the_peers_thresholds_and_decisions_are_reproduced(asked):
    golden, report = asked
    scores = _scores(report)
    for column, measures in golden.items():
        for measure, figures in measures.items():
            if measure == "default":
                continue
            score = scores[column, measure]
            assert score.drifted == figures.get("drifted", score.drifted), (column, measure)
            if figures.get("threshold") is not None:
                assert score.threshold == pytest.approx(figures["threshold"], rel=1e-9), (column, measure)


def test_the_measure_that_evidently_picks_is_picked():
    picked = 0
    for pair, columns in json.loads((DATA / "golden_evidently.json").read_text())["pairs"].items():
        ours = {score.column: score.measure for score in _report(EVIDENTLY, pair).scores if score.default}
        assert ours == {column: measures["default"] for column, measures in columns.items()}
        picked += len(ours)
    assert picked == 29


def test_nothing_is_scored_that_the_peer_does_not_score(asked):
    golden, report = asked
    for score in report.scores:
        if score.value is not None:
            assert score.measure in golden[score.column]
    assert {score.column for score in report.scores} >= set(golden)


PRINTED = [
    # column, pair, Evidently PSI, Frouros PSI, Evidently JS, Frouros JS, NannyML JS, its threshold
    ("car_value", "car_loan_first", 0.002588, 0.001549, 0.017979, 0.010287, 0.026193, 0.035262),
    ("debt_to_income_ratio", "car_loan_first", 0.005456, 0.003461, 0.026102, 0.014888, 0.031661, 0.039328),
    ("driver_tenure", "car_loan_first", 0.003411, 0.002867, 0.020644, 0.019013, 0.030936, 0.039192),
    ("car_value", "car_loan_last", 1.504426, 1.285523, 0.384273, 0.361516, 0.467827, None),
    ("loan_length", "car_loan_last", 0.343725, 0.250342, 0.201994, 0.205671, 0.242620, None),
    ("salary_range", "car_loan_last", 0.251767, None, 0.158476, None, 0.190350, 0.017709),
    ("repaid_loan_on_prev_car", "car_loan_last", 0.316851, None, 0.196823, None, 0.236408, 0.014734),
]


@pytest.mark.parametrize(("column", "pair", "psi", "psi_f", "js", "js_f", "js_n", "js_n_limit"), PRINTED)
def test_bins_zeros_and_logarithms_make_the_published_differences(column, pair, psi, psi_f, js, js_f, js_n, js_n_limit):
    evidently, frouros, nannyml = (_scores(_report(peer, pair)) for peer in (EVIDENTLY, FROUROS, NANNYML))
    assert evidently[column, "psi"].value == pytest.approx(psi, abs=5e-7)
    assert evidently[column, "jensen_shannon"].value == pytest.approx(js, abs=5e-7)
    assert nannyml[column, "jensen_shannon"].value == pytest.approx(js_n, abs=5e-7)
    if js_n_limit is not None:
        assert nannyml[column, "jensen_shannon"].threshold == pytest.approx(js_n_limit, abs=5e-7)
    if psi_f is not None:
        assert frouros[column, "psi"].value == pytest.approx(psi_f, abs=5e-7)
        assert frouros[column, "jensen_shannon"].value == pytest.approx(js_f, abs=5e-7)


DISTANCES = [
    # column, pair, Evidently W/std, Frouros EMD, NannyML W, its threshold, KS D, NannyML KS D, Evidently KS p
    ("car_value", "car_loan_first", 0.017076, 348.316, 348.369, 401.0, 0.01310, 0.01308, 0.412888),
    ("debt_to_income_ratio", "car_loan_first", 0.026047, 0.004045, 0.004045, 0.004179, 0.01576, None, 0.206752),
    ("driver_tenure", "car_loan_first", 0.038233, 0.08801, 0.08801, 0.0433, 0.02124, 0.02114, 0.032645),
    ("car_value", "car_loan_last", 0.934513, 19061.67, 19061.62, None, 0.43850, 0.43838, 0.0),
    ("loan_length", "car_loan_last", 0.368213, 1.98888, 1.988865, None, 0.19872, None, 0.0),
]


@pytest.mark.parametrize(("column", "pair", "w", "emd", "w_n", "w_n_limit", "d", "d_n", "p"), DISTANCES)
def test_the_grid_of_nannyml_moves_the_fourth_digit(column, pair, w, emd, w_n, w_n_limit, d, d_n, p):
    def printed(value: float) -> float:
        """Half a unit of the last digit."""
        return 0.5 * 10.0 ** -len(repr(value).partition(".")[2])

    evidently, frouros, nannyml = (_scores(_report(peer, pair)) for peer in (EVIDENTLY, FROUROS, NANNYML))
    assert evidently[column, "wasserstein"].value == pytest.approx(w, abs=5e-7)
    assert frouros[column, "wasserstein"].value == pytest.approx(emd, abs=1.001 * printed(emd))
    assert nannyml[column, "wasserstein"].value == pytest.approx(w_n, abs=1.001 * printed(w_n))
    assert frouros[column, "kolmogorov_smirnov"].value == pytest.approx(d, abs=5.1e-6)
    assert evidently[column, "kolmogorov_smirnov"].value == pytest.approx(p, abs=5e-7)
    if d_n is not None:
        assert nannyml[column, "kolmogorov_smirnov"].value == pytest.approx(d_n, abs=5.1e-6)
    if w_n_limit is not None:
        assert nannyml[column, "wasserstein"].threshold == pytest.approx(w_n_limit, abs=1.001 * printed(w_n_limit))


def test_nannyml_alerts_on_a_stable_column():
    """The first 5,000 analysis rows are drawn as the reference is; three standard deviations of ten are not many."""
    scores = _scores(_report(NANNYML, "car_loan_first"))
    assert scores["driver_tenure", "wasserstein"].drifted
    assert not scores["driver_tenure", "jensen_shannon"].drifted


@pytest.mark.parametrize(
    ("column", "l_infinity", "chi_square"),
    [("salary_range", 0.09356, 474.891775), ("repaid_loan_on_prev_car", 0.25706, 1227.536732)],
)
def test_categories_of_the_last_rows(column, l_infinity, chi_square):
    nannyml = _scores(_report(NANNYML, "car_loan_last"))
    assert nannyml[column, "l_infinity"].value == pytest.approx(l_infinity, abs=5.1e-6)
    assert nannyml[column, "chi_square"].value == pytest.approx(chi_square, abs=5e-7)
    assert nannyml[column, "chi_square"].drifted
    assert _scores(_report(EVIDENTLY, "car_loan_last"))[column, "chi_square"].value < 1e-100


PAGE = Path(__file__).parents[4] / "docs" / "drift-compat.md"


def _page_rows(measure: str) -> list[tuple[str, str, str, float]]:
    """(tool, column, pair, figure) of a table of the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {measure} |"))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start : lines.index("", start)]]
    head = [cell.partition(", ")[::2] for cell in cells[0][1:5]]
    return [
        (row[0], column, f"car_loan_{part}", float(figure))
        for row in cells[2:]
        for (column, part), figure in zip(head, row[1:5], strict=True)
        if figure
    ]


def _our_own(column: str, pair: str, score: Callable[[I64, I64], F64]) -> float:
    """A score of live monitoring, on bins of the reference."""
    reference, current = (read_table(DATA / f"{name}.npz").columns[column].values for name in PAIRS[pair])
    uppers = edges_of(reference) if reference.dtype.kind == "f" else np.unique(reference)
    cells = [np.bincount(np.searchsorted(uppers, values), minlength=CELLS) for values in (reference, current)]
    return float(score(cells[1], cells[0]))


@pytest.mark.parametrize(
    ("title", "measure", "score", "rows"),
    [("PSI", "psi", population_stability, 15), ("Jensen-Shannon", "jensen_shannon", jensen_shannon, 19)],
)
def test_the_tables_of_the_page_are_computed(title, measure, score, rows):
    printed = _page_rows(title)
    assert len(printed) == rows
    for tool, column, pair, figure in printed:
        if tool == "streamserve":
            value = _our_own(column, pair, score)
        else:
            value = _scores(_report(Peer(tool), pair))[column, measure].value
        assert value == pytest.approx(figure, abs=5.1e-7), (tool, column, pair)
