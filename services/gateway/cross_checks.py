"""Attributes failed requests: a failure that the request alone can cause is no evidence against a target."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, cast

from contracts.routes import ServedTarget
from contracts.vocabulary import Party, Target
from decisions.attribution import ErrorKind
from decisions.shaping import GENERATING
from services.gateway.body_bans import Watch
from services.gateway.domain.failures import REJECTED, read_failure
from services.gateway.domain.records import EngineRecord, read_record
from services.gateway.ports import Engine
from shared.errors import SlipwayError
from shared.runtime.clock import Clock
from shared.serving.openai_stream import ApiRequest

PROBE_CONVERSATIONS: Final = (
    ({"role": "user", "content": "Hello"},),
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}),
    (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Gr\u00fc\u00dfe"},
    ),
)
"""Conversations that a target must answer: the first in any case, the others unless its template refuses them."""
_PROBE: Final = {"max_tokens": 1, "temperature": 0.0}
Probe = Literal["completion", "embeddings", "chat", "template"]
"""What is probed: a prompt, a text to embed, a conversation, or a chat template with all conversations."""
REQUEST_ID = "cross-check"
_NO_TIME = "no_time"
"""How a target fails a request that it takes at another time: its schemas cost too much now, or have to wait."""
_UNKNOWN = frozenset({"endpoint_unreachable", "no_first_token", "deadline_exceeded", _NO_TIME})
_SILENT = frozenset({"no_first_token", "deadline_exceeded"})
_CONSECUTIVE_FAILURES = 3
_MAX_TARGETS = 1_000
MAX_CONCURRENT = 16
"""Most failed requests that are repeated at the same time, and as many rejected ones: callers cannot add more load."""
SECONDS_PER_TOKEN = 0.05
LONGEST_S = 60.0
"""Additional time of a comparison per token before the failure, and the time limit of any comparison."""


@dataclass(frozen=True)
class FailedRequest:
    """A request that its target failed or rejected.

    Attributes:
        request: what was sent to the engine.
        kind: how it failed.
        watch: returns what follows it through an attempt at a target, as it follows the caller's own.
        tokens: tokens of the answer before the failure.
        request_kind: `chat`, `completion`, `responses` or `embeddings`.
        deaths: the targets whose engine died under it: then it is repeated nowhere. The cross-checks add theirs.
    """

    served: ServedTarget
    endpoint: str
    request: ApiRequest
    kind: ErrorKind
    watch: Callable[[ServedTarget], Watch] = field(compare=False)
    tokens: int = 0
    request_kind: str = "chat"
    deaths: list[Target] = field(default_factory=list, compare=False)

    @property
    def rejected(self) -> bool:
        """Return whether the engine reported a bad request."""
        return self.kind in REJECTED

    @property
    def probe(self) -> Probe:
        """Return the probe that shows whether the target fails others, too."""
        if self.kind.startswith("template"):
            return "template"
        return cast("Probe", self.request_kind) if self.request_kind in {"completion", "embeddings"} else "chat"


@dataclass
class _Repeat:
    """A failed request that is repeated: how far its answer must get, and how it went."""

    beyond_tokens: int
    generates: bool
    has_ended: bool = False
    is_silent: bool = False

    def note(self, record: EngineRecord) -> bool:
        """Note a part of the answer; return whether the answer got beyond the failure."""
        self.has_ended |= bool(record.finish_reasons)
        return record.output_tokens > self.beyond_tokens


@dataclass
class _ProbeResult:
    """The last result of probing one target at one endpoint; the lock is held during a probe."""

    valid_until_s: float = 0.0
    answers: bool = True
    failures: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CrossChecks:
    """Probes targets with one token of a fixed prompt, and repeats failed requests on the fallback target.

    A successful probe is valid for `kept_s`; a failure counts only after three in a row: if a target fails now and
    then, one failed probe must not attribute all bad requests of the next seconds to it. The result of a repeated
    request is used for this request only.
    """

    def __init__(self, engine: Engine, clock: Clock, *, kept_s: float = 5.0, limit_s: float = 10.0) -> None:
        self._engine = engine
        self._clock = clock
        self._kept_s = kept_s
        self._limit_s = limit_s
        self._results: dict[tuple[str, str, Probe], _ProbeResult] = {}
        # Rejected requests cost a caller nothing: they must not take the comparisons of failed ones.
        self._running = {rejected: asyncio.Semaphore(MAX_CONCURRENT) for rejected in (False, True)}
        self._last_delta_s: dict[tuple[str, str], float] = {}

    def note_delta(self, target: Target, endpoint: str, at_s: float) -> None:
        """Record the time, monotonic, at which a target sent a piece of any answer."""
        key = (str(target), endpoint)
        self._last_delta_s.pop(key, None)
        if len(self._last_delta_s) >= _MAX_TARGETS:
            del self._last_delta_s[next(iter(self._last_delta_s))]
        self._last_delta_s[key] = at_s

    def is_busy(self, target: Target, endpoint: str, silent_s: float) -> bool:
        """Return whether a target sent pieces of other answers in the second half of the silence of one stream.

        Only the second half counts: the streams of an engine that dies do not all end at the same moment.
        """
        last_s = self._last_delta_s.get((str(target), endpoint))
        return last_s is not None and self._clock.monotonic() - last_s < silent_s / 2

    async def attribute(self, failed: FailedRequest, fallback: ServedTarget | None, behind: str = "") -> Party:
        """Return who caused a failure.

        It is the target if the target also fails the probe, or if the fallback answers the same request. It is the
        caller if the fallback fails the request, too. If the fallback cannot be reached, or has no time for the
        request's schemas, the request is repeated on the target itself: if it is answered now, the request was not the
        cause. What a target rejects is not repeated there: without a fallback that shows more, it is the caller.
        Otherwise it is `infrastructure`.

        Args:
            failed: the request.
            fallback: the target that takes over from the failed one; None without one.
            behind: its endpoint that is asked.
        """
        answers = await self.answers_probe(failed.served, failed.endpoint, failed.probe)
        if answers is not True:
            return "target" if answers is False else "infrastructure"
        running = self._running[failed.rejected]
        if running.locked():  # do not wait: slow comparisons would delay all others
            return "infrastructure"
        try:
            async with running, asyncio.timeout(self.limit_s(failed)):
                return await self._compare(failed, fallback, behind)
        except TimeoutError:
            return "infrastructure"

    def limit_s(self, failed: FailedRequest) -> float:
        """Return the time limit of a comparison: longer if the answer failed late, up to `LONGEST_S`."""
        return min(LONGEST_S, self._limit_s + SECONDS_PER_TOKEN * failed.tokens)

    async def _compare(self, failed: FailedRequest, fallback: ServedTarget | None, behind: str) -> Party:
        if failed.deaths:
            return "infrastructure"
        if failed.rejected and (fallback is None or _may_reject(failed, fallback)):
            return "caller"
        answered = None if fallback is None else await self._gets_further(fallback, behind, failed)
        if failed.deaths:
            return "infrastructure"
        if answered is None and not failed.rejected:
            answered = await self._gets_further(failed.served, failed.endpoint, failed)
        if answered is None:
            return "infrastructure"
        return "target" if answered else "caller"

    async def _gets_further(self, served: ServedTarget, endpoint: str, failed: FailedRequest) -> bool | None:
        """Return whether a target completes the answer or gets beyond the failure; None if it is unreachable."""
        request = replace(failed.request, deadline_s=self.limit_s(failed))
        repeat = _Repeat(failed.tokens, generates=failed.request_kind in GENERATING)
        failure: str | None = _NO_TIME
        watch = failed.watch(served)
        watch.begin(endpoint)
        try:
            failure = await self._find_failure(endpoint, served.target, request, repeat, watch.note_piece)
            if failure == "engine_dead":
                failed.deaths.append(served.target)
                if not repeat.is_silent:
                    watch.note_death()
        finally:
            watch.end(complete=failure is None and repeat.has_ended)
        return None if failure in _UNKNOWN else failure is None

    async def _find_failure(
        self,
        endpoint: str,
        target: Target,
        request: ApiRequest,
        repeat: _Repeat | None = None,
        on_piece: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Return how a target fails a request; None if it answers it, or a repeated one gets beyond its failure."""
        stream = self._engine.send(endpoint, target, request)
        try:
            async for piece in stream:
                record = read_record(piece.record)
                failure = read_failure(piece.status, record, piece.body)
                if failure is not None:
                    return _NO_TIME if failure.is_callers and repeat is not None else failure.kind
                on_piece()
                if repeat is not None and repeat.note(record):
                    return None
        except SlipwayError as error:
            if repeat is not None:
                repeat.is_silent = "silent_s" in error.details
            return error.code
        finally:
            await stream.aclose()
        cut = repeat is not None and repeat.generates and not repeat.has_ended
        return "engine_dead" if cut else None

    async def serves(self, served: ServedTarget, endpoint: str, kind: str) -> bool | None:
        """Return whether an endpoint serves a target, asked for one token, or an embedding; None if it is silent.

        What the engine refuses it has read: a model without this task serves others.
        """
        request, *_ = _probe_requests(served, "embeddings" if kind == "embeddings" else "completion", self._limit_s)
        try:
            async with asyncio.timeout(self._limit_s):
                failure = await self._find_failure(endpoint, served.target, request)
        except TimeoutError:
            return None
        return None if failure in _SILENT else failure is None or failure in REJECTED

    async def answers_probe(self, served: ServedTarget, endpoint: str, probe: Probe = "chat") -> bool | None:
        """Return whether the target answers a probe at an endpoint; None if that is unknown."""
        key = (str(served.target), endpoint, probe)
        if key not in self._results and len(self._results) >= _MAX_TARGETS:
            self._results.clear()
        result = self._results.setdefault(key, _ProbeResult())
        try:
            async with asyncio.timeout(self._limit_s), result.lock:
                if self._clock.monotonic() < result.valid_until_s:
                    return result.answers
                answers = await self._probe(served, endpoint, probe)
        except TimeoutError:
            return None
        if answers is None:
            return None
        result.failures = 0 if answers else result.failures + 1
        if answers or result.failures >= _CONSECUTIVE_FAILURES:
            result.answers, result.valid_until_s = answers, self._clock.monotonic() + self._kept_s
            result.failures = 0
        return answers

    async def _probe(self, served: ServedTarget, endpoint: str, probe: Probe) -> bool | None:
        for number, request in enumerate(_probe_requests(served, probe, self._limit_s)):
            failure = await self._find_failure(endpoint, served.target, request)
            if failure in _UNKNOWN:
                return None
            if failure is not None and (number == 0 or failure not in REJECTED):
                return False
        return True


def _may_reject(failed: FailedRequest, fallback: ServedTarget) -> bool:
    """Return whether a target may reject what its fallback accepts: a longer context accepts longer prompts.

    A chat template knows nothing of the context: it may not.
    """
    return failed.kind != "template_refused" and fallback.context_tokens > failed.served.context_tokens


def _probe_requests(served: ServedTarget, probe: Probe, limit_s: float) -> list[ApiRequest]:
    model = served.target.model
    if probe == "completion":
        path, bodies = "/v1/completions", [{"model": model, "prompt": "Hello", **_PROBE}]
    elif probe == "embeddings":
        path, bodies = "/v1/embeddings", [{"model": model, "input": "Hello"}]
    else:
        conversations = PROBE_CONVERSATIONS if probe == "template" else PROBE_CONVERSATIONS[:1]
        path = "/v1/chat/completions"
        bodies = [{"model": model, "messages": conversation, **_PROBE} for conversation in conversations]
    return [ApiRequest("POST", path, json.dumps(body).encode(), limit_s, REQUEST_ID, model) for body in bodies]
