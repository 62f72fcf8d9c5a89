"""Secrets from files: the value of every `*_file` key.

Whoever needs a secret reads it here at the moment of use; settings carry only the file's name, so that no
dump, log or error can show it.
"""

from __future__ import annotations

from pathlib import Path

from streamserve.errors import ConfigError, Problem

MAX_SECRET_BYTES = 1 << 16


def read_secret(file: str, key: str) -> str:
    """The secret in `file`, without the one newline that editors leave at the end.

    Args:
        file: its path.
        key: the configuration key that names it, for the message.

    Raises:
        ConfigError: it cannot be read, is empty, too large or no text.
    """
    path = Path(file)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise _problem(key, f"cannot read the file {file}: {(error.strerror or 'error').lower()}") from error
    if len(raw) > MAX_SECRET_BYTES:
        raise _problem(key, f"the file {file} is larger than {MAX_SECRET_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _problem(key, f"the file {file} is not UTF-8 text") from error
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise _problem(key, f"the file {file} is empty")
    return secret


def _problem(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(path=key, message=message)])
