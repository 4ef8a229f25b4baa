"""Rehearsal traffic: requests to a model in staging, through the gateway's public API."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import httpx

from services.rollback_controller.domain.rehearsal_plan import REQUESTS_AT_ONCE
from shared.errors import Transient

PROMPTS = (
    "What does the for statement do in Python?",
    "Explain what a list is.",
    "How do I read a file?",
    "Write a short greeting.",
    "What is a function?",
)
STAGING = {"x-slipway-environment": "staging"}


class GatewayFlow:
    """The requests of a rehearsal, their durations and last failure (implements `ports.Flow`)."""

    def __init__(self, client: httpx.AsyncClient, model: str, *, rps: float, tokens: int) -> None:
        self._client = client
        # `min_tokens`: an empty answer has no time to first token.
        self.body = {"model": model, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0.0}
        self._interval_s = 1.0 / rps
        self.seconds: list[float] = []
        self.last_failure = ""

    async def send(self) -> None:
        """Send requests at a steady rate until cancelled, at most `REQUESTS_AT_ONCE` concurrently."""
        running: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while True:
                if len(running) < REQUESTS_AT_ONCE:
                    task = asyncio.create_task(self._ask(PROMPTS[number % len(PROMPTS)]))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    number += 1
                await asyncio.sleep(self._interval_s)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _ask(self, prompt: str) -> None:
        sent = monotonic()
        try:
            response = await self._client.post("/v1/completions", json={**self.body, "prompt": prompt})
        except httpx.HTTPError as error:
            self.last_failure = f"the gateway does not answer: {error!r}"
            return
        if response.is_success:
            self.seconds.append(monotonic() - sent)
        else:
            self.last_failure = f"the gateway answered {response.status_code}: {response.text[:300]}"


class GatewayTraffic:
    """Sends requests at a steady rate to a model in staging, through the gateway (implements `ports.Traffic`)."""

    def __init__(
        self, url: str, key: Path | None, authority: Path | None = None, *, rps: float, tokens: int, timeout_s: float
    ) -> None:
        self._url = url
        self._key = key
        self._authority = authority
        self._rps = rps
        self._tokens = tokens
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def flow(self, model: str) -> AsyncGenerator[GatewayFlow, None]:
        """Send requests at a steady rate during the context.

        Raises:
            Transient: The API key is not set or not readable.
        """
        async with httpx.AsyncClient(
            base_url=self._url,
            headers={**STAGING, **self._credential()},
            timeout=self._timeout_s,
            verify=True if self._authority is None else ssl.create_default_context(cafile=self._authority),
            trust_env=False,
        ) as client:
            flow = GatewayFlow(client, model, rps=self._rps, tokens=self._tokens)
            sending = asyncio.create_task(flow.send())
            try:
                yield flow
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _credential(self) -> dict[str, str]:
        """Return the header with the API key, read again for each flow, so that it can be replaced."""
        if self._key is None:
            raise Transient("endpoint_unreachable", "Rehearsals have no key: set ROLLBACK_CONTROLLER_GATEWAY_KEY.")
        try:
            return {"authorization": f"Bearer {self._key.read_text().strip()}"}
        except (OSError, ValueError) as error:
            reason = f"The key {self._key} cannot be read ({error!r}): make one with `slipway keys init`."
            raise Transient("endpoint_unreachable", reason) from error
