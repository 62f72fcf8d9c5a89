"""Methods one after the other, and the files of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from streamserve.errors import ContractError
from streamserve.optimise.distil import distil
from streamserve.optimise.graph import MAX_MODEL_BYTES, read_model
from streamserve.optimise.half import half
from streamserve.optimise.integers import int8_dynamic, int8_static
from streamserve.optimise.low_rank import low_rank
from streamserve.optimise.prune import prune
from streamserve.optimise.runtime import simplified, write_ort
from streamserve.optimise.wish import Method, Wish

ORT: Final = "ort"
METHODS: Final[dict[str, Method]] = {
    "graph": simplified,
    "fp16": half,
    "int8": int8_dynamic,
    "int8-static": int8_static,
    "prune": prune,
    "low-rank": low_rank,
    "distil": distil,
}
"""By name; `ort` besides, which writes another format."""
LEARNING: Final = frozenset({"fp16", "int8-static", "prune", "distil"})
"""Methods that look at the rows, which are then not the ones that are measured on."""


@dataclass(frozen=True, slots=True)
class Made:
    """A new model.

    Attributes:
        path: its file.
        done: method -> what it did.
    """

    path: Path
    done: dict[str, str]


def run(source: str | Path, methods: Sequence[str], wish: Wish, folder: Path) -> Made:
    """Apply methods in their order and write the result.

    Args:
        source: the original's file.
        methods: names, each once; `ort` last.
        wish: what is asked for.
        folder: where the new file goes, as `model.onnx` or `model.ort`.

    Raises:
        ContractError: the original cannot be rewritten, or the methods do not go together.
        NotOptimised: one of them finds nothing to do.
        ConfigError: a package is missing.
    """
    check(methods)
    model = read_model(source)
    done: dict[str, str] = {}
    for name in methods:
        wish.progress(f"{name} ...")
        if name == ORT:
            path = folder / "model.ort"
            done[name] = write_ort(model, path)
            return Made(path, done)
        step = METHODS[name](model, wish)
        model, done[name] = step.model, step.done
    if model.ByteSize() > MAX_MODEL_BYTES:
        raise ContractError(f"the result holds {model.ByteSize():,} bytes; at most 2 GiB can be written")
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return Made(path, done)


def check(methods: Sequence[str]) -> None:
    """Whether these methods go together, in this order. Raises: ContractError."""
    if len(set(methods)) < len(methods):
        raise ContractError(f"each method goes once: {', '.join(methods)}")
    if ORT in methods[:-1]:
        raise ContractError("ort writes another format, so it must be the last method")
    if {"int8", "int8-static"} <= set(methods):
        raise ContractError("int8 and int8-static do the same work: choose one")
