"""What the observability port answers: a path and a few headers in, a response out. No sockets here."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

import streamserve
from streamserve.telemetry.health import Health, Verdict
from streamserve.telemetry.metadata import ModelMetadata

ModelProvider = Callable[[], Sequence[ModelMetadata]]
"""Gives the versions in use, the stable one first. Called on every request, from any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Status, body and headers of an answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Routes:
    """The routes of the Open Inference Protocol that need no inference, and `/metrics`.

    Args:
        health: answers `/v2/health/*`.
        registry: scraped by `/metrics`.
        models: gives the versions in use.
    """

    def __init__(self, health: Health, registry: CollectorRegistry, models: ModelProvider) -> None:
        self._health = health
        self._registry = registry
        self._models = models

    def answer(self, path: str, accept: str, accept_encoding: str) -> Response:
        """The response to a GET of `path` (no query, still percent-encoded)."""
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["metrics"]:
                return self._metrics(accept, accept_encoding)
            case ["v2"]:
                return _json(
                    HTTPStatus.OK,
                    {"name": "streamserve", "version": streamserve.__version__, "extensions": []},
                )
            case ["v2", "health", "live"]:
                return _probe("live", self._health.live())
            case ["v2", "health", "ready"]:
                return _probe("ready", self._health.ready())
            case ["v2", "models", name]:
                return self._describe(name, None)
            case ["v2", "models", name, "versions", version]:
                return self._describe(name, version)
            case ["v2", "models", name, "ready"]:
                return self._model_ready(name, None)
            case ["v2", "models", name, "versions", version, "ready"]:
                return self._model_ready(name, version)
            case _:
                return error(HTTPStatus.NOT_FOUND, "no such path; see /v2, /v2/health/live, /metrics")

    def _describe(self, name: str, version: str | None) -> Response:
        models = [model for model in self._models() if model.name == name]
        model = next((model for model in models if version in {None, model.version}), None)
        if model is None:
            return _unknown_model(name, version)
        return _json(HTTPStatus.OK, model.document([model.version for model in models]))

    def _model_ready(self, name: str, version: str | None) -> Response:
        if not any(model.name == name and version in {None, model.version} for model in self._models()):
            return _unknown_model(name, version)
        ready = self._health.met("model", "warm")
        return _json(_status(ready), {"name": name, "ready": ready})

    def _metrics(self, accept: str, accept_encoding: str) -> Response:
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version in Accept that is none: the plainest format will do
            encode, content_type = choose_encoder("")
        body = encode(self._registry)
        headers = {"Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(accept_encoding):
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        return Response(status=HTTPStatus.OK, body=body, content_type=content_type, headers=headers)


def error(status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the protocol's form."""
    body = orjson.dumps({"error": message}) + b"\n"
    return Response(status=status, body=body, headers=headers or {})


def _json(status: HTTPStatus, document: object) -> Response:
    return Response(status=status, body=orjson.dumps(document) + b"\n")


def _probe(name: str, verdict: Verdict) -> Response:
    document: dict[str, object] = {name: verdict.ok}
    if verdict.why:
        document["why"] = list(verdict.why)
    return _json(_status(verdict.ok), document)


def _status(ok: bool) -> HTTPStatus:
    return HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE


def _unknown_model(name: str, version: str | None) -> Response:
    what = f"model {name}" if version is None else f"model {name} version {version}"
    return error(HTTPStatus.NOT_FOUND, f"{what[:200]} is not served here")
