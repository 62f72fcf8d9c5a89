"""Sources of a push: a model file, the folder of a version, an MLflow directory. Copied, never executed.

What a source may name is held to the same rules as a version: no external data from elsewhere, no links in a
folder, digests that match. The one file that the caller names may be a link: it was meant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from streamserve.drift.reference import FILE as REFERENCE
from streamserve.errors import ModelCorrupt, ModelNotFound
from streamserve.registry.formats import REFUSED, RUNTIMES, refuse_content
from streamserve.registry.mlflow import FILE as MLMODEL
from streamserve.registry.mlflow import read_mlflow
from streamserve.registry.model import MANIFEST, Manifest, sha256_of
from streamserve.registry.staging import copy
from streamserve.registry.version import external_file, model_file, own_file, read_content, read_manifest

CARD: Final = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is to become a version.

    Attributes:
        model: the model file.
        manifest: what is known of it.
        beside: other files of the version: name in its folder -> path.
    """

    model: Path
    manifest: Manifest
    beside: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the model file in a version's folder."""
        return f"model{self.model.suffix.lower()}"

    def copy_to(self, folder: Path) -> dict[str, str]:
        """Copy everything. Returns: file name -> sha256, of the copies."""
        files = {self.name: self.model, **self.beside}
        for name, path in files.items():
            copy(path, folder / name)
        return {name: sha256_of(folder / name) for name in files}


def read_source(path: Path) -> Source:
    """Look at a source: a model file, a version's folder, or an MLflow directory.

    Raises:
        ModelNotFound: nothing is there, or no model in it.
        ModelCorrupt: it is of a kind that is not loaded, or names files elsewhere.
        OSError: it cannot be read.
    """
    if path.is_file():
        return _of_file(path, Manifest())
    if not path.is_dir():
        what = "is no file and no folder" if path.exists() else "does not exist"
        raise ModelNotFound(f"{path} {what}")
    if (path / MLMODEL).is_file():
        model = read_mlflow(path)
        return _of_file(model.path, Manifest(source=model.source, created=model.created))
    return _of_folder(path)


def _of_file(path: Path, manifest: Manifest) -> Source:
    suffix = path.suffix.lower()
    if suffix in REFUSED:
        raise ModelCorrupt(f"{path} is refused: {REFUSED[suffix]}")
    if f"model{suffix}" not in RUNTIMES:
        raise ModelCorrupt(f"{path} is no model: served are {', '.join(name[5:] for name in RUNTIMES)}")
    if RUNTIMES[f"model{suffix}"] == "torch":
        raise ModelCorrupt(
            f"{path} is a torch archive, which is not opened to look: give its folder, with it as model{suffix} and a"
            f" {MANIFEST} that declares `inputs` and `outputs`"
        )
    refuse_content(path)
    return Source(model=path, manifest=manifest, beside=_external(path))


def _of_folder(folder: Path) -> Source:
    model = own_file(folder, model_file(folder).name)
    manifest = read_manifest(folder) or Manifest()
    beside = {name: own_file(folder, name) for name in (CARD, REFERENCE) if (folder / name).exists()}
    beside |= {name: own_file(folder, name) for name in manifest.files if name != model.name}
    if RUNTIMES[model.name] == "onnx":
        refuse_content(model)
        beside |= _external(model)
    for name, promised in manifest.files.items():
        if sha256_of(folder / name) != promised:
            raise ModelCorrupt(f"{folder / name} is not the file of which {folder / MANIFEST} has the sha256")
    return Source(model=model, manifest=manifest, beside=beside)


def _external(model: Path) -> dict[str, Path]:
    """The files with external data of a model, by the names that the model has for them."""
    return {str(Path(name)): external_file(model, name) for name in read_content(model).external}
