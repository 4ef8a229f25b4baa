"""The state of endpoints beyond answers: serves a target, overloaded, or silent."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import Final, Literal, Protocol

import structlog

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Target
from services.gateway.domain.balancing import remember
from services.gateway.domain.records import REJECTED, read_failure, read_record
from services.gateway.ports import Engine, Pause
from services.gateway.routing.tables import RouteTable
from shared.errors import SlipwayError
from shared.runtime.clock import Clock
from shared.serving.openai_stream import ApiRequest

_REQUEST_ID: Final = "endpoint-check"
_SILENT: Final = frozenset({"no_first_token", "deadline_exceeded"})
_LIMIT_S: Final = 10.0
_PROMPT: Final[dict[str, object]] = {"prompt": "Hello", "max_tokens": 1, "temperature": 0.0}
POLL_S: Final = 0.5
"""Time between two questions to an endpoint, in seconds."""
QUESTIONS: Final = 2
"""Questions in a row without an answer: a process that stood still itself may miss one answer."""
UNUSED_S: Final = 600.0
"""A stalled endpoint that no request could have gone to for so long is asked no more."""
Change = Literal["ejected", "returned"]
"""What is counted of an endpoint: it takes no requests to a target from now on, or takes them again."""
IsLive = Callable[[str, float], Awaitable[bool | None]]
"""Returns whether an endpoint's server is there, within a number of seconds; None if it is silent."""
LOOK_EVERY_S: Final = 60.0


class EndpointChecks:
    """Asks endpoints for one token, and remembers when each target sent a piece of any answer."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._last_delta_s: dict[tuple[str, str], float] = {}

    def note_delta(self, target: Target, endpoint: str, at_s: float) -> None:
        """Record the time, monotonic, at which a target sent a piece of any answer."""
        remember(self._last_delta_s, (str(target), endpoint), at_s)

    def is_busy(self, target: Target, endpoint: str, silent_s: float) -> bool:
        """Return whether a target sent pieces of other answers in the second half of the silence of one stream.

        Only the second half counts: the streams of an engine that dies do not all end at the same moment.
        """
        last_s = self._last_delta_s.get((str(target), endpoint))
        return last_s is not None and self._clock.monotonic() - last_s < silent_s / 2

    async def serves(self, served: ServedTarget, endpoint: str, kind: str) -> bool | None:
        """Return whether an endpoint serves a target, by a request for a token or an embedding; None if it is silent.

        A refusal by the engine counts as served: the model may lack only this task.
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


class Waiting(Protocol):
    """An attempt of a request at an endpoint."""

    @property
    def endpoints(self) -> Collection[str]:
        """The endpoints of the target that the attempt is for."""

    def leave(self) -> None:
        """Leave the endpoint if nothing of the answer has arrived and another endpoint may take the request."""


class Stalls:
    """Asks the endpoints that have requests whether their server answers, with a request that needs no engine.

    No request of a caller can keep it from answering: it computes nothing. Its silence alone could be that of the
    network, so another endpoint must have answered.

    Args:
        is_live: asks an endpoint.
        limit_s: silence after which an endpoint is stalled; 0: none ever is.
        monotonic: a clock.
        pause: waits.
        count: counts a change of an endpoint.
    """

    def __init__(
        self,
        is_live: IsLive,
        limit_s: float,
        *,
        monotonic: Callable[[], float],
        count: Callable[[str, Change], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._is_live = is_live
        self._limit_s = limit_s
        self._monotonic = monotonic
        self._pause = pause
        self._count = count
        self._waiting: dict[str, set[Waiting]] = {}
        self._stalled: dict[str, float] = {}
        """When a request could last have gone to each stalled endpoint."""
        self._watches: dict[str, asyncio.Task[None]] = {}

    def is_stalled(self, endpoint: str) -> bool:
        """Return whether an endpoint gets no requests now."""
        if endpoint not in self._stalled:
            return False
        self._stalled[endpoint] = self._monotonic()
        return True

    @property
    def stalled(self) -> Collection[str]:
        """Return the endpoints that get no requests now."""
        return self._stalled.keys()

    def begin(self, endpoint: str, attempt: Waiting) -> None:
        """Watch an endpoint from now on, for an attempt that other endpoints could take as well."""
        if self._limit_s > 0:
            self._waiting.setdefault(endpoint, set()).add(attempt)
            if endpoint not in self._watches:
                self._watches[endpoint] = asyncio.ensure_future(self._watch(endpoint))

    def end(self, endpoint: str, attempt: Waiting) -> None:
        """Note that an attempt at an endpoint has ended."""
        attempts = self._waiting.get(endpoint)
        if attempts is not None:
            attempts.discard(attempt)
            if not attempts:
                del self._waiting[endpoint]

    def _is_used(self, endpoint: str) -> bool:
        if endpoint in self._waiting:
            return True
        return endpoint in self._stalled and self._monotonic() - self._stalled[endpoint] < UNUSED_S

    async def _watch(self, endpoint: str) -> None:
        """Ask an endpoint again and again, while it has requests or is stalled."""
        try:
            await self._ask(endpoint)
        except Exception:  # noqa: BLE001 - requests go on; the next one begins anew
            structlog.get_logger().exception("an endpoint is not watched any more", endpoint=endpoint)
        finally:  # at once: an attempt that begins now is watched anew
            self._stalled.pop(endpoint, None)
            self._watches.pop(endpoint, None)

    async def _ask(self, endpoint: str) -> None:
        silent = 0
        await self._pause(POLL_S)
        while self._is_used(endpoint):
            answer = await self._is_live(endpoint, self._limit_s / QUESTIONS)
            silent = silent + 1 if answer is None else 0
            if answer and self._stalled.pop(endpoint, None) is not None:
                self._count(endpoint, "returned")
                structlog.get_logger().info("a stalled endpoint answers again", endpoint=endpoint)
            if silent >= QUESTIONS and endpoint not in self._stalled and await self._others_answer(endpoint):
                self._stall(endpoint)
            await self._pause(POLL_S)

    async def _others_answer(self, endpoint: str) -> bool:
        """Return whether another endpoint with the same targets answers."""
        attempts = self._waiting.get(endpoint, ())
        others = sorted({other for attempt in attempts for other in attempt.endpoints} - {endpoint})
        answers = await asyncio.gather(*(self._is_live(other, self._limit_s / QUESTIONS) for other in others))
        return any(answers)

    def _stall(self, endpoint: str) -> None:
        self._stalled[endpoint] = self._monotonic()
        self._count(endpoint, "ejected")
        structlog.get_logger().warning(
            "an endpoint is ejected: its server answers nothing, and another one does",
            endpoint=endpoint,
            silent_s=self._limit_s,
        )
        for attempt in list(self._waiting.get(endpoint, ())):
            attempt.leave()


async def forget_endpoints(engine: Engine, tables: Iterable[RouteTable], pause: Pause) -> None:
    """Close connections to endpoints that no route names, until cancelled.

    It takes two checks without a route, because a request that was routed just before may not have begun.
    """
    tables, before = tuple(tables), set[str]()
    while True:
        named = {address for table in tables for route in table.all() for address in endpoints_of(route)}
        await engine.keep_only(named | before)
        before = named
        await pause(LOOK_EVERY_S)


def endpoints_of(route: Route) -> Iterator[str]:
    """Yield the endpoints of all versions on a route: active, canary, shadow, judged, and previous (for a rollback)."""
    canary = route.canary.served if route.canary is not None else None
    judged = route.judged.served if route.judged is not None else None
    for served in (route.active, canary, route.shadowed, judged, route.previous):
        if served is not None:
            yield from served.endpoints
