"""Code from files, pinned by digest: libraries of custom operators, hooks. Changed code is not run.

The digest is that of the real file, whatever links lead to it. A library is loaded by that real path: its check and the
load that follows are two readings, and whoever can write to the file in between is trusted. A hook is read once, and
the bytes that were checked are the ones that run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path as FilePath

from streamserve.config.document import Path
from streamserve.config.settings import PipelineSettings
from streamserve.config.wording import Finding
from streamserve.errors import ConfigError


def pinned_file(path: str, sha256: str) -> str:
    """The real path of a file, if its content is what was pinned.

    Args:
        path: the file.
        sha256: its digest, hexadecimal.

    Raises:
        ConfigError: it is not there, is no regular file, or is another.
    """
    pinned_bytes(path, sha256)
    return str(FilePath(path).resolve())


def pinned_bytes(path: str, sha256: str) -> bytes:
    """The content of a file, read once, if it is what was pinned.

    Args, Raises: as for `pinned_file`.
    """
    real = FilePath(path).resolve()
    try:
        if not real.is_file():
            raise ConfigError(f"{path} is {'not a file' if real.exists() else 'not there'}")
        content = real.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ConfigError(f"{path} has sha256 {found}, not {sha256}: it is another file than the one that was listed")
    return content


def pinned_findings(settings: PipelineSettings) -> Iterator[Finding]:
    """Files of code that are not what the configuration pins; asked for by lint, before anything starts."""
    hooks = settings.hooks
    files: list[tuple[Path, str, str]] = [
        (("engine", "custom_ops", n, "path"), library.path, library.sha256)
        for n, library in enumerate(settings.engine.custom_ops)
    ]
    files += [
        (("hooks", side, "path"), hook.path, hook.sha256)
        for side, hook in (("before", hooks.before), ("after", hooks.after))
        if hook is not None
    ]
    for key, path, sha256 in files:
        try:
            pinned_file(path, sha256)
        except ConfigError as error:
            yield Finding(key, str(error), "after a change that you meant: sha256sum gives the new digest")
