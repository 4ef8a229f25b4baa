"""Asks targets for a real token, over Triton's gRPC."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

from contracts.golden import GoldenPrompt
from contracts.routes import ServedTarget
from decisions.evidence.golden import GoldenReply
from shared.errors import SlipwayError
from shared.serving.channels import Channels
from shared.serving.engine_streams import stream_api
from shared.serving.inference import Deadlines, first_token
from shared.serving.openai_stream import ApiPiece, ApiRequest

T = TypeVar("T")

_REQUEST_ID: Final = "golden-prompt"
"""The request id of golden prompts in the logs of Triton and of the engine."""
_ANSWER_BYTES: Final = 65_536
"""A longer answer to a golden prompt, of 256 tokens at most, is none."""
_REMEMBERED: Final = 1024
"""Of so many targets it is known which endpoint answered last."""


class TritonProbe:
    """Proves that a target generates (implements `ports.Probe`)."""

    def __init__(self, channels: Channels, *, deadline_s: float, answer_s: float = 20.0) -> None:
        # Takes a third of a second, which no rollback should pay.
        import tritonclient.grpc  # noqa: F401 - imported before the first probe, which it would delay

        self._channels = channels
        self._deadline_s = deadline_s
        self._answer_s = answer_s
        self._answered: dict[str, str] = {}

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None when so many endpoints generate a token in time, else why the others do not."""
        asked = [asyncio.ensure_future(self._ask(endpoint, served)) for endpoint in served.endpoints]
        reasons, generating = list[str](), 0
        try:
            for done in asyncio.as_completed(asked):
                why = await done
                if why is not None:
                    reasons.append(why)
                    continue
                generating += 1
                if generating >= least:
                    return None
        finally:
            for attempt in asked:
                attempt.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return "; ".join(reasons)

    async def ask(self, served: ServedTarget, prompt: GoldenPrompt) -> GoldenReply | None:
        """Return the whole answer to a golden prompt at temperature 0; None if none came in time, or it failed.

        The endpoint that answered last is asked first. The next one is asked once it has failed, or after its part of
        the time; the first whole answer counts.
        """
        request = _golden_request(served, prompt, self._answer_s)
        last = self._answered.get(str(served.target))
        endpoints = sorted(served.endpoints, key=lambda endpoint: endpoint != last)
        part_s = self._answer_s / len(endpoints)
        gone = [asyncio.Event() for _ in endpoints]

        async def answer(number: int, endpoint: str) -> GoldenReply | None:
            try:
                if number:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(number * part_s):
                            await gone[number - 1].wait()
                reply = await self._answer(endpoint, served, request)
            finally:
                gone[number].set()
            if reply is not None:
                self._remember(served, endpoint)
            return reply

        try:
            async with asyncio.timeout(self._answer_s):
                return await _first(answer(number, endpoint) for number, endpoint in enumerate(endpoints))
        except TimeoutError:
            return None

    async def _answer(self, endpoint: str, served: ServedTarget, request: ApiRequest) -> GoldenReply | None:
        limits = Deadlines(first_token_s=self._answer_s, inter_token_s=self._answer_s)
        try:
            stream = stream_api(self._channels.get(endpoint), served.target.triton_name, request, deadlines=limits)
            async with contextlib.aclosing(stream):
                return _read_reply([piece async for piece in stream])
        except SlipwayError:
            return None

    def _remember(self, served: ServedTarget, endpoint: str) -> None:
        if len(self._answered) >= _REMEMBERED:
            self._answered.clear()
        self._answered[str(served.target)] = endpoint

    async def _ask(self, endpoint: str, served: ServedTarget) -> str | None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await first_token(self._channels.get(endpoint), served.target.triton_name, deadline_s=self._deadline_s)
        except SlipwayError as error:
            return f"{endpoint}: {error.reason}"
        except TimeoutError:
            return f"{endpoint}: no token within {self._deadline_s:g} s"
        return None


async def _first(attempts: Iterable[Coroutine[Any, Any, T | None]]) -> T | None:
    """Return the first result that is not None, and cancel the other attempts; None if all are."""
    running = [asyncio.ensure_future(attempt) for attempt in attempts]
    try:
        for done in asyncio.as_completed(running):
            if (result := await done) is not None:
                return result
    finally:
        for attempt in running:
            attempt.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return None


def _golden_request(served: ServedTarget, prompt: GoldenPrompt, limit_s: float) -> ApiRequest:
    """Return a golden prompt as a request: a user's message where the target has a chat template."""
    is_chat = served.chat_template is not None
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    asked = {"messages": [{"role": "user", "content": prompt.prompt}]} if is_chat else {"prompt": prompt.prompt}
    body = {"model": served.target.model, **asked, "max_tokens": prompt.max_tokens, "temperature": 0.0, "seed": 0}
    return ApiRequest("POST", path, json.dumps(body).encode(), limit_s, _REQUEST_ID, served.target.model)


def _read_reply(pieces: list[ApiPiece]) -> GoldenReply | None:
    """Return the answer in the parts of a body; None if it is none, or of another form."""
    status = next((piece.status for piece in pieces if piece.status is not None), None)
    body = b"".join(piece.body for piece in pieces)
    if status != 200 or len(body) > _ANSWER_BYTES or any(piece.record.get("error") for piece in pieces):
        return None
    try:
        choice: Any = json.loads(body)["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    queued = [figure for piece in pieces if isinstance(figure := piece.record.get("queue_ms"), int | float)]
    return GoldenReply("" if text is None else str(text), max(map(float, queued), default=0.0))
