"""A repository of models in a folder: `<root>/<name>/<version>/{model.onnx, model.yaml, ...}`.

The adapter of `ports.ModelStore`. A version is a positive integer and never changes; `<name>/aliases.yaml`
maps an alias such as `stable` to one. Everything is checked on load: the digest of each file that
`model.yaml` lists, the declared signature against the file's own, and that the weights a model pulls in lie
inside its folder. A folder with nothing but `model.onnx` works; then nothing was promised and only the file
itself is checked.

A check and the load that follows are two readings of a file: whoever can write to the repository while a
worker starts is trusted.
"""

from __future__ import annotations

import stat
from pathlib import Path

from streamserve.errors import ModelCorrupt, ModelNotFound
from streamserve.ports import Signature, TensorSpec
from streamserve.registry.model import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL_FILE,
    NAME,
    NUMBER,
    REFUSED,
    Manifest,
    ModelVersion,
    Tensor,
    did_you_mean,
    parse_aliases,
    parse_manifest,
    pick_version,
    refuse_content,
    sha256_of,
)
from streamserve.registry.onnx_file import OnnxFile, read_onnx


class FolderRepository:
    """Models in a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)

    def resolve(self, name: str, version: str) -> ModelVersion:
        """The version that `version` (`latest`, a number, an alias) means, all of it checked.

        Raises:
            ModelNotFound: there is no such model or version.
            ModelCorrupt: it is not what it promises, or of a kind that is not loaded.
        """
        number = pick_version(name, str(version), self.versions(name), self.aliases(name))
        return read_version(self._root / name / str(number), name, str(number))

    def names(self) -> list[str]:
        """Models that are there."""
        if not self._root.is_dir():
            return []
        return sorted(p.name for p in self._root.iterdir() if p.is_dir() and NAME.fullmatch(p.name))

    def versions(self, name: str) -> list[int]:
        """Versions of a model, ascending.

        Raises:
            ModelNotFound: there is no such model.
        """
        return sorted(int(p.name) for p in self._folder(name).iterdir() if NUMBER.fullmatch(p.name) and p.is_dir())

    def aliases(self, name: str) -> dict[str, int]:
        """Aliases of a model.

        Raises:
            ModelNotFound: there is no such model.
            ModelCorrupt: `aliases.yaml` makes no sense.
        """
        path = self._folder(name) / "aliases.yaml"
        return parse_aliases(_text(path), str(path)) if path.exists() else {}

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        if NAME.fullmatch(name) and folder.is_dir():
            return folder
        names = self.names()
        if not self._root.is_dir():
            there = "the folder does not exist"
        else:
            there = f"there are {', '.join(names)}" if names else "it is empty"
        raise ModelNotFound(
            f"no model {name!r} in repository {self._root}: {there}{did_you_mean(name, names)}", model=name
        )


def read_version(folder: Path, name: str, version: str) -> ModelVersion:
    """Read and check the folder of one version.

    Raises:
        ModelNotFound: it holds no model.
        ModelCorrupt: as for `FolderRepository.resolve`.
    """
    try:
        return _read(folder, name, version)
    except (ModelCorrupt, ModelNotFound) as error:
        error.model, error.version = name, version
        raise
    except OSError as error:
        raise ModelCorrupt(
            f"model {name} version {version} cannot be read: {error}", model=name, version=version
        ) from error


def _read(folder: Path, name: str, version: str) -> ModelVersion:
    path = folder / MODEL_FILE
    if not path.is_file():
        raise _no_model(folder)
    refuse_content(path)
    stated = _manifest(folder)
    digest = sha256_of(path)
    if stated is not None:
        _check_digests(folder, stated, digest)
    content = read_onnx(path)
    external = [_confined(folder, location) for location in sorted(content.external)]
    if stated is not None:
        _check_promise(folder, stated, content)
    manifest = stated or _derived(digest, content.signature)
    size_bytes = path.stat().st_size + sum(file.stat().st_size for file in external)
    return ModelVersion(
        name=name,
        version=version,
        sha256=digest,
        path=str(path),
        signature=content.signature,
        size_bytes=size_bytes,
        manifest=manifest,
    )


def _no_model(folder: Path) -> ModelNotFound | ModelCorrupt:
    """Why a folder without `model.onnx` is no model."""
    files = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    for file in files:
        why = REFUSED.get(Path(file).suffix.lower())
        if why is not None:
            return ModelCorrupt(f"{folder / file} is refused: {why}")
    there = f"only {', '.join(files[:10])}" if files else "nothing"
    return ModelNotFound(f"{folder} holds no {MODEL_FILE}, {there}")


def _manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST
    return parse_manifest(_text(path), str(path)) if path.exists() else None


def _text(path: Path) -> str:
    """A small UTF-8 file."""
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelCorrupt(f"{path} is larger than 1 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelCorrupt(f"{path} is not UTF-8: {error}") from error


def _derived(digest: str, signature: Signature) -> Manifest:
    """The manifest of a model that came without one."""
    return Manifest(
        files={MODEL_FILE: digest},
        inputs=tuple(_tensor(spec) for spec in signature.inputs),
        outputs=tuple(_tensor(spec) for spec in signature.outputs),
        source="derived from the file",
    )


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor(name=spec.name, dtype=spec.dtype, shape=spec.shape)


def _check_digests(folder: Path, manifest: Manifest, digest: str) -> None:
    """Every file that the manifest lists is there and is the one that was listed."""
    if MODEL_FILE not in manifest.files:
        raise ModelCorrupt(f"{folder / MANIFEST} lists no sha256 of {MODEL_FILE}")
    for name, promised in manifest.files.items():
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise ModelCorrupt(f"{path} is listed in {MANIFEST} but not there")
        found = digest if name == MODEL_FILE else sha256_of(path)
        if found != promised:
            raise ModelCorrupt(
                f"{path} has sha256 {found}, but {MANIFEST} promises {promised}: it was changed or damaged"
                " after it was published"
            )


def _check_promise(folder: Path, manifest: Manifest, content: OnnxFile) -> None:
    """The model pulls in only files under digest, and has the signature that was declared."""
    unlisted = sorted(location for location in content.external if str(Path(location)) not in manifest.files)
    if unlisted:
        raise ModelCorrupt(f"{folder / MANIFEST} lists no sha256 of {', '.join(unlisted)}, which the model loads")
    declared = manifest.signature()
    if declared is not None and declared != content.signature:
        raise ModelCorrupt(
            f"{folder / MANIFEST} declares {_described(declared)}, but {MODEL_FILE} has {_described(content.signature)}"
        )


def _described(signature: Signature) -> str:
    def side(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in specs)

    return f"{side(signature.inputs)} -> {side(signature.outputs)}"


def _confined(folder: Path, location: str) -> Path:
    """The file that external data names, if it is a plain file of this folder: no links of either kind."""
    refused = f"{folder / MODEL_FILE} names {location!r} as external data, which is refused: "
    if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelCorrupt(refused + "it must be a relative path inside the model's folder")
    path = folder
    for part in Path(location).parts:
        path /= part
        if path.is_symlink():
            raise ModelCorrupt(refused + f"{path} is a symbolic link")
    try:
        status = path.stat()
    except OSError as error:
        raise ModelCorrupt(refused + f"it cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelCorrupt(refused + "it is not a file")
    if status.st_nlink > 1:
        raise ModelCorrupt(refused + "it is a hard link to a file that may lie elsewhere")
    return path
