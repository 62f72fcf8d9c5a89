"""The dashboard's files, read once from the package: a fixed list by name, so that no path leads elsewhere."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

CONTENT_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}
"""What is served; files with another ending are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file.

    Attributes:
        body: its bytes.
        packed: the same under gzip, where that is smaller.
        content_type: with the character set.
        tag: changes with the content.
    """

    body: bytes
    packed: bytes | None
    content_type: str
    tag: str


def load_assets() -> Mapping[str, Asset]:
    """All files of the dashboard by their path below it, such as `index.html` and `vendor/uplot.js`."""
    return dict(_walk(files("streamserve.sidecar") / "dashboard", ""))


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Asset]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
            continue
        content_type = CONTENT_TYPES.get(entry.name[entry.name.rfind(".") :] if "." in entry.name else "")
        if content_type is not None:
            yield prefix + entry.name, _asset(entry.read_bytes(), content_type)


def _asset(body: bytes, content_type: str) -> Asset:
    packed = gzip.compress(body, 9, mtime=0)
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return Asset(body=body, packed=packed if len(packed) < len(body) else None, content_type=content_type, tag=tag)
