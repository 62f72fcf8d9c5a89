"""Makes the car-loan extract and the two small pairs beside this file; nothing here is needed to run the tests.

    python tests/data/drift/make_car_loan.py nannyml-0.13.1-py3-none-any.whl

The wheel (Apache-2.0, `LICENSE-nannyml.txt`) holds `synthetic_car_loan_{reference,analysis}.csv`. The extract keeps
the eight feature columns and the prediction, all 50,000 rows of the reference, and the first and the last 5,000 rows
of the analysis file. `small_*` and `grid_*` are drawn here from a seeded generator: they reach the branches that the
car-loan files do not (fewer than 10,000 and fewer than 1,000 rows, integer and missing values, values outside the
reference's range, categories never seen).
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FOLDER = "nannyml/datasets/data"
COLUMNS = {
    "car_value": np.float32,  # whole numbers below 2**24: nothing is lost
    "debt_to_income_ratio": np.float64,
    "driver_tenure": np.float64,
    "loan_length": np.float32,
    "y_pred_proba": np.float64,
    "salary_range": np.str_,
    "repaid_loan_on_prev_car": np.bool_,
    "size_of_downpayment": np.str_,
    "y_pred": np.int64,
}


def main(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        reference = _rows(archive, "reference")
        analysis = _rows(archive, "analysis")
    _save("car_loan_reference", _extract(reference))
    _save("car_loan_first", _extract(analysis[:5000]))
    _save("car_loan_last", _extract(analysis[-5000:]))
    random = np.random.default_rng(20260)
    _save("small_reference", _small(random, rows=803, drifted=False))
    _save("small_current", _small(random, rows=307, drifted=True))
    _save("grid_reference", _grid(random, rows=12_000, shift=0.0, spread=1.0))
    _save("grid_current", _grid(random, rows=700, shift=0.2, spread=1.6))


def _rows(archive: zipfile.ZipFile, part: str) -> list[dict[str, str]]:
    with archive.open(f"{FOLDER}/synthetic_car_loan_{part}.csv") as file:
        return list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))


def _extract(rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    columns = {}
    for name, dtype in COLUMNS.items():
        texts = [row[name] for row in rows]
        columns[name] = np.array([text == "True" for text in texts] if dtype is np.bool_ else texts).astype(dtype)
    return columns


def _small(random: np.random.Generator, rows: int, *, drifted: bool) -> dict[str, np.ndarray]:
    """Below 1,000 rows, where Evidently tests and NannyML keeps the reference whole."""
    holes = random.normal(3.0 + 0.4 * drifted, 2.0, rows)
    holes[random.random(rows) < 0.05] = np.nan
    colours = ["blue", "green", "red", *(["violet"] if drifted else [])]
    shares = [0.5, 0.3, 0.15, 0.05] if drifted else [0.55, 0.3, 0.15]
    return {
        "normal": random.normal(0.15 * drifted, 1.0, rows),
        "count": random.poisson(60 + 2 * drifted, rows).astype(np.int64),
        "grade": random.integers(1, 7, rows).astype(np.int64),
        "few": random.choice([0.0, 1.0, 2.5], rows, p=[0.5, 0.3, 0.2] if drifted else [0.45, 0.35, 0.2]),
        "flag": random.random(rows) < (0.36 if drifted else 0.3),
        "waiting": random.exponential(2.0 if drifted else 1.0, rows),
        "colour": random.choice(colours, rows, p=shares),
        "holes": holes,
    }


def _grid(random: np.random.Generator, rows: int, shift: float, spread: float) -> dict[str, np.ndarray]:
    """Just over 10,000 rows, where NannyML counts on a grid; the current rows leave it on both sides."""
    holes = random.gamma(2.0, spread, rows).astype(np.float32)
    holes[random.random(rows) < 0.03] = np.nan
    return {
        "normal": random.normal(shift, spread, rows).astype(np.float32),
        "holes": holes,
        "count": random.negative_binomial(5, 0.1 / spread, rows).astype(np.int64),
    }


def _save(name: str, columns: dict[str, np.ndarray]) -> None:
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **columns)
    sys.stdout.write(f"{path.name}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
