"""Answers of a stack while its servers are killed."""

import ssl

import httpx

WITHOUT_FILES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Plain HTTP needs none; the usual one reads all authorities for each of very many requests."""


def answers(stack, model: str, timeout_s: float = 10) -> str | None:
    """Ask over the OpenAI API; return the version that answered, or None."""
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}/v1/chat/completions"
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
    try:
        response = httpx.post(
            url, json=body, headers=stack.headers, timeout=timeout_s, trust_env=False, verify=WITHOUT_FILES
        )
    except httpx.TransportError:
        return None
    return response.headers["x-slipway-version"] if response.status_code == 200 else None
