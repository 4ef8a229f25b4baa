"""`slipway ask`: send a chat request through the gateway and print the streamed answer."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer

from clients.cli.api_key import read_key
from clients.cli.connection import find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, is_terminal, show_json

CONNECT_S = 5.0


def ask(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model, or MODEL@vN for one version of it.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The prompt.")],
    *,
    max_tokens: Annotated[int, typer.Option(help="Maximum length of the answer, in tokens.")] = 96,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy decoding.")] = 0.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a prompt to a model over the OpenAI API and print the streamed answer."""
    stack = find_stack(state)
    url = stack.gateway_url
    if url is None:
        raise CommandError("the address of the gateway is not known: set SLIPWAY_GATEWAY_URL", Exit.UNREACHABLE)
    trusted = stack.gateway_trust()
    headers = {"authorization": f"Bearer {read_key(stack)}"}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        with (
            httpx.Client(timeout=httpx.Timeout(120.0, connect=CONNECT_S), verify=trusted, trust_env=False) as client,
            client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise CommandError(_explain(response))
            _print_answer(response, as_json=as_json)
    except httpx.TransportError as error:
        raise CommandError(
            f"the gateway at {url} does not answer ({error!r}); see `slipway ps`", Exit.UNREACHABLE
        ) from error


def _explain(response: httpx.Response) -> str:
    response.read()
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:300]
    return f"the gateway refused the request ({response.status_code}): {message}"


def _print_answer(response: httpx.Response, *, as_json: bool) -> None:
    parts: list[str] = []
    last: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    for chunk in _chunks(response):
        if "error" in chunk:
            raise CommandError(f"the answer was interrupted: {chunk['error'].get('message', chunk['error'])}")
        last = chunk
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", []):
            piece = choice.get("delta", {}).get("content") or ""
            parts.append(piece)
            if not as_json:
                print(piece, end="", flush=True)
    fingerprint, version = last.get("system_fingerprint"), response.headers.get("x-slipway-version")
    if as_json:
        show_json({"text": "".join(parts), "system_fingerprint": fingerprint, "version": version, "usage": usage})
        return
    print()
    if is_terminal():
        from rich.console import Console

        Console().print(f"{fingerprint}", style="dim", highlight=False)
    else:
        print(f"[{fingerprint}]")


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)
