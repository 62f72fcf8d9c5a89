"""Where the `model` commands look: a folder that is named, else that of the pipeline's configuration, else `models`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from streamserve.cli.options import DEFAULT_CONFIG
from streamserve.config.engine_settings import EngineSettings
from streamserve.config.loading import load
from streamserve.registry.repository import FolderRepository

RepositoryOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the repository.  [default: that of the configuration, else models]"),
]
ConfigurationOption = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="The pipeline's configuration.  [default: streamserve.yaml if it is there]"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A repository, and how a model of it would run.

    Attributes:
        folder: of the repository.
        engine: the configuration's, or the defaults.
    """

    folder: Path
    engine: EngineSettings

    @property
    def repository(self) -> FolderRepository:
        return FolderRepository(self.folder, custom_operators=bool(self.engine.custom_ops))


def find_place(repository: Path | None, config: Path | None) -> Place:
    """The repository that the options mean. Raises: ConfigError when the configuration is wrong."""
    if config is None and repository is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    if config is None:
        return Place(folder=repository or Path("models"), engine=EngineSettings())
    settings = load(config, {}).settings
    return Place(folder=repository or Path(settings.model.repository), engine=settings.engine)
