"""Code from files, pinned by digest: libraries of custom operators, hooks. Changed code is not run.

The digest is that of the real file, whatever links lead to it, and what is loaded is that real path. A check
and the load that follows are two readings: whoever can write to the file in between is trusted.
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
    real = FilePath(path).resolve()
    try:
        if not real.is_file():
            raise ConfigError(f"{path} is {'not a file' if real.exists() else 'not there'}")
        with real.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise ConfigError(f"{path} has sha256 {found}, not {sha256}: it is another file than the one that was listed")
    return str(real)


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
