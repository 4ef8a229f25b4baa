"""Balances this process's requests over a target's endpoints, by outstanding tokens and ejections."""

import asyncio
import contextlib
import functools
import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog

from contracts.api_usage import MOST_ENDPOINTS, EndpointUse
from contracts.routes import ServedTarget
from contracts.vocabulary import Target
from services.gateway.api.measurement import AcceptedRequest
from services.gateway.domain import routing
from services.gateway.domain.balancing import (
    FIRST_S,
    RESTARTED_S,
    UNASKED_S,
    Absence,
    Ejection,
    Grace,
    assess_failure,
    choose_endpoint,
    count_outstanding,
    is_loaded_nowhere,
    remember,
)
from services.gateway.domain.records import AnswerFailed
from services.gateway.routing.endpoints import Change, Stalls
from shared.runtime.clock import Clock

Check = Callable[[ServedTarget, str, str], Awaitable[bool | None]]
"""Returns whether an endpoint serves a target, by a request of a kind; None if it is silent."""
_Key = tuple[str, str]
"""An endpoint and a target: each target's engine at an endpoint fails separately."""


class Balancer:
    """Chooses among the endpoints of a target, and ejects endpoints that do not serve it.

    A check with the gateway's own request readmits an ejected endpoint; it starts when due and a request for the
    target arrives. A target's only endpoint is never ejected. The balancer also records since when servers report a
    target as not loaded.

    Args:
        clock: provides monotonic seconds.
        check: asks an endpoint for one token.
        count: counts ejections and returns of endpoints.
        stalls: the endpoints with silent servers.
    """

    def __init__(self, clock: Clock, check: Check, count: Callable[[str, Change], None], stalls: Stalls) -> None:
        self.stalls = stalls
        self._clock = clock
        self._check = check
        self._count = count
        self._outstanding: dict[str, int] = {}
        self._ejections: dict[_Key, Ejection] = {}
        self._absences: dict[_Key, Absence] = {}
        self._away_s: dict[str, float] = {}
        self._graces: dict[_Key, Grace] = {}
        self._checked_s: dict[_Key, float] = {}
        self._checks: dict[_Key, asyncio.Task[None]] = {}

    def choose(self, served: ServedTarget, key: str, kind: str) -> str:
        """Return the endpoint for a request; `key` spreads requests over equally loaded endpoints."""
        if len(served.endpoints) == 1:
            return served.endpoints[0]
        return self._choose(served, routing.order_endpoints(served, key), kind)

    def choose_other(self, served: ServedTarget, key: str, kind: str, failed: str) -> str | None:
        """Return another endpoint than `failed` for a request; None if there is none."""
        others = [endpoint for endpoint in routing.order_endpoints(served, key) if endpoint != failed]
        return self._choose(served, others, kind) if others else None

    def _choose(self, served: ServedTarget, endpoints: Sequence[str], kind: str) -> str:
        ejections: dict[str, Ejection] = {}
        if self._ejections:
            name, now_s = str(served.target), self._clock.monotonic()
            for endpoint in endpoints:
                ejection = self._ejections.get((endpoint, name))
                if ejection is not None:
                    ejections[endpoint] = ejection
                    if ejection.check_s <= now_s:
                        self._start_check(served, endpoint, kind)
        if self.stalls.stalled:
            stalled = [endpoint for endpoint in endpoints if self.stalls.is_stalled(endpoint)]
            if len(stalled) < len(endpoints):
                endpoints = [endpoint for endpoint in endpoints if endpoint not in stalled]
        return choose_endpoint(endpoints, self._outstanding, ejections)

    def is_ejected(self, served: ServedTarget, endpoint: str) -> bool:
        """Return whether an endpoint is ejected for a target, or stalled."""
        return (endpoint, str(served.target)) in self._ejections or self.stalls.is_stalled(endpoint)

    def is_loaded_nowhere(self, served: ServedTarget) -> bool:
        """Return whether no endpoint of a target was usable for `UNLOADED_S` (`balancing.is_loaded_nowhere`)."""
        keys = {endpoint: (endpoint, str(served.target)) for endpoint in served.endpoints}
        absences = {endpoint: self._absences[key] for endpoint, key in keys.items() if key in self._absences}
        ejections = {endpoint: self._ejections[key] for endpoint, key in keys.items() if key in self._ejections}
        return is_loaded_nowhere(served.endpoints, absences, ejections, self._clock.monotonic())

    def has_other(self, served: ServedTarget, endpoint: str) -> bool:
        """Return whether another endpoint of a target takes requests now."""
        return any(other != endpoint and not self.is_ejected(served, other) for other in served.endpoints)

    def begin(self, endpoint: str, accepted: AcceptedRequest) -> "Load":
        """Return the load of a new attempt at an endpoint; always call `Load.end`."""
        served = accepted.choice.served
        ejection = self._ejections.get((endpoint, str(served.target))) if self._ejections else None
        return Load(self, endpoint, accepted, ejection)

    def add(self, endpoint: str, tokens: int) -> None:
        """Add to the outstanding tokens of an endpoint; `tokens` may be negative."""
        left = self._outstanding.get(endpoint, 0) + tokens
        if left:
            self._outstanding[endpoint] = left
        else:
            self._outstanding.pop(endpoint, None)

    def report(self) -> dict[str, EndpointUse]:
        """Return load and ejections by endpoint, for at most the `MOST_ENDPOINTS` with the most load."""
        ejected = Counter(endpoint for endpoint, _ in self._ejections)
        known = {*self._outstanding, *ejected, *self.stalls.stalled}
        most = heapq.nlargest(MOST_ENDPOINTS, known, key=lambda endpoint: self._outstanding.get(endpoint, 0))
        return {
            endpoint: EndpointUse(
                outstanding_tokens=max(0, self._outstanding.get(endpoint, 0)),
                ejected=ejected[endpoint],
                stalled=endpoint in self.stalls.stalled,
            )
            for endpoint in most
        }

    def note_failure(self, served: ServedTarget, endpoint: str, kind: str, failure: AnswerFailed) -> None:
        """Eject an endpoint that fails to serve a target; check it if the failure is ambiguous."""
        finding, key = assess_failure(failure), (endpoint, str(served.target))
        if failure.is_not_loaded:
            now_s = self._clock.monotonic()
            absence = Absence.note(self._absences.get(key), now_s, self._grace_of(key, now_s))
            remember(self._absences, key, absence)
        elif failure.kind == "endpoint_unreachable":
            self._interrupt(key)
            remember(self._away_s, endpoint, self._clock.monotonic())
        else:  # other failures show that it is loaded
            self._absences.pop(key, None)
        if len(served.endpoints) == 1:
            return
        if finding == "away":
            self._eject(key, failure.reason)
        elif finding == "doubtful" and key not in self._ejections and self._may_check(key):
            self._start_check(served, endpoint, kind)

    def _grace_of(self, key: _Key, now_s: float) -> Grace | None:
        """Return the grace period of a target if its server was unreachable just before; else None."""
        self._interrupt(key)
        away_s = self._away_s.get(key[0])
        if away_s is None or now_s - away_s >= UNASKED_S:
            return None
        grace = self._graces.get(key, Grace(now_s + RESTARTED_S))
        remember(self._graces, key, grace)
        return grace

    @property
    def awaits_loads(self) -> bool:
        """Return whether any target is in its grace period after a restart of its server."""
        now_s = self._clock.monotonic()
        return any(absence.since_s > now_s for absence in self._absences.values())

    def note_given_up(self, endpoint: str, target: Target) -> None:
        """End a target's grace period: server-manager gave up loading it at the endpoint."""
        key, now_s = (endpoint, str(target)), self._clock.monotonic()
        absence = self._absences.get(key)
        if absence is not None and absence.since_s > now_s:
            self._absences[key] = Absence(now_s, absence.asked_s)

    def _interrupt(self, key: _Key) -> None:
        """Reset the steady time (`Grace.answers_s`) of a target that does not answer."""
        if key in self._graces:
            self._graces[key] = Grace(self._graces[key].until_s)

    def note_token(self, served: ServedTarget, endpoint: str, ejection: Ejection) -> None:
        """Readmit an ejected endpoint that generated a token for a request (all endpoints were ejected)."""
        key = (endpoint, str(served.target))
        if self._ejections.get(key) is ejection:
            self._return(key)

    def note_answer(self, served: ServedTarget, endpoint: str) -> None:
        """Record that an endpoint began to answer a request: the target is loaded."""
        key = (endpoint, str(served.target))
        self._absences.pop(key, None)
        grace = self._graces.pop(key, None)
        grace = grace.note_answer(self._clock.monotonic()) if grace is not None else None
        if grace is not None:
            self._graces[key] = grace

    def _eject(self, key: _Key, reason: str) -> None:
        if key in self._ejections:
            return
        remember(self._ejections, key, Ejection.begin(self._clock.monotonic()))
        self._count(key[0], "ejected")
        structlog.get_logger().warning("an endpoint is ejected", endpoint=key[0], target=key[1], reason=reason)

    def _return(self, key: _Key) -> None:
        ejection = self._ejections.pop(key, None)
        if ejection is None:
            return
        self._absences.pop(key, None)
        self._count(key[0], "returned")
        seconds = round(self._clock.monotonic() - ejection.since_s, 3)
        structlog.get_logger().info("an endpoint takes requests again", endpoint=key[0], target=key[1], after_s=seconds)

    def _may_check(self, key: _Key) -> bool:
        """Return whether the last check is `FIRST_S` ago, so that callers' failures cannot cause load."""
        now_s, checked_s = self._clock.monotonic(), self._checked_s.get(key)
        if checked_s is not None and now_s - checked_s < FIRST_S:
            return False
        remember(self._checked_s, key, now_s)
        return True

    def _start_check(self, served: ServedTarget, endpoint: str, kind: str) -> None:
        """Check an endpoint in the background, unless a check runs."""
        key = (endpoint, str(served.target))
        if key in self._checks:
            return
        task = self._checks[key] = asyncio.ensure_future(self._run_check(served, endpoint, kind))
        task.add_done_callback(functools.partial(self._end_check, key))

    async def _run_check(self, served: ServedTarget, endpoint: str, kind: str) -> None:
        key = (endpoint, str(served.target))
        before = self._ejections.get(key)
        serves = await self._check(served, endpoint, kind)
        if self._ejections.get(key) is not before:
            return  # ejected or readmitted meanwhile
        if before is None:
            if serves is False:  # a silent one may be overloaded
                self._eject(key, "It fails a request of one token.")
        elif serves:
            self._return(key)
        else:
            self._ejections[key] = before.extend(self._clock.monotonic())

    def _end_check(self, key: _Key, task: asyncio.Task[None]) -> None:
        del self._checks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger().error("the check of an endpoint failed", endpoint=key[0], exc_info=error)


class Load:
    """The load of one attempt on its endpoint; always call `end` (idempotent)."""

    def __init__(self, balancer: Balancer, endpoint: str, accepted: AcceptedRequest, ejection: Ejection | None) -> None:
        self._balancer = balancer
        self._endpoint = endpoint
        self._accepted = accepted
        self._ejection = ejection
        self._limit: asyncio.Timeout | None = None
        self.has_left = False
        """Whether the attempt left an endpoint that is stalled."""
        self._left = count_outstanding(accepted.prompt_tokens, accepted.answer_tokens, 0)
        balancer.add(endpoint, self._left)
        if len(self.endpoints) > 1:
            balancer.stalls.begin(endpoint, self)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints of the attempt's target."""
        return self._accepted.choice.served.endpoints

    @contextlib.contextmanager
    def leaving(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Let `leave` expire `limit` at once, until the first part of the answer."""
        self._limit = limit
        try:
            yield
        finally:
            self._limit = None

    def leave(self) -> None:
        """Abort the attempt at a stalled endpoint, if nothing has arrived and another endpoint takes requests."""
        if self._limit is not None and self._balancer.has_other(self._accepted.choice.served, self._endpoint):
            self.has_left = True
            if not self._limit.expired():
                self._limit.reschedule(0.0)

    def note_tokens(self, generated: int) -> None:
        """Update the outstanding tokens after `generated` tokens of the answer."""
        left = count_outstanding(self._accepted.prompt_tokens, self._accepted.answer_tokens, generated)
        self._balancer.add(self._endpoint, left - self._left)
        self._left = left
        if self._ejection is not None:
            self._balancer.note_token(self._accepted.choice.served, self._endpoint, self._ejection)
            self._ejection = None

    def note_answer(self) -> None:
        """Record that the endpoint began to answer."""
        self._balancer.note_answer(self._accepted.choice.served, self._endpoint)

    def note_failure(self, failure: AnswerFailed) -> None:
        """Report the attempt's failure to the balancer, which may eject or check the endpoint."""
        accepted = self._accepted
        self._balancer.note_failure(accepted.choice.served, self._endpoint, accepted.parsed.kind, failure)

    def end(self) -> None:
        """End the attempt, and remove its outstanding tokens."""
        self._balancer.add(self._endpoint, -self._left)
        self._left = 0
        self._balancer.stalls.end(self._endpoint, self)
