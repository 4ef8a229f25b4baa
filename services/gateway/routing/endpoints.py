"""Health of endpoints: checks with own requests, overload, and servers that stopped responding."""

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
"""Seconds between two health requests to an endpoint."""
QUESTIONS: Final = 2
"""Consecutive unanswered health requests that stall an endpoint: if this process hung, it may miss one answer."""
UNUSED_S: Final = 600.0
"""Seconds without a routed target after which a stalled endpoint is no longer checked."""
Change = Literal["ejected", "returned"]
"""Label of the metric: an endpoint stopped taking requests to a target, or takes them again."""
IsLive = Callable[[str, float], Awaitable[bool | None]]
"""Returns whether an endpoint's server answers within a number of seconds; None if it is silent."""
LOOK_EVERY_S: Final = 60.0


class EndpointChecks:
    """Checks endpoints with a request for one token, and records when each target last sent output."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._last_delta_s: dict[tuple[str, str], float] = {}

    def note_delta(self, target: Target, endpoint: str, at_s: float) -> None:
        """Record that a target sent a piece of any answer at `at_s` (monotonic)."""
        remember(self._last_delta_s, (str(target), endpoint), at_s)

    def is_busy(self, target: Target, endpoint: str, silent_s: float) -> bool:
        """Return whether a target sent output of other answers in the second half of one stream's silence.

        Only the second half counts, because a dying engine's streams end at different moments.
        """
        last_s = self._last_delta_s.get((str(target), endpoint))
        return last_s is not None and self._clock.monotonic() - last_s < silent_s / 2

    async def serves(self, served: ServedTarget, endpoint: str, kind: str) -> bool | None:
        """Return whether an endpoint answers a request for one token or embedding; None if it is silent.

        A refusal by the engine counts as an answer: the model may lack this task.
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
        """The endpoints of the attempt's target."""

    def leave(self) -> None:
        """Abort the attempt if nothing of the answer has arrived and another endpoint takes requests."""


class Stalls:
    """Polls the servers of endpoints with requests in flight, with a health request that needs no engine.

    Callers' requests cannot delay its answer. Silence may be the network's, so an endpoint is stalled only if another
    endpoint of the same target answers.

    Args:
        is_live: sends the health request.
        limit_s: seconds of silence that stall an endpoint; 0: never.
        monotonic: returns monotonic seconds.
        pause: sleeps for a number of seconds.
        count: counts stalls and returns of endpoints.
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
        """By stalled endpoint: when it was last a candidate for a request."""
        self._watches: dict[str, asyncio.Task[None]] = {}

    def is_stalled(self, endpoint: str) -> bool:
        """Return whether an endpoint is stalled; also records that it was a candidate for a request."""
        if endpoint not in self._stalled:
            return False
        self._stalled[endpoint] = self._monotonic()
        return True

    @property
    def stalled(self) -> Collection[str]:
        """Return the stalled endpoints."""
        return self._stalled.keys()

    def begin(self, endpoint: str, attempt: Waiting) -> None:
        """Poll the endpoint's server during an attempt that other endpoints could take as well."""
        if self._limit_s > 0:
            self._waiting.setdefault(endpoint, set()).add(attempt)
            if endpoint not in self._watches:
                self._watches[endpoint] = asyncio.ensure_future(self._watch(endpoint))

    def end(self, endpoint: str, attempt: Waiting) -> None:
        """Remove an ended attempt."""
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
        """Poll an endpoint while it has attempts or is stalled."""
        try:
            await self._ask(endpoint)
        except Exception:  # noqa: BLE001 - the next attempt starts polling again
            structlog.get_logger().exception("an endpoint is not watched any more", endpoint=endpoint)
        finally:  # before any await, so that a new attempt starts polling
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
        """Return whether another endpoint of the waiting attempts' targets answers."""
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
    """Close connections to endpoints without a route, until cancelled.

    An endpoint must be without a route in two checks, because a request routed just before may not have begun.
    """
    tables, before = tuple(tables), set[str]()
    while True:
        named = {address for table in tables for route in table.all() for address in endpoints_of(route)}
        await engine.keep_only(named | before)
        before = named
        await pause(LOOK_EVERY_S)


def endpoints_of(route: Route) -> Iterator[str]:
    """Yield the endpoints of a route's targets: active, canary, shadow, judged, previous."""
    canary = route.canary.served if route.canary is not None else None
    judged = route.judged.served if route.judged is not None else None
    for served in (route.active, canary, route.shadowed, judged, route.previous):
        if served is not None:
            yield from served.endpoints
