"""`slipway ask`: send a chat request through the gateway and print the streamed answer."""

from typing import Annotated, Any

import httpx
import typer

from clients.cli.connection import find_stack
from clients.cli.gateway import chunk_in, client_options, describe_refusal, no_answer, text_in
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, show_json


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
            httpx.Client(**client_options(stack)) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise CommandError(describe_refusal(response))
            _print_answer(response, as_json=as_json)
    except httpx.TransportError as error:
        raise no_answer(stack, error) from error


def _print_answer(response: httpx.Response, *, as_json: bool) -> None:
    parts: list[str] = []
    last: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    for chunk in filter(None, map(chunk_in, response.iter_lines())):
        piece = text_in(chunk)
        last = chunk
        usage = chunk.get("usage") or usage
        parts.append(piece)
        if not as_json:
            print(piece, end="", flush=True)
    fingerprint, version = last.get("system_fingerprint"), response.headers.get("x-slipway-version")
    if as_json:
        show_json({"text": "".join(parts), "system_fingerprint": fingerprint, "version": version, "usage": usage})
        return
    print(f"\n[{fingerprint}]")
