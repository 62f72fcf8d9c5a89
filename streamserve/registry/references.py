"""Drift references beside the model versions: `<root>/<name>/<version>/reference.json`."""

from __future__ import annotations

import os
from pathlib import Path

from streamserve.drift.reference import FILE, Reference
from streamserve.errors import ModelCorrupt, ModelNotFound
from streamserve.registry.model import NAME, NUMBER

MAX_BYTES = 64 << 20


class FolderReferences:
    """References in a folder of models.

    Args:
        root: the folder.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)

    def find(self, model: str, version: str) -> Reference | None:
        """The reference of a model version; None when there is none. Raises: ModelCorrupt."""
        path = self._path(model, version)
        try:
            return None if path is None else read_reference(path)
        except ModelCorrupt as error:
            error.model, error.version = model, version
            raise

    def write(self, reference: Reference) -> Path:
        """Put a reference beside its model version; a reader sees the old one or the new one, never a half.

        Raises:
            ModelNotFound: there is no such version.
        """
        path = self._path(reference.model, reference.version)
        if path is None or not path.parent.is_dir():
            raise ModelNotFound(
                f"{self._root} has no {reference.model} {reference.version} that a reference could stand beside",
                model=reference.model,
                version=reference.version,
            )
        fresh = path.with_name(f"{FILE}.{os.getpid()}")
        fresh.write_bytes(reference.to_json())
        fresh.replace(path)
        return path

    def _path(self, model: str, version: str) -> Path | None:
        """Where it would be; None for names that are no names (they come from the network)."""
        if not NAME.fullmatch(model) or not NUMBER.fullmatch(version):
            return None
        return self._root / model / version / FILE


def read_reference(path: Path) -> Reference | None:
    """The reference in a file; None when there is none. Raises: ModelCorrupt."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelCorrupt(f"{path} cannot be read: {error}") from error
    if len(data) > MAX_BYTES:
        raise ModelCorrupt(f"{path} is larger than {MAX_BYTES >> 20} MiB")
    return Reference.from_json(data, str(path))
