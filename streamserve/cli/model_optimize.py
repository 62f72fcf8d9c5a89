"""`streamserve model optimize`: a new version from an old one, smaller or faster, measured on real rows."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from streamserve.cli.console import emit_json, say, show, show_table
from streamserve.cli.interrupts import Interrupts
from streamserve.cli.model_options import ConfigurationOption, Place, RepositoryOption, find_place
from streamserve.cli.optimise_options import (
    AgreementOption,
    AliasOption,
    ByOption,
    DryRunOption,
    EnergyOption,
    EpochsOption,
    HiddenOption,
    MaxRowsOption,
    NameArgument,
    PruneKind,
    PruneOption,
    RankOption,
    RequireFasterOption,
    RequireSmallerOption,
    RowsOption,
    SamplesOption,
    SeedOption,
    SparsityOption,
    ToleranceKind,
    ToleranceKindOption,
    ToleranceOption,
    VersionOption,
)
from streamserve.cli.options import DEFAULT_CONFIG, Format, FormatOption, SetOption, parse_set
from streamserve.config.engine_settings import EngineSettings
from streamserve.config.loading import load
from streamserve.errors import ModelNotFound, SourceError
from streamserve.registry.model import LATEST

if TYPE_CHECKING:
    from streamserve.batch import Tensors
    from streamserve.config.settings import PipelineSettings
    from streamserve.optimise.chain import Made
    from streamserve.optimise.measure import Measured
    from streamserve.optimise.verdict import Tolerance
    from streamserve.optimise.wish import Wish
    from streamserve.ports import Engine, Signature
    from streamserve.registry.model import ModelVersion
    from streamserve.registry.repository import FolderRepository

NOT_MET = 3
ONNX = "model.onnx"
MEASURED_SHARE = 5
"""One row in so many, the newest, is kept from methods that learn from rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """Where rows come from.

    Attributes:
        settings: the pipeline, if one is named.
        file, topic: as the options say.
        limit: at most so many rows.
    """

    settings: PipelineSettings | None
    file: Path | None
    topic: str | None
    limit: int

    def read(self, signature: Signature) -> Tensors:
        """The rows. Raises: StreamServeError."""
        from streamserve.cli.optimise_rows import inputs_of_file, inputs_of_samples

        if self.file is not None:
            return self._told(*inputs_of_file(self.file, self.settings, signature, self.limit))
        if self.settings is None:
            raise typer.BadParameter(
                "give rows to measure on: --rows FILE, or -c CONFIG of a pipeline whose workers record samples",
                param_hint="--rows",
            )
        with Interrupts() as stop:
            found = inputs_of_samples(self.settings, self.topic, signature, self.limit, stop)
            if stop():
                raise SourceError("interrupted: nothing was made")
        return self._told(*found)

    @staticmethod
    def _told(rows: Tensors, rejected: int) -> Tensors:
        if rejected:
            say(f"{rejected:,} rows that a worker rejects are left out")
        return rows


def optimize(
    name: NameArgument,
    by: ByOption,
    version: VersionOption = None,
    repository: RepositoryOption = None,
    config: ConfigurationOption = None,
    set_: SetOption = None,
    rows: RowsOption = None,
    samples: SamplesOption = None,
    max_rows: MaxRowsOption = 20_000,
    tolerance: ToleranceOption = 0.01,
    tolerance_kind: ToleranceKindOption = ToleranceKind.MAX,
    agreement: AgreementOption = 0.99,
    sparsity: SparsityOption = 0.5,
    prune: PruneOption = PruneKind.UNITS,
    energy: EnergyOption = 0.99,
    rank: RankOption = None,
    hidden: HiddenOption = None,
    epochs: EpochsOption = 15,
    seed: SeedOption = 0,
    alias: AliasOption = None,
    format: FormatOption = Format.TEXT,
    *,
    require_faster: RequireFasterOption = False,
    require_smaller: RequireSmallerOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Make a smaller or faster version of a model, and measure it; ends with 3 when it differs too much."""
    from streamserve.optimise.errors import need

    need("onnx", "onnxruntime")
    from streamserve.optimise.chain import check
    from streamserve.optimise.verdict import Tolerance
    from streamserve.optimise.wish import Wish

    methods = [method.value for method in by]
    check(methods)
    settings = _settings(config, set_, repository)
    place = find_place(repository, config)
    version = version or default_version(place.repository, name, settings, offline=rows is not None)
    original = place.repository.resolve(name, version)
    source = RowSource(settings=settings, file=rows, topic=samples, limit=max_rows)
    learned, measured = split(source.read(original.signature), methods)
    wish = Wish(
        signature=original.signature,
        rows=learned,
        sparsity=sparsity,
        prune=prune.value,
        energy=energy,
        rank=rank,
        hidden=tuple(hidden or (64, 64)),
        epochs=epochs,
        seed=seed,
        progress=say,
    )
    limits = Tolerance(
        difference=tolerance,
        kind=tolerance_kind.value,
        agreement=agreement,
        faster=require_faster,
        smaller=require_smaller,
    )
    task = Task(place.engine, original, methods, wish, settings.output.decisions if settings else {}, limits)
    pushed, result = _made(task, place, measured, alias, write=not dry_run)
    result.tell(format, pushed, dry_run=dry_run)


def default_version(
    repository: FolderRepository, name: str, settings: PipelineSettings | None, *, offline: bool
) -> str:
    """The version that is optimised unless one is named.

    The stable one where a rollout says which that is (not asked when `offline`), else the configuration's, else the
    newest that is `model.onnx`: `latest` may be what `--by ort` made, which is final.

    Raises:
        BrokerUnavailable: the rollout topic cannot be read. ModelNotFound: no version can be optimised.
    """
    if settings is not None and settings.model.name == name:
        from streamserve.cli.model_check import stable_version

        configured = str(settings.model.version) if offline else stable_version(settings)
        if configured != LATEST:
            return configured
    numbers = [listed.version for listed in repository.listing(name) if listed.file == ONNX]
    if not numbers:
        raise ModelNotFound(f"no version of {name} is a {ONNX}, which is what can be optimised", model=name)
    return str(max(numbers))


def _made(
    task: Task, place: Place, rows: Tensors, alias: str | None, *, write: bool
) -> tuple[ModelVersion | None, Result]:
    """Run the task, and push what it made unless something speaks against it."""
    with tempfile.TemporaryDirectory() as folder:
        result = task.run(Path(folder), rows)
        if result.problems or not write:
            return None, result
        name = task.original.name
        return place.repository.push(
            name, folder, alias=alias, metrics=result.metrics(), created_from=task.lineage
        ), result


@dataclass(frozen=True, slots=True)
class Task:
    """One optimisation.

    Attributes:
        engine: how the model runs.
        original: the version it starts from.
        methods: names, in their order.
        wish: what they are given.
        thresholds: output of the model -> value from which on it means yes.
        limits: what is refused.
    """

    engine: EngineSettings
    original: ModelVersion
    methods: list[str]
    wish: Wish
    thresholds: dict[str, float]
    limits: Tolerance

    @property
    def lineage(self) -> str:
        """Where the new version comes from."""
        return f"optimize {' '.join(self.methods)} of version {self.original.version}"

    def run(self, folder: Path, rows: Tensors) -> Result:
        """Make the new version's folder and measure it on rows. Raises: StreamServeError."""
        from streamserve.optimise.chain import run
        from streamserve.optimise.measure import measure
        from streamserve.optimise.report import card
        from streamserve.optimise.verdict import problems, warnings
        from streamserve.registry.model import Manifest, render_manifest

        made = run(self.original.path, self.methods, self.wish, folder)
        before, after = self._engine(self.original.path), self._engine(made.path)
        try:
            measured = measure((before, files_of(self.original)), (after, [made.path]), rows, self.thresholds)
        finally:
            before.close()
            after.close()
        title = f"{self.original.name}: {self.lineage}"
        (folder / "README.md").write_text(card(title, made.done, measured), encoding="utf-8")
        manifest = Manifest(files={}, features=self.original.manifest.features)
        (folder / "model.yaml").write_text(render_manifest(manifest), encoding="utf-8")
        return Result(self.original, made, measured, problems(measured, self.limits), warnings(measured, self.limits))

    def _engine(self, path: str | Path) -> Engine:
        """The engine of a worker; where there is no GPU the CPU's figures are better than none."""
        from streamserve.engines.onnx import OnnxEngine

        return OnnxEngine(path, self.engine.model_copy(update={"allow_cpu_fallback": True}))


@dataclass(frozen=True, slots=True)
class Result:
    """What came out.

    Attributes:
        original: the version it started from.
        made: the new model.
        measured: both beside each other.
        problems: why it is refused.
        warnings: what else speaks against it.
    """

    original: ModelVersion
    made: Made
    measured: Measured
    problems: list[str]
    warnings: list[str]

    def metrics(self) -> dict[str, float]:
        """For `model.yaml`."""
        from streamserve.optimise.report import metrics

        return metrics(self.measured)

    def tell(self, format: Format, pushed: ModelVersion | None, *, dry_run: bool) -> None:
        """Print it. Raises: typer.Exit when it is refused."""
        from streamserve.optimise.report import HEADER, document, table

        if format is Format.JSON:
            emit_json(
                {
                    "model": self.original.name,
                    "from": self.original.version,
                    "version": pushed.version if pushed is not None else None,
                    "path": pushed.path if pushed is not None else None,
                    "methods": self.made.done,
                    **document(self.measured),
                    "problems": self.problems,
                    "warnings": self.warnings,
                }
            )
        else:
            for method, done in self.made.done.items():
                show(f"{method}: {done}")
            show_table(HEADER, table(self.measured))
            show_table(*self.measured.comparison.table())
        for warning in self.warnings:
            say(f"warning: {warning}", "yellow")
        for problem in self.problems:
            say(f"refused: {problem}", "red")
        if self.problems:
            say("nothing was written")
            raise typer.Exit(NOT_MET)
        if pushed is not None:
            say(f"{pushed.name} {pushed.version}\n{pushed.path}")
        elif dry_run:
            say("a dry run: nothing was written")


def split(rows: Tensors, methods: list[str]) -> tuple[Tensors, Tensors]:
    """Rows to learn from and rows to measure on: others, the newest, when a method learns."""
    from streamserve.optimise.chain import LEARNING

    n = len(next(iter(rows.values())))
    kept = n // MEASURED_SHARE
    if not LEARNING.intersection(methods) or not kept:
        return rows, rows
    older, newer = np.arange(n - kept), np.arange(n - kept, n)
    return (
        {name: values[older] for name, values in rows.items()},
        {name: values[newer] for name, values in rows.items()},
    )


def files_of(version: ModelVersion) -> list[Path]:
    """The model file and the weights beside it."""
    path = Path(version.path)
    beside = [name for name in version.manifest.files if name not in {path.name, "README.md", "reference.json"}]
    return [path, *(path.parent / name for name in beside)]


def _settings(config: Path | None, set_: list[str] | None, repository: Path | None) -> PipelineSettings | None:
    """The pipeline that is named, or that lies here; none where only a repository is named."""
    if config is None and repository is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    return load(config, parse_set(set_)).settings if config is not None else None
