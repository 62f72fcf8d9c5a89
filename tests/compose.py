"""Reads the Dockerfile and docker-compose.yml for the tests that judge them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"


def compose() -> dict[str, Any]:
    """The compose file, merge keys resolved."""
    document: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return document


def stages() -> dict[str, dict[str, list[str]]]:
    """The Dockerfile: stage -> instruction -> its arguments, a line each, continuations joined."""
    found: dict[str, dict[str, list[str]]] = {}
    stage: dict[str, list[str]] = {}
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        instruction, _, rest = " ".join(line.split()).partition(" ")
        if instruction == "FROM":
            stage = found[rest.split(" AS ")[1]] = {}
        stage.setdefault(instruction, []).append(rest)
    return found
