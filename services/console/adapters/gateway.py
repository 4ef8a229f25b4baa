"""Sends playground prompts to the gateway with the person's API key."""

import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from services.console.domain.playground import Answer

TIMEOUT: Final = httpx.Timeout(120.0, connect=5.0)
LONGEST_ANSWER: Final = 200_000
"""Characters of an answer after which reading stops."""


class GatewayClient:
    """Client of the gateway's OpenAI API.

    Args:
        url: Base URL of the gateway.
        ca: CA certificate of the gateway; None for the system's CAs.
        transport: Replaces the network in tests.
    """

    def __init__(self, url: str, ca: Path | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        verify = True if ca is None else ssl.create_default_context(cafile=ca)
        self._client = httpx.AsyncClient(timeout=TIMEOUT, verify=verify, trust_env=False, transport=transport)

    async def ask(self, key: str, model: str, version: int, prompt: str, max_tokens: int) -> Answer:
        """Return a version's answer to a prompt; an error becomes the answer's `problem`."""
        body = {
            "model": f"{model}@v{version}",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent = Sent()
        try:
            async with self._client.stream(
                "POST",
                f"{self._url}/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {key}"},
                extensions={"trace": sent.note},
            ) as response:
                return await _read(response, version, sent)
        except (httpx.HTTPError, ValueError) as error:
            return Answer(version=version, problem=f"The gateway does not answer ({type(error).__name__}).")

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self._client.aclose()


class Sent:
    """Time when a request's headers were sent, so that connecting does not count as latency."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    async def note(self, event: str, _info: Mapping[str, Any]) -> None:
        """Set the time when the request headers are sent; an httpx trace callback."""
        if event.endswith("send_request_headers.started"):
            self.at = time.perf_counter()


async def _read(response: httpx.Response, version: int, sent: Sent) -> Answer:
    if response.status_code != 200:
        await response.aread()
        return Answer(version=version, problem=f"{response.status_code}: {_message(response)}")
    text, fingerprint = "", ""
    first: float | None = None
    usage: dict[str, Any] = {}
    async for chunk in _chunks(response):
        if "error" in chunk:
            return Answer(version=version, text=text, problem=str(chunk["error"])[:500])
        usage, fingerprint = chunk.get("usage") or usage, chunk.get("system_fingerprint") or fingerprint
        for choice in chunk.get("choices") or []:
            piece = (choice.get("delta") or {}).get("content") or ""
            first = first if first is not None or not piece else time.perf_counter()
            text += piece
        if len(text) > LONGEST_ANSWER:
            break
    return Answer(
        version=version,
        text=text,
        fingerprint=fingerprint,
        ttft_ms=None if first is None else round((first - sent.at) * 1000, 1),
        e2e_ms=round((time.perf_counter() - sent.at) * 1000, 1),
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
    )


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return "the gateway gives no reason"
