"""A version of a model as a value: what `model.yaml` says, and which version an alias means.

Nothing here touches a runtime; the only I/O is reading a file's digest. The folder layout is the repository's
business.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from streamserve.errors import ModelCorrupt, ModelNotFound
from streamserve.ports import Signature, TensorSpec

MANIFEST: Final = "model.yaml"
MAX_MANIFEST_BYTES: Final = 1 << 20
_T = TypeVar("_T")
LATEST: Final = "latest"
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,126}[a-z0-9])?")
NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output in `model.yaml`."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of `model.yaml`. Unknown keys are left alone: a newer release may have written them.

    Attributes:
        files: file name in the folder -> sha256, hexadecimal. Every file listed is checked on load.
        runtime: what runs it, `onnx` or `torch`.
        trusted: a torch archive, which is code, may be loaded; `model push --trust` writes it.
        inputs, outputs: the signature; -1 is a free axis.
        operators: domains of custom operators that the model needs.
        features: hash of the feature spec it was trained for.
        metrics: name -> value, as measured by whoever made it.
        created: when, ISO 8601.
        source: where it came from, free text.
    """

    files: dict[str, str] = {}
    runtime: Literal["onnx", "torch"] = "onnx"
    trusted: bool = False
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    operators: tuple[str, ...] = ()
    features: str = ""
    metrics: dict[str, float] = {}
    created: str = ""
    source: str = ""

    def signature(self) -> Signature | None:
        """The declared signature, if one is."""
        if not self.inputs and not self.outputs:
            return None
        return Signature(inputs=_specs(self.inputs), outputs=_specs(self.outputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model; fits `ports.ModelFiles`.

    Attributes:
        name, version: who it is.
        sha256: digest of the model file.
        path: the model file.
        signature: inputs and outputs by the file itself; of a torch archive, which is not opened, by `model.yaml`.
        size_bytes: of the model file and its external data.
        manifest: what `model.yaml` says, or what was derived from the file.
        runtime: what runs it.
    """

    name: str
    version: str
    sha256: str
    path: str
    signature: Signature
    size_bytes: int
    manifest: Manifest = field(repr=False)

    @property
    def runtime(self) -> Literal["onnx", "torch"]:
        return self.manifest.runtime


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a `model.yaml`.

    Args:
        text: its content, YAML 1.2, at most 1 MiB.
        where: its name in messages.

    Raises:
        ModelCorrupt: it is not YAML, or not a manifest.
    """
    manifest = parse_yaml(text, where, Manifest)
    for name, digest in manifest.files.items():
        if not name or name.startswith(("/", "~")) or ".." in Path(name).parts or "\0" in name:
            raise ModelCorrupt(f"{where}: file {name!r} is not inside the model's folder")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ModelCorrupt(f"{where}: the sha256 of {name} is not 64 hexadecimal digits")
    return manifest


def render_manifest(manifest: Manifest) -> str:
    """The text of a `model.yaml`; `parse_manifest` gives the same manifest back."""
    return _yaml_text(msgspec.to_builtins(manifest))


def parse_aliases(text: str, where: str) -> dict[str, int]:
    """Read an `aliases.yaml`: alias -> version number.

    Raises:
        ModelCorrupt: it is not YAML, or an alias could be mistaken for a version.
    """
    aliases = parse_yaml(text, where, dict[str, int])
    for alias, version in aliases.items():
        if not is_alias(alias):
            raise ModelCorrupt(f"{where}: {alias!r} cannot be an alias")
        if version < 1:
            raise ModelCorrupt(f"{where}: alias {alias} must mean a version number from 1 on")
    return aliases


def is_alias(text: str) -> bool:
    """Whether an alias may be called so: as a model may, and not to be mistaken for a version."""
    return text != LATEST and not NUMBER.fullmatch(text) and NAME.fullmatch(text) is not None


def render_aliases(aliases: Mapping[str, int]) -> str:
    """The text of an `aliases.yaml`; `parse_aliases` gives the same aliases back."""
    return _yaml_text(dict(aliases))


def pick_version(name: str, wanted: str, versions: Sequence[int], aliases: Mapping[str, int]) -> int:
    """Which version `wanted` means: `latest` is the highest number, then numbers, then aliases.

    Raises:
        ModelNotFound: none; says what is there and which is nearest.
    """
    if wanted == LATEST and versions:
        return max(versions)
    number = int(wanted) if NUMBER.fullmatch(wanted) else aliases.get(wanted)
    if number in versions and number is not None:
        return number
    if not versions:
        raise ModelNotFound(f"model {name} has no versions", model=name, version=wanted)
    there = f"versions {', '.join(map(str, sorted(versions)))}"
    if aliases:
        there += f"; aliases {', '.join(f'{alias} ({n})' for alias, n in sorted(aliases.items()))}"
    pointing = f" (alias {wanted} means {number})" if wanted in aliases else ""
    known = [LATEST, *aliases, *map(str, versions)]
    raise ModelNotFound(
        f"model {name} has no version {wanted!r}{pointing}; there are {there}{did_you_mean(wanted, known)}",
        model=name,
        version=wanted,
    )


def did_you_mean(wanted: str, known: Sequence[str]) -> str:
    """The nearest of the known names as the end of a message, or nothing."""
    near = difflib.get_close_matches(wanted, [k for k in known if k != wanted], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def sha256_of(path: Path) -> str:
    """The digest of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=t.name, dtype="str" if t.dtype == "string" else t.dtype, shape=t.shape) for t in tensors
    )


def _yaml_text(value: object) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # untyped default in ruamel
    text = io.StringIO()
    yaml.dump(value, text)
    return text.getvalue()


def parse_yaml(text: str, where: str, kind: type[_T]) -> _T:
    """YAML text as a value of a type. Raises: ModelCorrupt, naming `where`."""
    try:
        return msgspec.convert(YAML(typ="safe", pure=True).load(text), kind)
    except (YAMLError, msgspec.ValidationError, ValueError) as error:
        raise ModelCorrupt(f"{where}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ModelCorrupt(f"{where}: it nests too deep") from error
