"""The formats of model files: which are served, which are refused, and what a file's first bytes must be.

ONNX and the ORT format are data. A torch archive (`torch.export`, TorchScript) is code: its loaders run what
is in it, so it is looked at by its table of contents alone, and only after it was trusted (`version`).
Pickles, and whatever may hold one without saying so, are never read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from streamserve.errors import ModelCorrupt

RUNTIMES: Final[dict[str, Literal["onnx", "torch"]]] = {
    "model.onnx": "onnx",
    "model.ort": "onnx",
    "model.pt2": "torch",
    "model.ts": "torch",
}
"""Name of a version's model file -> the runtime it is for. A version holds exactly one of these."""

_PICKLE: Final = "a pickle runs code when it is loaded, so it is never read; export the model to ONNX"
TORCH_IS_CODE: Final = "a torch archive may carry pickles and compiled libraries, so it counts as code"
REFUSED: Final = {
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".pt": _PICKLE,
    ".pth": _PICKLE,
    ".ckpt": _PICKLE,
}
"""Suffix -> why such a model is never loaded, trusted or not."""

_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"ZF")
"""gzip, bzip2, xz, lz4, zstd, and joblib's own zlib: models of none of the formats begin so, joblib dumps do."""
MAX_EXPANSION: Final = 4
"""An archive's content is at most so many times its size: torch stores weights as they are."""


def refuse_content(path: Path) -> None:
    """Look at the first bytes of a model file for what it must not be, and for what it must be.

    Args:
        path: a file whose suffix is that of its format.

    Raises:
        ModelCorrupt: it is something else, with what it is taken for.
    """
    with path.open("rb") as file:
        head = file.read(64)
    archive = head.startswith(b"PK\x03\x04")
    if not head:
        raise ModelCorrupt(f"{path} is empty")
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        raise ModelCorrupt(f"{path} is a pickle, whatever its name: {_PICKLE}")
    if head.startswith(_COMPRESSED):
        raise ModelCorrupt(f"{path} is compressed, as a joblib dump is: {_PICKLE}")
    if head.startswith(b"version https://git-lfs"):
        raise ModelCorrupt(f"{path} is a Git LFS pointer, not the model: run git lfs pull")
    if path.suffix in {".pt2", ".ts"}:
        if not archive:
            raise ModelCorrupt(f"{path} is no torch archive: it does not begin as a zip file")
        return
    if archive:
        raise ModelCorrupt(f"{path} is a zip archive (a torch file?), not ONNX: {TORCH_IS_CODE}; export it to ONNX")
    if path.suffix == ".ort" and head[4:8] != b"ORTM":
        raise ModelCorrupt(f"{path} is not in the ORT format: it lacks the mark ORTM")
    if path.suffix == ".onnx" and head[4:8] == b"ORTM":
        raise ModelCorrupt(f"{path} is in the ORT format, not ONNX: name it model.ort")


def check_archive(path: Path) -> None:
    """Hold a torch archive's table of contents against its suffix. Nothing in it is unpacked.

    Raises:
        ModelCorrupt: it is no archive of `torch.export` or TorchScript (a plain `torch.save` is not), or would
            grow beyond bounds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelCorrupt(f"{path} is truncated or no torch archive: {error}") from error
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > MAX_EXPANSION * size + (64 << 20):
        raise ModelCorrupt(f"{path} would unpack from {size:,} to {unpacked:,} bytes: it is refused as a zip bomb")
    names = [entry.filename for entry in entries]
    writer, is_one = ("torch.export", _is_export) if path.suffix == ".pt2" else ("torch.jit", _is_torchscript)
    if not is_one(names):
        raise ModelCorrupt(
            f"{path} is truncated, or no archive of {writer}.save (a file of torch.save is a pickle): {_PICKLE}"
        )


def _is_export(names: Iterable[str]) -> bool:
    """`<name>/archive_format` since PyTorch 2.8; before, the program's JSON at the top."""
    return any(name == "serialized_exported_program.json" or name.endswith("archive_format") for name in names)


def _is_torchscript(names: Iterable[str]) -> bool:
    """`<name>/code/...` and `<name>/constants.pkl`; a file of `torch.save` has neither."""
    parts = [name.split("/") for name in names]
    return any(p[1:2] == ["code"] for p in parts) and any(p[1:] == ["constants.pkl"] for p in parts)
