"""An MLflow model directory as a source of models: its `MLmodel` is read here, nothing is unpickled.

Only the `onnx` flavour is taken: what the other flavours hold (`sklearn`, `pytorch`, `python_function`) is
loaded by running it.

Source: https://mlflow.org/docs/latest/ml/model/ (format of `MLmodel`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from streamserve.errors import ModelCorrupt
from streamserve.registry.model import parse_yaml
from streamserve.registry.version import own_file, small_text

FILE: Final = "MLmodel"


class _Document(msgspec.Struct):
    """The keys of `MLmodel` that matter here."""

    flavors: dict[str, dict[str, object]] = {}
    run_id: str | None = None
    utc_time_created: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowModel:
    """What a directory holds.

    Attributes:
        path: the ONNX file.
        source: the run it came from, free text.
        created: when it was logged, UTC, as MLflow writes it; empty when it does not say.
    """

    path: Path
    source: str
    created: str


def read_mlflow(folder: Path) -> MlflowModel:
    """Find the ONNX model in an MLflow directory.

    Raises:
        ModelCorrupt: it has none, or names a file that is not its own.
        OSError: it cannot be read.
    """
    where = own_file(folder, FILE)
    document = parse_yaml(small_text(where), str(where), _Document)
    flavour = document.flavors.get("onnx")
    if flavour is None:
        there = ", ".join(sorted(document.flavors)) or "none"
        raise ModelCorrupt(
            f"{folder} is refused: its MLflow flavours ({there}) are loaded by running pickled or Python code; log"
            " the model with mlflow.onnx.log_model"
        )
    data = flavour.get("data", "model.onnx")
    if not isinstance(data, str) or Path(data).is_absolute() or ".." in Path(data).parts or "\0" in data:
        raise ModelCorrupt(f"{where}: flavors.onnx.data is {data!r}, which is no file of this directory")
    return MlflowModel(
        path=own_file(folder, data),
        source=f"MLflow run {document.run_id}" if document.run_id else "MLflow",
        created=document.utc_time_created or "",
    )
