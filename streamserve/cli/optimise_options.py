"""The options of `streamserve model optimize`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class By(StrEnum):
    """Methods."""

    GRAPH = "graph"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_STATIC = "int8-static"
    ORT = "ort"
    PRUNE = "prune"
    LOW_RANK = "low-rank"
    DISTIL = "distil"


class ToleranceKind(StrEnum):
    """Of what the difference is taken."""

    MAX = "max"
    MEAN = "mean"
    P99 = "p99"


class PruneKind(StrEnum):
    """What `prune` removes."""

    UNITS = "units"
    WEIGHTS = "weights"


NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
ByOption = Annotated[list[By], typer.Option("--by", help="A method. Repeatable: one after the other, in this order.")]
VersionOption = Annotated[
    str | None,
    typer.Option(
        help="latest, a number, or an alias.  [default: the stable one where the configuration has rollout and rows"
        " come from samples, else the configuration's number or alias, else the newest model.onnx]"
    ),
]
RowsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Events (JSON lines, CSV, NPZ, parquet), or without a configuration an NPZ file of model inputs.",
        exists=True,
        dir_okay=False,
    ),
]
SamplesOption = Annotated[
    str | None, typer.Option(metavar="TOPIC", help="Recorded rows instead.  [default: the pipeline's samples]")
]
MaxRowsOption = Annotated[int, typer.Option(min=1, help="At most so many rows, the newest.")]
ToleranceOption = Annotated[float, typer.Option(min=0, help="Largest absolute difference of outputs.")]
ToleranceKindOption = Annotated[
    ToleranceKind, typer.Option(help="Of the worst element, on average, or of all but the worst hundredth.")
]
AgreementOption = Annotated[
    float,
    typer.Option(min=0, max=1, help="Smallest share of rows that decide alike (thresholds, largest element)."),
]
SparsityOption = Annotated[float, typer.Option(min=0, max=0.99, help="prune: share that is removed.")]
PruneOption = Annotated[
    PruneKind, typer.Option(help="prune: hidden units, or single weights, which only compress better.")
]
EnergyOption = Annotated[
    float, typer.Option(min=0.01, max=1, help="low-rank: share of the squared singular values that stays.")
]
RankOption = Annotated[int | None, typer.Option(min=1, help="low-rank: so many singular values stay instead.")]
HiddenOption = Annotated[
    list[int] | None,
    typer.Option(min=1, help="distil: size of a hidden layer. Repeatable.  [default: 64, 64]", show_default=False),
]
EpochsOption = Annotated[int, typer.Option(min=1, help="distil: how often the student sees each row.")]
SeedOption = Annotated[int, typer.Option(min=0, help="distil: of everything random.")]
AliasOption = Annotated[str | None, typer.Option(help="Let this alias mean the new version, such as canary.")]
RequireFasterOption = Annotated[
    bool, typer.Option("--require-faster", help="Refuse a version whose largest batch is no faster.")
]
RequireSmallerOption = Annotated[
    bool, typer.Option("--require-smaller", help="Refuse a version whose file is no smaller.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Measure; write nothing.")]
