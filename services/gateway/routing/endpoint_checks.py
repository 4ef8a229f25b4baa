"""What a process knows of endpoints beyond its callers' answers: whether one serves a target, or has too much to do."""

import asyncio
import json
from typing import Final

from contracts.routes import ServedTarget
from contracts.vocabulary import Target
from services.gateway.domain.records import REJECTED, read_failure, read_record
from services.gateway.ports import Engine
from shared.errors import SlipwayError
from shared.runtime.clock import Clock
from shared.serving.openai_stream import ApiRequest

_REQUEST_ID: Final = "endpoint-check"
_SILENT: Final = frozenset({"no_first_token", "deadline_exceeded"})
_MOST_TARGETS: Final = 1_000
_LIMIT_S: Final = 10.0


class EndpointChecks:
    """Asks endpoints for one token, and remembers when each target sent a piece of any answer."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._last_delta_s: dict[tuple[str, str], float] = {}

    def note_delta(self, target: Target, endpoint: str, at_s: float) -> None:
        """Record the time, monotonic, at which a target sent a piece of any answer."""
        key = (str(target), endpoint)
        self._last_delta_s.pop(key, None)
        if len(self._last_delta_s) >= _MOST_TARGETS:
            del self._last_delta_s[next(iter(self._last_delta_s))]
        self._last_delta_s[key] = at_s

    def is_busy(self, target: Target, endpoint: str, silent_s: float) -> bool:
        """Return whether a target sent pieces of other answers in the second half of the silence of one stream.

        Only the second half counts: the streams of an engine that dies do not all end at the same moment.
        """
        last_s = self._last_delta_s.get((str(target), endpoint))
        return last_s is not None and self._clock.monotonic() - last_s < silent_s / 2

    async def serves(self, served: ServedTarget, endpoint: str, kind: str) -> bool | None:
        """Return whether an endpoint serves a target, asked for one token, or an embedding; None if it is silent.

        What the engine refuses it has read: a model without this task serves others.
        """
        model = served.target.model
        path, asked = ("embeddings", {"input": "Hello"}) if kind == "embeddings" else ("completions", _PROMPT)
        body = json.dumps({"model": model, **asked}).encode()
        request = ApiRequest("POST", f"/v1/{path}", body, _LIMIT_S, _REQUEST_ID, model)
        try:
            async with asyncio.timeout(_LIMIT_S):
                failure = await self._find_failure(endpoint, served.target, request)
        except TimeoutError:
            return None
        return None if failure in _SILENT else failure is None or failure in REJECTED

    async def _find_failure(self, endpoint: str, target: Target, request: ApiRequest) -> str | None:
        stream = self._engine.send(endpoint, target, request)
        try:
            async for piece in stream:
                failure = read_failure(piece.status, read_record(piece.record), piece.body)
                if failure is not None:
                    return failure.kind
        except SlipwayError as error:
            return error.code
        finally:
            await stream.aclose()
        return None


_PROMPT: Final[dict[str, object]] = {"prompt": "Hello", "max_tokens": 1, "temperature": 0.0}
