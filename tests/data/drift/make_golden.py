"""Asks the peers themselves: writes `golden_<peer>.json` beside this file; nothing here is needed to run the tests.

    python tests/data/drift/make_golden.py evidently            in an environment with evidently
    python tests/data/drift/make_golden.py nannyml              ... nannyml
    python tests/data/drift/make_golden.py frouros              ... frouros
    python tests/data/drift/make_golden.py hopsworks FOLDER     FOLDER: the unpacked wheel of hopsworks

The peers cannot share one environment (their ranges of numpy exclude each other). Each document names the versions
it was made with.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PAIRS = {
    "car_loan_first": ("car_loan_reference", "car_loan_first"),
    "car_loan_last": ("car_loan_reference", "car_loan_last"),
    "small": ("small_reference", "small_current"),
    "grid": ("grid_reference", "grid_current"),
}
Columns = dict[str, np.ndarray]


def main(peer: str, *arguments: str) -> None:
    warnings.simplefilter("ignore")
    ask = {"evidently": evidently, "nannyml": nannyml, "frouros": frouros, "hopsworks": hopsworks}[peer]
    packages = [peer, "numpy", *(["scipy", "pandas"] if peer != "hopsworks" else [])]
    document = {
        "versions": {name: _version(name, arguments) for name in packages},
        "pairs": {pair: ask(_load(a), _load(b), *arguments) for pair, (a, b) in PAIRS.items()},
    }
    path = HERE / f"golden_{peer}.json"
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{path.name}: {path.stat().st_size:,} bytes\n")


def _version(package: str, arguments: tuple[str, ...]) -> str:
    if package == "hopsworks":
        return next(Path(arguments[0]).glob("hopsworks-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    return importlib.metadata.version(package)


def _load(name: str) -> Columns:
    """Columns as pandas reads them from a file of text: 8-byte numbers, text, truth values."""
    with np.load(HERE / f"{name}.npz") as file:
        columns = {key: file[key] for key in file.files}
    return {key: x.astype(np.float64) if x.dtype.kind == "f" else x for key, x in columns.items()}


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else repr(number)


def evidently(reference: Columns, current: Columns) -> dict[str, dict[str, object]]:
    import pandas as pd
    from evidently.legacy.calculations import stattests as tests
    from evidently.legacy.calculations.stattests.registry import get_stattest
    from evidently.legacy.core import ColumnType

    names = {
        "psi": tests.psi_stat_test,
        "jensen_shannon": tests.jensenshannon_stat_test,
        "hellinger": tests.hellinger_stat_test,
        "wasserstein": tests.wasserstein_stat_test,
        "kolmogorov_smirnov": tests.ks_stat_test,
        "chi_square": tests.chi_stat_test,
        "z": tests.z_stat_test,
    }
    short = {test.name: name for name, test in names.items()}
    answers: dict[str, dict[str, object]] = {}
    for column in reference:
        a, b = (pd.Series(table[column]).replace([-np.inf, np.inf], np.nan).dropna() for table in (reference, current))
        kind = ColumnType.Numerical if reference[column].dtype.kind in "if" else ColumnType.Categorical
        chosen = get_stattest(a, b, kind, None)
        answers[column] = {"default": short[chosen.name]}
        for name, test in names.items():
            if kind in test.allowed_feature_types or test is chosen:
                if name == "z" and pd.concat([a, b]).nunique() > 2:
                    continue
                result = test(a.copy(), b.copy(), kind, None)
                answers[column][name] = {"value": _plain(result.drift_score), "drifted": _plain(result.drifted)}
    return answers


def nannyml(reference: Columns, current: Columns) -> dict[str, dict[str, object]]:
    import nannyml as nml
    import pandas as pd

    continuous = ["jensen_shannon", "hellinger", "wasserstein", "kolmogorov_smirnov"]
    categorical = ["jensen_shannon", "hellinger", "l_infinity", "chi2"]
    calculator = nml.UnivariateDriftCalculator(
        column_names=list(reference),
        treat_as_categorical=[name for name in reference if reference[name].dtype.kind not in "if"],
        treat_as_numerical=[name for name in reference if reference[name].dtype.kind in "if"],
        continuous_methods=continuous,
        categorical_methods=categorical,
        chunk_number=None,
    ).fit(pd.DataFrame(reference))
    answers: dict[str, dict[str, object]] = {}
    # the current rows are one chunk: each fitted method is asked for all of them
    for column, methods in calculator._column_to_models_mapping.items():
        answers[column] = {}
        for method in methods:
            value = method.calculate(pd.Series(current[column], name=column))
            answer = {
                "value": _plain(value),
                "threshold": _plain(method.upper_threshold_value),
                "drifted": _plain(method.alert(value)),
            }
            if method.column_name == "chi2":
                answer["p_value"] = _plain(method._p_value)
            answers[column]["chi_square" if method.column_name == "chi2" else method.column_name] = answer
    return answers


def frouros(reference: Columns, current: Columns) -> dict[str, dict[str, object]]:
    from frouros.detectors.data_drift import EMD, JS, PSI, ChiSquareTest, HellingerDistance, KSTest

    distances = {"psi": PSI, "jensen_shannon": JS, "hellinger": HellingerDistance, "wasserstein": EMD}
    answers: dict[str, dict[str, object]] = {}
    for column, a in reference.items():
        b = current[column]
        numeric = a.dtype.kind in "if"
        if numeric and not (np.isfinite(a).all() and np.isfinite(b).all()):
            continue
        answers[column] = {}
        for name, detector in distances.items() if numeric else ():
            asked = detector()
            asked.fit(X=a)
            answers[column][name] = {"value": _plain(asked.compare(X=b)[0].distance)}
        name, test = ("kolmogorov_smirnov", KSTest()) if numeric else ("chi_square", ChiSquareTest())
        test.fit(X=a)
        result = test.compare(X=b)[0]
        answers[column][name] = {"value": _plain(result.statistic), "p_value": _plain(result.p_value)}
    return answers


def hopsworks(reference: Columns, current: Columns, folder: str) -> dict[str, dict[str, object]]:
    """The peer's engine, fed with exact statistics: percentiles of the rows, a histogram on the resolved edges."""
    engine = _module(folder, "distribution_engine").DistributionEngine()
    distance = _module(folder, "distribution_distance")
    answers: dict[str, dict[str, object]] = {}
    for column in reference:
        numeric = reference[column].dtype.kind in "if"
        a, b = (
            table[column][np.isfinite(table[column])] if numeric else table[column] for table in (reference, current)
        )
        strategy = "EQUI_FREQUENCY" if numeric else "CATEGORICAL"
        stats_a, stats_b = _Statistics(1, column), _Statistics(2, column)
        if numeric:
            stats_a.percentiles = np.quantile(a, np.arange(1, 101) / 100, method="inverted_cdf").tolist()
        else:
            stats_a.extended_statistics, stats_b.extended_statistics = _categories(a), _categories(b)
        edges = engine._resolve_bin_edges(stats_a, stats_b, strategy, 10, None)
        centres = None
        if numeric:
            stats_a.extended_statistics, stats_b.extended_statistics = _bins(a, edges), _bins(b, edges)
            centres = (np.asarray(edges)[:-1] + np.asarray(edges)[1:]) / 2
        p = engine._build_distribution(stats_a, strategy, edges, 1e-6, 0)
        q = engine._build_distribution(stats_b, strategy, edges, 1e-6, 1)
        engine._clear_cache()
        metrics = {"psi": "PSI", "jensen_shannon": "JS_DIVERGENCE", "hellinger": "HELLINGER"}
        metrics |= {"wasserstein": "WASSERSTEIN", "kolmogorov_smirnov": "KOLMOGOROV_SMIRNOV"} if numeric else {}
        answers[column] = {
            name: {"value": _plain(distance._compute(q, p, metric, bin_centres=centres))}
            for name, metric in metrics.items()
        }
    return answers


class _Statistics:
    """The attributes of the peer's `FeatureDescriptiveStatistics` that its engine reads."""

    def __init__(self, id: int, name: str) -> None:
        self.id, self.feature_name = id, name
        self.percentiles: list[float] | None = None
        self.extended_statistics: dict[str, object] | None = None
        self.min = self.max = None


def _categories(x: np.ndarray) -> dict[str, object]:
    values, counts = np.unique(x, return_counts=True)
    return {"histogram": [{"value": str(v), "count": int(n)} for v, n in zip(values, counts, strict=True)]}


def _bins(x: np.ndarray, edges: list[float]) -> dict[str, object]:
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(index, minlength=len(edges) - 1)
    return {
        "histogram": [{"value": f"{edges[i]!r} to {edges[i + 1]!r}", "count": int(n)} for i, n in enumerate(counts)]
    }


def _module(folder: str, name: str):
    spec = importlib.util.spec_from_file_location(name, Path(folder) / "hsfs" / "core" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
