"""Models from a URL, by `fsspec` (extra `remote`): bytes into a folder, within a limit, and nothing else.

Protocols are an allow-list: fsspec knows some that open other URLs, run commands, or import what a URL names.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from streamserve.errors import ConfigError, ModelCorrupt, ModelNotFound, RegistryError, StreamServeError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PROTOCOLS: Final = ("file", "memory", "http", "https", "s3", "gs", "az", "abfs", "hf")
MAX_FILES: Final = 1000
_HTTP: Final = ("http", "https")
_CHUNK: Final = 1 << 20


def is_url(source: str | Path) -> bool:
    """Whether a source is a URL rather than a path."""
    return isinstance(source, str) and "://" in source


def described(url: str) -> str:
    """A URL as it may be kept: without user, password and query, which hold credentials."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def download(url: str, folder: Path, *, max_bytes: int) -> Path:
    """Fetch a file, or a folder with all that is below it.

    Args:
        url: of a protocol in `PROTOCOLS`.
        folder: where to put it; exists.
        max_bytes: most bytes in all; counted as they come, whatever a server promised.

    Returns:
        The file or folder.

    Raises:
        ConfigError: fsspec, or its package for the protocol, is not installed.
        ModelNotFound: nothing is there.
        ModelCorrupt: it is too large, or has a file name that leads elsewhere.
        RegistryError: the protocol is not allowed, or the transfer failed.
    """
    shown = described(url)
    protocol = url.partition("://")[0]
    if protocol not in PROTOCOLS or "::" in url:
        raise RegistryError(f"{shown} cannot be fetched: use one of {', '.join(PROTOCOLS)}")
    try:
        filesystem, root = _filesystem(url, protocol)
        # Over HTTP a URL is a file: to ask for a folder would read the page at it, however long.
        names = filesystem.find(root) if protocol not in _HTTP and filesystem.isdir(root) else []
        target = folder / (PurePosixPath(urlsplit(url).path).name or "model")
        left = max_bytes
        for name, path in _targets(root, names, target, shown):
            left = _fetch(filesystem, name, path, left, f"{shown} is larger than {max_bytes >> 20} MiB (--max-mb)")
        return target
    except ImportError as error:
        raise _not_installed(error, protocol) from error
    except StreamServeError:
        raise
    except Exception as error:  # every protocol has its client, and every client its own exceptions
        raise _failed(error, url, shown) from error


def _filesystem(url: str, protocol: str) -> tuple[AbstractFileSystem, str]:
    """The client of a protocol, and what the URL is called there."""
    from fsspec.core import url_to_fs

    options: dict[str, object] = {}
    if protocol in _HTTP:
        from aiohttp import ClientTimeout

        options["client_kwargs"] = {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}
    filesystem, root = url_to_fs(url, **options)
    return filesystem, root


def _failed(error: Exception, url: str, shown: str) -> RegistryError:
    """A client's exception in our words. fsspec says that nothing is there for a server that does not answer, too."""
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    if isinstance(first, FileNotFoundError) or getattr(first, "status", None) == 404:
        return ModelNotFound(f"nothing is at {shown}")
    text = str(first).replace(url, shown) or type(first).__name__
    return RegistryError(f"{shown} cannot be fetched: {text}", retryable=True)


def _not_installed(error: ImportError, protocol: str) -> ConfigError:
    package = {"http": "fsspec[http]", "https": "fsspec[http]", "s3": "s3fs", "gs": "gcsfs"}.get(protocol)
    more = f", and {package} for {protocol}" if package else ""
    return ConfigError(f"models from a URL need fsspec ({error}): pip install 'streamserve[remote]'{more}")


def _targets(root: str, names: list[str], target: Path, shown: str) -> list[tuple[str, Path]]:
    """Remote name -> local path, for one file (no names) or for a folder's."""
    if not names:
        return [(root, target)]
    if len(names) > MAX_FILES:
        raise ModelCorrupt(f"{shown} holds {len(names):,} files: a model's folder has a few")
    found = []
    for name in names:
        inside = PurePosixPath(name.removeprefix(root).lstrip("/"))
        if not name.startswith(root) or ".." in inside.parts or inside.is_absolute() or "\0" in name:
            raise ModelCorrupt(f"{shown} holds {name!r}, which leads out of the folder")
        found.append((name, target / inside))
    return found


def _fetch(filesystem: AbstractFileSystem, name: str, path: Path, left: int, too_large: str) -> int:
    """Copy one file. Returns: how many bytes of the limit are left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # block_size 0 streams over HTTP, so that nothing a server says of the length is believed.
    with filesystem.open(name, "rb", block_size=0) as remote, path.open("wb") as local:
        while chunk := remote.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise ModelCorrupt(too_large)
            local.write(chunk)
    return left
