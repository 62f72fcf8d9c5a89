"""What a repository hands to an engine, without a repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamserve.ports import Signature

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Files:
    path: str
    signature: Signature
    name: str = "m"
    version: str = "1"
    sha256: str = ""


def model_files(path: Path | str, signature: Signature | None = None) -> Files:
    """A version of model `m` with this file."""
    return Files(path=str(path), signature=signature or Signature(inputs=(), outputs=()))
