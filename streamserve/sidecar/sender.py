"""Posting to a webhook: one attempt, with a deadline, and what its outcome means."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

import aiohttp

from streamserve.config.drift_settings import WebhookSettings
from streamserve.errors import ConfigError
from streamserve.sidecar.webhooks import JSON_TYPE, Request

Outcome = Literal["sent", "refused", "failed"]
REFUSED = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.GONE,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Answers after which the same request has no better chance."""
MAX_TOKEN_BYTES = 16_384


class Sender:
    """Posts requests to one webhook; an async context manager.

    Args:
        webhook: where to, and how long an attempt may take.
    """

    def __init__(self, webhook: WebhookSettings) -> None:
        self._webhook = webhook
        self._session: aiohttp.ClientSession | None = None

    @property
    def place(self) -> str:
        """The webhook as it may stand in a log: no password, no path, no query."""
        parts = urlsplit(self._webhook.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._webhook.timeout_s)
        self._session = aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": "streamserve"})
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, request: Request) -> tuple[Outcome, str]:
        """One attempt. Returns: what became of it, and why."""
        if self._session is None:
            raise RuntimeError("the sender is not open")
        headers = {"Content-Type": JSON_TYPE, "Idempotency-Key": request.idempotency_key}
        try:
            headers |= self._authorization()
            async with self._session.post(
                self._webhook.url, data=request.body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except TimeoutError:
            return "failed", f"no answer within {self._webhook.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ConfigError, ValueError) as error:
            return "failed", f"{type(error).__name__}: {error}"
        if status // 100 == 2:
            return "sent", ""
        return ("refused" if status in REFUSED else "failed"), f"HTTP {status}"

    def _authorization(self) -> dict[str, str]:
        """Read anew for every attempt: tokens are rotated."""
        if self._webhook.token_file is None:
            return {}
        with Path(self._webhook.token_file).open(encoding="utf-8") as file:
            token = file.read(MAX_TOKEN_BYTES).strip()
        return {"Authorization": f"Bearer {token}"}
