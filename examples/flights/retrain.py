"""Trains the flights model anew on what is known when it is asked for: the command of `streamserve retrain`.

The flights that departed at least a day before the request, and whose arrival is known, are what there is to learn
from: the newest 30 days of them decide how good the new model is, all others it learns from. The same days are scored
by the version in use, so that `model.yaml` says both. What a request says comes in variables of the environment, and
so does the folder that the model is written to; by hand:

    RETRAIN_OUT=/tmp/model RETRAIN_AT_MS=1377993600000 python examples/flights/retrain.py
"""

from __future__ import annotations

import datetime as dt
import io
import os
import sys
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from sklearn.metrics import log_loss, roc_auc_score
from train import Data, candidates, dense, export, infer, load, runtime

from streamserve.demo.flights import CONFIG, Flights

DAY_MS = 86_400_000
VALIDATION_DAYS = 30
LEAST_ROWS = 5000
SHAPE = "boosting, 100 trees of 16 leaves"


def main() -> int:
    """Trains, exports, and writes `model.onnx` and `model.yaml`."""
    out = Path(os.environ["RETRAIN_OUT"])
    config = Path(os.environ.get("RETRAIN_CONFIG", CONFIG))
    until_ms = int(os.environ["RETRAIN_AT_MS"]) - DAY_MS
    settings = YAML(typ="safe").load(config.read_text())
    features = settings["features"]
    data, times_ms = load(features), known_times_ms()
    train = rows(data, times_ms < until_ms - VALIDATION_DAYS * DAY_MS)
    validation = rows(data, (times_ms >= until_ms - VALIDATION_DAYS * DAY_MS) & (times_ms < until_ms))
    if min(len(train.late), len(validation.late)) < LEAST_ROWS:
        raise SystemExit(f"{len(train.late)} and {len(validation.late)} flights to learn and to judge by are too few")
    categories = [feature["categories"] for feature in features if feature["input"] == "categorical"]
    names = [feature["name"] for feature in features if feature["input"] == "numeric"]
    x = dense(train, categories)
    classifier = candidates(x.shape[1], names.index("dep_delay"))[SHAPE].fit(x, train.late)
    path = out / "model.onnx"
    path.write_bytes(export(classifier, len(names), categories).SerializeToString(deterministic=True))
    metrics = {f"validation_{name}": value for name, value in quality(path, validation).items()}
    current = in_use(config, settings)
    if current is not None:
        metrics |= {f"stable_{name}": value for name, value in quality(current, validation).items()}
        metrics["gain_auc"] = round(metrics["validation_auc"] - metrics["stable_auc"], 4)
    describe(out, metrics, len(names), len(categories))
    print(f"learnt from {len(train.late)} flights, judged by {len(validation.late)}: {metrics}", flush=True)
    return 0


def known_times_ms() -> np.ndarray:
    """Departure times of the flights that `load` gives: those whose arrival is known."""
    flights = Flights.load()
    return np.asarray(flights.event_time_ms())[flights.late() >= 0]


def rows(data: Data, chosen: np.ndarray) -> Data:
    """Some of the flights."""
    return Data(
        numeric=data.numeric[chosen],
        categorical=data.categorical[chosen],
        late=data.late[chosen],
        month=data.month[chosen],
    )


def in_use(config: Path, settings: dict) -> Path | None:
    """The file of the version that the request is about."""
    version = os.environ.get("RETRAIN_VERSION", "")
    model = settings["model"]
    path = config.parent / model.get("repository", "models") / model["name"] / version / "model.onnx"
    return path if version and path.is_file() else None


def quality(path: Path, data: Data) -> dict[str, float]:
    """What a file achieves on these flights."""
    chance = infer(runtime(path), data).astype(np.float64)
    return {
        "auc": round(float(roc_auc_score(data.late, chance)), 4),
        "log_loss": round(float(log_loss(data.late, chance)), 4),
    }


def describe(out: Path, metrics: dict[str, float], numbers: int, texts: int) -> None:
    """Writes `model.yaml`; the push adds the digests."""
    document = {
        "runtime": "onnx",
        "inputs": [
            {"name": "numeric", "dtype": "float32", "shape": [-1, numbers]},
            {"name": "categorical", "dtype": "str", "shape": [-1, texts]},
        ],
        "outputs": [{"name": "probability", "dtype": "float32", "shape": [-1]}],
        "metrics": metrics,
        "created": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    text = io.StringIO()
    YAML().dump(document, text)
    (out / "model.yaml").write_text(text.getvalue())


if __name__ == "__main__":
    sys.exit(main())
