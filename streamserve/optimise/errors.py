"""Why no new version was made, and packages that are not there."""

from __future__ import annotations

import importlib.util

from streamserve.errors import ConfigError, StreamServeError

EXTRAS = {"onnx": "optimize", "onnxruntime": "cpu", "torch": "torch"}


class NotOptimised(StreamServeError):
    """A method finds nothing to do in this model, or the result differs too much: nothing is written."""

    exit_code = 3


def need(*packages: str) -> None:
    """Raises: ConfigError, with the remedy, for the first of the packages that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: pip install 'streamserve[{EXTRAS[package]}]'")
