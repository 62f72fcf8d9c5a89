"""Reading a version: its folder is checked, file by file, before any runtime sees it.

The order matters: kind of file, permission (torch archives are code), digests, then content. A version's
files are its own: a regular file whose real path lies in the folder; external data, whose name a stranger's
model chooses, must be no link of either kind. (A model file may be a hard link, which is how package
installers write; its digest says what it is.)

A check and the load that follows are two readings of a file: whoever can write to the repository while a
worker starts is trusted.
"""

from __future__ import annotations

import stat
from pathlib import Path

from streamserve.errors import ModelCorrupt, ModelNotFound
from streamserve.ports import Signature, TensorSpec
from streamserve.registry.formats import REFUSED, RUNTIMES, TORCH_IS_CODE, check_archive, refuse_content
from streamserve.registry.model import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    ModelVersion,
    Tensor,
    parse_manifest,
    sha256_of,
)
from streamserve.registry.onnx_file import ModelContent, read_onnx
from streamserve.registry.ort_file import read_ort


def read_version(folder: Path, name: str, version: str, *, custom_operators: bool = False) -> ModelVersion:
    """Read and check the folder of one version.

    Args:
        folder: holds exactly one model file.
        name: the model it is a version of.
        version: its number.
        custom_operators: it may need operators that ONNX Runtime lacks, because a library of them is loaded.

    Raises:
        ModelNotFound: it holds no model.
        ModelCorrupt: it is not what it promises, or of a kind that is not loaded.
    """
    try:
        return _read(folder, name, version, custom_operators=custom_operators)
    except (ModelCorrupt, ModelNotFound) as error:
        error.model, error.version = name, version
        raise
    except OSError as error:
        raise ModelCorrupt(
            f"model {name} version {version} cannot be read: {error}", model=name, version=version
        ) from error


def model_file(folder: Path) -> Path:
    """The model file of a folder.

    Raises:
        ModelNotFound: there is none.
        ModelCorrupt: there are two, or only what is never loaded.
    """
    there = [name for name in RUNTIMES if (folder / name).exists() or (folder / name).is_symlink()]
    if len(there) == 1:
        return folder / there[0]
    if there:
        raise ModelCorrupt(f"{folder} holds {' and '.join(there)}: a version is one model, so keep one of them")
    files = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    for file in files:
        why = REFUSED.get(Path(file).suffix.lower())
        if why is not None:
            raise ModelCorrupt(f"{folder / file} is refused: {why}")
    found = f"only {', '.join(files[:10])}" if files else "nothing"
    raise ModelNotFound(f"{folder} holds no {', '.join(RUNTIMES)}: {found}")


def read_manifest(folder: Path) -> Manifest | None:
    """What `model.yaml` of a folder says, if there is one. Raises: ModelCorrupt."""
    path = folder / MANIFEST
    if not path.exists() and not path.is_symlink():
        return None
    own_file(folder, MANIFEST)
    return parse_manifest(small_text(path), str(path))


def read_content(path: Path) -> ModelContent:
    """What a model file in ONNX or the ORT format says. Raises: ModelCorrupt, OSError."""
    return read_ort(path) if path.suffix == ".ort" else read_onnx(path)


def own_file(folder: Path, name: str) -> Path:
    """A regular file whose real path lies in the folder. Raises: ModelCorrupt."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelCorrupt(f"{path} is a link to outside its folder: copy the file there (`model push` does)")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ModelCorrupt(f"{path} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise ModelCorrupt(f"{path} is not a regular file")
    return path


def external_file(model: Path, location: str) -> Path:
    """The file that external data names, if it is a plain file beside the model: no links of either kind.

    Raises:
        ModelCorrupt: it is not.
    """
    refused = f"{model} names {location!r} as external data, which is refused: "
    if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelCorrupt(refused + "it must be a relative path inside the model's folder")
    path = model.parent
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


def small_text(path: Path) -> str:
    """A UTF-8 file of at most 1 MiB. Raises: ModelCorrupt, OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelCorrupt(f"{path} is larger than 1 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelCorrupt(f"{path} is not UTF-8: {error}") from error


def tensors(specs: tuple[TensorSpec, ...]) -> tuple[Tensor, ...]:
    """One side of a signature as `model.yaml` writes it."""
    return tuple(Tensor(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in specs)


def _read(folder: Path, name: str, version: str, *, custom_operators: bool) -> ModelVersion:
    path = own_file(folder, model_file(folder).name)
    stated = read_manifest(folder)
    if RUNTIMES[path.name] == "torch":
        manifest, digest, signature = _read_torch(path, stated)
        size_bytes = path.stat().st_size
    else:
        manifest, digest, signature, size_bytes = _read_onnx(path, stated, custom_operators=custom_operators)
    return ModelVersion(
        name=name,
        version=version,
        sha256=digest,
        path=str(path),
        signature=signature,
        size_bytes=size_bytes,
        manifest=manifest,
    )


def _read_torch(path: Path, stated: Manifest | None) -> tuple[Manifest, str, Signature]:
    """A torch archive: trusted, pinned, declared, and then by its table of contents what its name says."""
    where = path.with_name(MANIFEST)
    if stated is None or not stated.trusted:
        raise ModelCorrupt(
            f"{path} is refused: {TORCH_IS_CODE}; if you trust who made it, `model push NAME SOURCE --trust`, or"
            " export it to ONNX"
        )
    digest = _checked_digests(path, stated)
    refuse_content(path)
    check_archive(path)
    signature = stated.signature()
    if signature is None:
        raise ModelCorrupt(f"{where} declares no inputs and outputs, and a torch archive is not opened to look")
    if stated.runtime != "torch":
        raise ModelCorrupt(f"{where} says runtime: {stated.runtime}, but {path.name} is for torch")
    return stated, digest, signature


def _read_onnx(path: Path, stated: Manifest | None, *, custom_operators: bool) -> tuple[Manifest, str, Signature, int]:
    """A model in ONNX or the ORT format: manifest, digest, signature, size in bytes."""
    refuse_content(path)
    digest = sha256_of(path) if stated is None else _checked_digests(path, stated)
    content = read_content(path)
    external = [external_file(path, location) for location in sorted(content.external)]
    _check_operators(path, content, allowed=custom_operators)
    if stated is not None:
        _check_promise(path, stated, content)
    manifest = stated or Manifest(
        files={path.name: digest},
        inputs=tensors(content.signature.inputs),
        outputs=tensors(content.signature.outputs),
        source="derived from the file",
    )
    return manifest, digest, content.signature, path.stat().st_size + sum(file.stat().st_size for file in external)


def _checked_digests(model: Path, manifest: Manifest) -> str:
    """Every file that the manifest lists is there and is the one that was listed. Returns: the model's digest."""
    where = model.with_name(MANIFEST)
    if model.name not in manifest.files:
        raise ModelCorrupt(f"{where} lists no sha256 of {model.name}")
    for name, promised in manifest.files.items():
        path = model.parent / name
        if not path.exists():
            raise ModelCorrupt(f"{path} is listed in {MANIFEST} but not there")
        found = sha256_of(own_file(model.parent, name))
        if found != promised:
            raise ModelCorrupt(
                f"{path} has sha256 {found}, but {MANIFEST} promises {promised}: it was changed or damaged"
                " after it was published"
            )
    return manifest.files[model.name]


def _check_operators(path: Path, content: ModelContent, *, allowed: bool) -> None:
    """No operator runs native code that was not asked for."""
    if ("com.microsoft", "EPContext") in content.operators:
        raise ModelCorrupt(
            f"{path} is refused: its operator EPContext holds, or names a file of, native code compiled for one"
            " device; publish the model that it was made from"
        )
    if content.custom and not allowed:
        names = ", ".join(f"{domain}::{name}" for domain, name in sorted(content.custom)[:5])
        raise ModelCorrupt(
            f"{path} is refused: it needs custom operators ({names}), which are native code; list their library"
            " with its sha256 in engine.custom_ops of streamserve.yaml"
        )


def _check_promise(path: Path, manifest: Manifest, content: ModelContent) -> None:
    """The model pulls in only files under digest, and has the signature that was declared."""
    where = path.with_name(MANIFEST)
    unlisted = sorted(location for location in content.external if str(Path(location)) not in manifest.files)
    if unlisted:
        raise ModelCorrupt(f"{where} lists no sha256 of {', '.join(unlisted)}, which the model loads")
    if manifest.runtime != "onnx":
        raise ModelCorrupt(f"{where} says runtime: {manifest.runtime}, but {path.name} is for onnx")
    declared = manifest.signature()
    if declared is not None and declared != content.signature:
        raise ModelCorrupt(
            f"{where} declares {_described(declared)}, but {path.name} has {_described(content.signature)}"
        )


def _described(signature: Signature) -> str:
    def side(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in specs)

    return f"{side(signature.inputs)} -> {side(signature.outputs)}"
