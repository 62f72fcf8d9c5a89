"""`streamserve model bench`: how fast a model is by itself, by batch size, and which batch to choose for a goal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamserve.cli.console import emit_json, say, show, show_table
from streamserve.cli.model_options import ConfigurationOption, Place, RepositoryOption, find_place
from streamserve.cli.options import DEFAULT_CONFIG, Format, FormatOption, SetOption, parse_set
from streamserve.config.loading import load
from streamserve.errors import ContractError

if TYPE_CHECKING:
    from streamserve.batch import Tensors
    from streamserve.config.engine_settings import EngineSettings
    from streamserve.config.settings import PipelineSettings
    from streamserve.engines.benchmark import CaseResult
    from streamserve.pipeline.sequences import PaddedInput
    from streamserve.pipeline.serving import LoadedModel
    from streamserve.ports import Engine

MAX_ROWS = 20_000
BAR_WIDTH = 20
EIGHTHS = " ▏▎▍▌▋▊▉"


def bench(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[
        str | None, typer.Option(help="latest, a number, or an alias.  [default: the configuration's, else latest]")
    ] = None,
    repository: RepositoryOption = None,
    config: ConfigurationOption = None,
    set_: SetOption = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Events of the pipeline (JSON lines, CSV, NPZ, parquet).  [default: made-up rows]",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="N,N,...", help="Batch sizes.")] = "1,8,64,512",
    seconds: Annotated[float, typer.Option(min=0.1, help="For all of it, about.")] = 10.0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads of the runtime.  [default: the configuration's, else 1]")
    ] = None,
    slo_ms: Annotated[
        float | None, typer.Option(min=0.1, help="Suggest a batch size for this goal.  [default: engine.slo_ms]")
    ] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Measure a model by itself: latency and throughput by batch size, and the batch for a latency goal."""
    from streamserve.engines.benchmark import cases, measure, synthetic

    wanted = _sizes(sizes)
    settings = _settings(config, set_, repository)
    place = find_place(repository, config)
    own = place.engine if settings is None else settings.engine
    change = {"max_batch_size": wanted[-1], "threads": threads or own.threads, "allow_cpu_fallback": True}
    engine_settings = own.model_copy(update=change)
    number = version or (str(settings.model.version) if settings is not None else "latest")
    if settings is None:
        if rows is not None:
            raise ContractError(f"{rows} holds events: name the pipeline that knows how to read them, with -c")
        engine, padded, label = _plain(place, name, number, engine_settings)
        found = synthetic(engine.signature, padded)
    else:
        folder = str(place.folder)
        model = _loaded(settings, name, number, folder, engine_settings)
        engine, padded, label = model.infer.engine, list(_padded(model)), f"{model.name} {model.version}"
        found = _real(rows, settings, model) if rows is not None else synthetic(engine.signature, padded)
    try:
        results = measure(engine, cases(found, padded), wanted, seconds, progress=say)
    finally:
        engine.close()
    goal_s = (slo_ms or own.slo_ms or 0.0) / 1000
    about = {
        "model": label,
        "provider": engine.provider,
        "threads": engine_settings.threads,
        "rows": str(rows) if rows is not None else "made up",
    }
    if format is Format.JSON:
        emit_json({**about, "cases": [_document(result, goal_s) for result in results]})
        return
    show("  ".join(f"{key} {value}" for key, value in about.items()))
    for result in results:
        _tell(result, goal_s)


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > 65536:
        raise typer.BadParameter(f"{text!r} is no list of sizes from 1 to 65536, such as 1,8,64", param_hint="--sizes")
    return sizes


def _settings(config: Path | None, set_: list[str] | None, repository: Path | None) -> PipelineSettings | None:
    """The pipeline that is named, or that lies here; none where only a repository is named."""
    if config is None and repository is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    return load(config, parse_set(set_)).settings if config is not None else None


def _plain(place: Place, name: str, version: str, settings: EngineSettings) -> tuple[Engine, list[PaddedInput], str]:
    """The engine alone, of a model that no pipeline is known for."""
    from streamserve.engines import build_engine

    files = place.repository.resolve(name, version)
    return build_engine(files, settings), [], f"{files.name} {files.version}"


def _loaded(settings: PipelineSettings, name: str, version: str, folder: str, engine: EngineSettings) -> LoadedModel:
    """The model as a worker of this pipeline would load it."""
    from streamserve.composition.trial import Bench

    model = settings.model.model_copy(update={"name": name, "repository": folder})
    return Bench(settings.model_copy(update={"model": model, "engine": engine})).load(version)


def _padded(model: LoadedModel) -> Iterator[PaddedInput]:
    from streamserve.enrich.features import FeatureEnricher

    if isinstance(model.enricher, FeatureEnricher):
        yield from model.enricher.padded


def _real(path: Path, settings: PipelineSettings, model: LoadedModel) -> Tensors:
    """The model's inputs of events in a file."""
    import numpy as np

    from streamserve.cli.drift_files import file_parts

    parts: list[Tensors] = []
    held = 0
    for part in file_parts(path, settings, None):
        features, _ = model.enricher.enrich(part.events)
        if model.before is not None:
            features, _ = model.before(features)
        if len(features):
            parts.append(features.inputs)
        held += len(features)
        if held >= MAX_ROWS:
            break
    if not held:
        raise ContractError(f"{path}: holds no row that a worker would give the model")
    return {name: np.concatenate([part[name] for part in parts])[:MAX_ROWS] for name in parts[0]}


def _suggested(result: CaseResult, goal_s: float) -> dict[str, float] | None:
    """The largest batch for a goal, as a worker would plan it for a fresh record."""
    from streamserve.pipeline.slo import COMMIT_GUESS_S

    if not goal_s:
        return None
    rows = result.line.rows_within((goal_s - min(COMMIT_GUESS_S, goal_s / 2)) / 2)
    rows = min(rows, result.sizes[-1].rows)
    return {"slo_ms": goal_s * 1000, "max_batch_size": rows, "rows_per_s": rows / result.line.typical_s(rows)}


def _document(result: CaseResult, goal_s: float) -> dict[str, object]:
    line = result.line
    return {
        "length": result.length,
        "sizes": [
            {
                "rows": size.rows,
                "runs": size.runs,
                "p50_ms": size.p50_s * 1000,
                "p99_ms": size.p99_s * 1000,
                "rows_per_s": size.rows_per_s,
            }
            for size in result.sizes
        ],
        "row_ms": line.level * line.row_s * 1000,
        "batch_ms": line.level * line.batch_s * 1000,
        "best_rows": result.best.rows,
        "suggested": _suggested(result, goal_s),
    }


def _tell(result: CaseResult, goal_s: float) -> None:
    most = max(size.rows_per_s for size in result.sizes)
    show("")
    if result.length is not None:
        show(f"sequences padded to {result.length}")
    show_table(
        ["batch", "p50 ms", "p99 ms", "rows/s", ""],
        [
            [
                f"{size.rows:5}",
                f"{size.p50_s * 1000:9.3f}",
                f"{size.p99_s * 1000:9.3f}",
                f"{size.rows_per_s:11,.0f}",
                _bar(size.rows_per_s / most),
            ]
            for size in result.sizes
        ],
    )
    line = result.line
    show(f"T(n) = {_duration(line.level * line.row_s)} a row + {_duration(line.level * line.batch_s)} a batch")
    show(_best(result))
    suggested = _suggested(result, goal_s)
    if suggested is not None:
        show(
            f"for slo_ms {suggested['slo_ms']:g}: max_batch_size {suggested['max_batch_size']:g},"
            f" {suggested['rows_per_s']:,.0f} rows/s"
        )


def _duration(seconds: float) -> str:
    """Four digits, in microseconds where milliseconds would be mostly zeros: `12.3 µs`."""
    if not seconds:  # a line is never let fall
        return "nothing measurable"
    return f"{seconds * 1e6:.4g} µs" if seconds < 1e-4 else f"{seconds * 1e3:.4g} ms"


def _best(result: CaseResult) -> str:
    """The batch to choose, and whether larger ones would be better still."""
    best = result.best
    text = f"best batch {best.rows}: {best.rows_per_s:,.0f} rows/s"
    if best is result.sizes[-1]:
        return f"{text}, the largest that was measured: try larger ones with --sizes"
    return f"{text}; larger ones of these gain less than 2 %"


def _bar(share: float) -> str:
    eighths = round(share * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
