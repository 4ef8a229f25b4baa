"""Access of commands to the gateway: its address, the presented key, and parsing of answers."""

import json
from typing import Any

import httpx

from clients.cli.connection import StackAddress
from clients.cli.errors import CommandError, Exit
from decisions.access.api_keys import parse_key

CONNECT_S = 5.0
ANSWER_S = 120.0


def client_options(stack: StackAddress) -> dict[str, Any]:
    """Return the options of an httpx client for the gateway of a stack.

    Raises:
        CommandError: its address is not known, or the key or the authority's certificate cannot be read.
    """
    if stack.gateway_url is None:
        raise CommandError("the address of the gateway is not known: set SLIPWAY_GATEWAY_URL", Exit.UNREACHABLE)
    return {
        "base_url": stack.gateway_url,
        "headers": {"authorization": f"Bearer {read_key(stack)}"},
        "timeout": httpx.Timeout(ANSWER_S, connect=CONNECT_S),
        "verify": stack.gateway_trust(),
        "trust_env": False,
    }


def read_key(stack: StackAddress) -> str:
    """Return the API key in the key file of a stack.

    Raises:
        CommandError: No file is named, or it cannot be read, or it holds no API key.
    """
    if stack.gateway_key is None:
        raise CommandError(
            "the gateway needs a key: set SLIPWAY_GATEWAY_KEY to a file with one "
            "(`slipway keys issue NAME --output FILE`)"
        )
    try:
        text = stack.gateway_key.read_text().strip()
    except (OSError, ValueError) as error:
        raise CommandError(f"the key for the gateway in {stack.gateway_key} cannot be read: {error}") from error
    if parse_key(text) is None:
        raise CommandError(f"{stack.gateway_key} holds no key for the gateway: write one into it, as it was issued")
    return text


def no_answer(stack: StackAddress, error: httpx.TransportError) -> CommandError:
    """Return the error of a gateway that does not answer."""
    message = f"the gateway at {stack.gateway_url} does not answer ({error!r}); see `slipway ps`"
    return CommandError(message, Exit.UNREACHABLE)


def describe_refusal(response: httpx.Response) -> str:
    """Return a sentence about a refused request, after its body was read."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:300]
    return f"the gateway refused the request ({response.status_code}): {message}"


def chunk_in(line: str) -> dict[str, Any] | None:
    """Return the chunk in a line of a streamed answer; None without a chunk."""
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return None
    chunk: dict[str, Any] = json.loads(data)
    return chunk


def text_in(chunk: dict[str, Any]) -> str:
    """Return the text of a chunk.

    Raises:
        CommandError: The chunk reports an interrupted answer.
    """
    if "error" in chunk:
        raise CommandError(f"the answer was interrupted: {chunk['error'].get('message', chunk['error'])}")
    return "".join(choice.get("delta", {}).get("content") or "" for choice in chunk.get("choices", []))
