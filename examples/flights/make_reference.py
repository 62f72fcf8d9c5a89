"""Makes the flights demo's drift reference: `reference.json` beside its model, from the months it was trained on.

The departures of January to April with their labels go into a file of JSON lines, the importance of the features into
another, and `streamserve drift baseline` does the rest: what anybody does for a model of their own. The importance is
by permutation: how much the log loss grows when one feature's values are shuffled (Breiman, Machine Learning 45, 2001).

    pip install "streamserve[cpu]"
    python examples/flights/make_reference.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import orjson
from train import TRAIN, Data, infer, load, runtime

from streamserve.cli import main as streamserve
from streamserve.config.loading import load as load_config
from streamserve.demo.flights import CONFIG, ROOT, Flights

MODEL = ROOT / "models" / "flight-delay" / "1"
PANE_S = 86_400
WINDOWS_S = [604_800, 2_592_000]
ROWS = 20_000


def main() -> int:
    """Writes the two files and calls the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG, help="the pipeline")
    config = parser.parse_args().config
    with tempfile.TemporaryDirectory() as folder:
        rows, importance = Path(folder) / "january-to-april.jsonl", Path(folder) / "importance.json"
        write_rows(rows)
        importance.write_bytes(orjson.dumps(permutation_importance(config)))
        command = ["drift", "baseline", "--from", str(rows), "-c", str(config), "--label", "late"]
        settings = {
            "pane_s": PANE_S,
            "windows_s": WINDOWS_S,
            "labels.task": "binary",
            "segments": "[{feature: origin}]",
        }
        changes = [part for key, value in settings.items() for part in ("--set", f"drift.{key}={value}")]
        streamserve([*command, *changes, "--importance", str(importance)])
    return 0


def write_rows(path: Path) -> None:
    """The departures of the training months as events, with `late` (null where a flight never arrived)."""
    flights = Flights.load()
    stop = int(np.searchsorted(flights.columns["month"].astype(int), max(TRAIN) + 1))
    late = flights.late().tolist()
    with path.open("wb") as file:
        for event, label in zip(flights.events(0, stop), late, strict=False):
            if event["month"] in TRAIN:
                file.write(orjson.dumps({**event, "late": None if label < 0 else label}) + b"\n")


def permutation_importance(config: Path) -> dict[str, float]:
    """Feature -> growth of the log loss on the training months when its values are shuffled, at least 0."""
    features = [feature.model_dump(exclude_none=True) for feature in load_config(config).settings.features]
    data = load(features).during(TRAIN)
    rng = np.random.default_rng(1)
    rows = rng.choice(len(data.late), ROWS, replace=False)
    data = Data(
        numeric=data.numeric[rows], categorical=data.categorical[rows], late=data.late[rows], month=data.month[rows]
    )
    model = runtime(MODEL / "model.onnx")
    base = log_loss(model, data)
    found = {}
    for kind in ("numeric", "categorical"):
        names = [feature["name"] for feature in features if feature["input"] == kind]
        for column, name in enumerate(names):
            block = getattr(data, kind).copy()
            block[:, column] = rng.permutation(block[:, column])
            parts = {"numeric": data.numeric, "categorical": data.categorical, kind: block}
            shuffled = Data(**parts, late=data.late, month=data.month)
            found[name] = round(max(log_loss(model, shuffled) - base, 0.0), 6)
    print({name: round(value, 4) for name, value in found.items()}, file=sys.stderr)
    return found


def log_loss(model: onnxruntime.InferenceSession, data: Data) -> float:
    """Mean surprise at what came true, nats."""
    chance = np.clip(infer(model, data).astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(data.late == 1, np.log(chance), np.log1p(-chance)).mean())


if __name__ == "__main__":
    sys.exit(main())
