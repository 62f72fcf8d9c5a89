"""The key that personal values are hashed with: from `STREAMSERVE_PII_KEY`, or the file of `drift.pii_key_file`."""

from __future__ import annotations

from collections.abc import Mapping

from streamserve.config.drift_settings import DriftSettings
from streamserve.config.secret_files import read_secret
from streamserve.errors import ConfigError, Problem

VARIABLE = "STREAMSERVE_PII_KEY"
PATH = "drift.pii_key_file"
HINT = f"set {PATH}, or the variable {VARIABLE}, to a secret that stays the same: openssl rand -hex 32"


def needs_key(drift: DriftSettings) -> bool:
    """Whether anything is to be hashed."""
    return "hash" in drift.pii.values()


def has_key(drift: DriftSettings, environ: Mapping[str, str]) -> bool:
    """Whether the configuration says where the secret is."""
    return bool(drift.pii_key_file or environ.get(VARIABLE))


def pii_key(drift: DriftSettings, environ: Mapping[str, str]) -> bytes:
    """The secret; the file wins over the variable. Empty when nothing is hashed.

    Raises:
        ConfigError: there is none, or its file cannot be read.
    """
    if not needs_key(drift):
        return b""
    if drift.pii_key_file:
        return read_secret(drift.pii_key_file, PATH).encode()
    secret = environ.get(VARIABLE, "")
    if not secret:
        raise ConfigError([Problem(path="drift.pii", message="asks for hashes, but there is no key", hint=HINT)])
    return secret.encode()
